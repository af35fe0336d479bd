"""Simplifies a graph captured from Keras to the form of PyTorch's own models: folds constants, fuses layers.

Keras on PyTorch expresses batch normalisation as arithmetic, biases as additions, padding as a separate operation and
weights as views of stored tensors. A quantizer would quantize each of them separately, and runtimes have no kernels for
the result.
"""

from __future__ import annotations

from typing import Any

import torch

OPS = torch.ops.aten
ALIASES = {
    OPS.subtract.Tensor: OPS.sub.Tensor,
    OPS.multiply.Tensor: OPS.mul.Tensor,
    OPS.divide.Tensor: OPS.div.Tensor,
    OPS.view.default: OPS.reshape.default,
}
"""Operations that some converters do not support → equivalents that all do. A view is valid only for traced strides."""


def simplified(program: Any) -> torch.nn.Module:
    """The simplified module of a torch.export program; it computes the same up to rounding."""
    module: torch.fx.GraphModule = program.run_decompositions({}).module()
    graph = _Graph(module)
    rewrites = graph.canonicalize, graph.fold_constants, graph.merge_permutes, graph.use_flatten, graph.use_linear
    for rewrite in (*rewrites, graph.fuse_scale_or_shift, graph.fuse_padding):
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                rewrite(node)
        module.graph.eliminate_dead_code()
    graph.remove_unused_tensors()
    module.graph.lint()
    module.recompile()
    return module


class _Graph:
    """Rewrites of a graph, each applied to every node in order."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.count = 0

    def canonicalize(self, node: Any) -> None:
        """Removes dtype assertions and replaces operations by their ALIASES."""
        if node.target == OPS._assert_tensor_metadata.default:
            self.graph.erase_node(node)
        node.target = ALIASES.get(node.target, node.target)

    def fold_constants(self, node: Any) -> None:
        """Replaces an operation on constants by its result."""
        inputs = node.all_input_nodes
        if inputs and all(each.op == "get_attr" for each in inputs):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self._value)
            self._replace(node, self._constant(node, node.target(*args, **kwargs)))

    def merge_permutes(self, node: Any) -> None:
        """Merges two consecutive permutes, and removes them if they cancel out."""
        if node.target == OPS.permute.default and _is(node.args[0], OPS.permute.default):
            image, first = node.args[0].args
            axes = [first[axis] for axis in node.args[1]]
            node.args = (image, axes)
            if axes == sorted(axes):
                self._replace(node, image)

    def use_flatten(self, node: Any) -> None:
        """Replaces a reshape to (batch, …) by flatten, which the quantizer supports.

        A permute before it is dropped if height and width are 1, because then it moves no data.
        """
        if node.target != OPS.reshape.default or _rank(node) != 2 or not isinstance(node.args[1][0], torch.fx.Node):
            return
        value = node.args[0]
        if _is(value, OPS.permute.default) and list(value.args[0].meta["val"].shape)[2:] == [1, 1]:
            value = value.args[0]
        node.target, node.args = OPS.flatten.using_ints, (value, 1)

    def use_linear(self, node: Any) -> None:
        """Replaces x @ W with a constant W by a linear layer."""
        if node.target != OPS.matmul.default or node.args[1].op != "get_attr" or _rank(node.args[1]) != 2:
            return
        with self.graph.inserting_before(node):
            weight = self._constant(node, self._value(node.args[1]).t())
            linear = self.graph.call_function(OPS.linear.default, (node.args[0], weight))
        linear.meta = node.meta
        self._replace(node, linear)

    def fuse_scale_or_shift(self, node: Any) -> None:
        """Fuses a constant per channel, added to or multiplied with a layer's output, into the layer's weights.

        Applies to biases and to the three operations of batch normalisation.
        """
        if node.target not in (OPS.add.Tensor, OPS.sub.Tensor, OPS.mul.Tensor) or node.kwargs:
            return
        layer, constant = node.args
        if node.target != OPS.sub.Tensor and isinstance(layer, torch.fx.Node) and layer.op == "get_attr":
            layer, constant = constant, layer
        if not _is(layer, OPS.conv2d.default, OPS.linear.default) or len(layer.users) > 1:
            return
        weight = layer.args[1]
        if weight.op != "get_attr" or "normalize." in str(weight.target):  # the input normalisation stays a layer
            return
        channels = self._value(weight).shape[0]
        value = self._per_channel(constant, layer, channels)
        if value is None:
            return
        scale, shift = (value, 0.0) if node.target == OPS.mul.Tensor else (torch.ones(()), value)
        shift = -shift if node.target == OPS.sub.Tensor else shift
        old = layer.args[2] if len(layer.args) > 2 else None
        bias = (torch.zeros(channels) if old is None else self._value(old)) * scale + shift
        kernel = self._value(weight) * scale.reshape(-1, *[1] * (_rank(weight) - 1))
        with self.graph.inserting_before(layer):
            layer.args = (layer.args[0], self._constant(layer, kernel), self._constant(layer, bias), *layer.args[3:])
        self._replace(node, layer)

    def fuse_padding(self, node: Any) -> None:
        """Fuses symmetric zero padding into the convolution after it."""
        if node.target != OPS.conv2d.default or not _is(node.args[0], OPS.pad.default):
            return
        image, amounts, *rest = node.args[0].args
        left, right, top, bottom, *others = [*amounts, 0, 0, 0, 0][: max(4, len(amounts))]
        args = [*node.args, *[None, [1, 1], [0, 0]][len(node.args) - 2 :]]
        if rest not in ([], ["constant"], ["constant", None], ["constant", 0.0]):
            return
        if any(others) or (left, top) != (right, bottom):
            return
        args[0] = image
        args[4] = [args[4][0] + top, args[4][1] + left]
        node.args = tuple(args)

    def remove_unused_tensors(self) -> None:
        """Removes tensors that no node uses any more; otherwise every exported file would contain them."""
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        for name in {*dict(self.module.named_parameters()), *dict(self.module.named_buffers())} - used:
            path, _, leaf = name.rpartition(".")
            delattr(self.module.get_submodule(path), leaf)

    def _per_channel(self, constant: Any, layer: Any, channels: int) -> torch.Tensor | None:
        """The constant as (channels,) if it has one value per output channel of the layer, else None."""
        if not isinstance(constant, torch.fx.Node) or constant.op != "get_attr":
            return None
        value = self._value(constant)
        spatial = 2 if layer.target == OPS.conv2d.default else 0
        shape = list(value.shape)
        wanted = [channels, *[1] * spatial]
        return value.flatten() if shape in (wanted, [1, *wanted]) else None

    def _value(self, node: Any) -> torch.Tensor:
        path, _, name = str(node.target).rpartition(".")
        value: torch.Tensor = getattr(self.module.get_submodule(path), name)
        return value.detach()

    def _constant(self, node: Any, value: torch.Tensor) -> Any:
        """Inserts a node with this constant before `node`. Makes it contiguous, because ExecuTorch stores no views."""
        self.count += 1
        name = f"constant_{self.count}"
        self.module.register_buffer(name, value.clone(memory_format=torch.contiguous_format))
        with self.graph.inserting_before(node):
            constant = self.graph.get_attr(name)
        constant.meta = {"val": value}
        return constant

    def _replace(self, node: Any, other: Any) -> None:
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, torch.fx.Node) and node.target in targets


def _rank(node: Any) -> int:
    return len(node.meta["val"].shape)
