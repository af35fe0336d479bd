"""A graph that Keras left, in the form that PyTorch's own models have: constants folded, and convolutions whole.

Keras on PyTorch writes batch normalisation as arithmetic, biases as additions, padding as an operation and weights as
views of what it stores. A quantizer would quantize each of them by itself, and no runtime has kernels for them.
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
"""Names that not every converter knows, and those that all do. A view holds for the strides that were traced alone."""


def simplified(program: Any) -> torch.nn.Module:
    """The module of a torch.export program after these rewrites; it computes the same up to rounding."""
    module: torch.fx.GraphModule = program.run_decompositions({}).module()
    graph = _Graph(module)
    rewrites = graph.without_checks, graph.constants, graph.moves, graph.flattenings, graph.linears
    for rewrite in (*rewrites, graph.scales, graph.pads):
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                rewrite(node)
        module.graph.eliminate_dead_code()
    graph.forget_unused()
    module.graph.lint()
    module.recompile()
    return module


class _Graph:
    """Rewrites of one node each, over the nodes in their order."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.count = 0

    def without_checks(self, node: Any) -> None:
        """Leaves assertions of dtypes out, and uses one name for one operation."""
        if node.target == OPS._assert_tensor_metadata.default:
            self.graph.erase_node(node)
        node.target = ALIASES.get(node.target, node.target)

    def constants(self, node: Any) -> None:
        """Computes what depends on constants alone."""
        inputs = node.all_input_nodes
        if inputs and all(each.op == "get_attr" for each in inputs):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self._value)
            self._replace(node, self._constant(node, node.target(*args, **kwargs)))

    def moves(self, node: Any) -> None:
        """Axes that are moved twice are moved once, or not at all."""
        if node.target == OPS.permute.default and _is(node.args[0], OPS.permute.default):
            image, first = node.args[0].args
            axes = [first[axis] for axis in node.args[1]]
            node.args = (image, axes)
            if axes == sorted(axes):
                self._replace(node, image)

    def flattenings(self, node: Any) -> None:
        """One axis of all but the batch is PyTorch's flatten, which the quantizer knows; and of a mean over height and
        width it is as it lies: moving axes of length one changes nothing."""
        if node.target != OPS.reshape.default or _rank(node) != 2 or not isinstance(node.args[1][0], torch.fx.Node):
            return
        moved = node.args[0]
        if _is(moved, OPS.permute.default) and list(moved.args[0].meta["val"].shape)[2:] == [1, 1]:
            moved = moved.args[0]
        node.target, node.args = OPS.flatten.using_ints, (moved, 1)

    def linears(self, node: Any) -> None:
        """x @ W + b is one linear layer."""
        if node.target != OPS.matmul.default or node.args[1].op != "get_attr" or _rank(node.args[1]) != 2:
            return
        with self.graph.inserting_before(node):
            weight = self._constant(node, self._value(node.args[1]).t())
            linear = self.graph.call_function(OPS.linear.default, (node.args[0], weight))
        linear.meta = node.meta
        self._replace(node, linear)

    def scales(self, node: Any) -> None:
        """A constant a channel that is added to a layer's output, or multiplied with it, goes into the layer's own.

        A bias, and the three operations of batch normalisation.
        """
        if node.target not in (OPS.add.Tensor, OPS.sub.Tensor, OPS.mul.Tensor) or node.kwargs:
            return
        layer, constant = node.args
        if node.target != OPS.sub.Tensor and isinstance(layer, torch.fx.Node) and layer.op == "get_attr":
            layer, constant = constant, layer
        if not _is(layer, OPS.conv2d.default, OPS.linear.default) or len(layer.users) > 1:
            return
        weight = layer.args[1]
        if weight.op != "get_attr" or "normalize." in str(weight.target):  # the input contract's own layer stays
            return
        channels = self._value(weight).shape[0]
        by = self._by_channel(constant, layer, channels)
        if by is None:
            return
        scale, shift = (by, 0.0) if node.target == OPS.mul.Tensor else (torch.ones(()), by)
        shift = -shift if node.target == OPS.sub.Tensor else shift
        old = layer.args[2] if len(layer.args) > 2 else None
        bias = (torch.zeros(channels) if old is None else self._value(old)) * scale + shift
        kernel = self._value(weight) * scale.reshape(-1, *[1] * (_rank(weight) - 1))
        with self.graph.inserting_before(layer):
            layer.args = (layer.args[0], self._constant(layer, kernel), self._constant(layer, bias), *layer.args[3:])
        self._replace(node, layer)

    def pads(self, node: Any) -> None:
        """Zeros on all sides alike before a convolution are the convolution's own padding."""
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

    def forget_unused(self) -> None:
        """Removes the tensors that nothing takes any more; they would be stored in every file."""
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        for name in {*dict(self.module.named_parameters()), *dict(self.module.named_buffers())} - used:
            path, _, leaf = name.rpartition(".")
            delattr(self.module.get_submodule(path), leaf)

    def _by_channel(self, constant: Any, layer: Any, channels: int) -> torch.Tensor | None:
        """A constant as (channels,), if it is one value for each of the layer's output channels."""
        if not isinstance(constant, torch.fx.Node) or constant.op != "get_attr":
            return None
        value = self._value(constant)
        behind = 2 if layer.target == OPS.conv2d.default else 0
        shape = list(value.shape)
        wanted = [channels, *[1] * behind]
        return value.flatten() if shape in (wanted, [1, *wanted]) else None

    def _value(self, node: Any) -> torch.Tensor:
        path, _, name = str(node.target).rpartition(".")
        value: torch.Tensor = getattr(self.module.get_submodule(path), name)
        return value.detach()

    def _constant(self, node: Any, value: torch.Tensor) -> Any:
        """A node with this constant before `node`. Contiguous: ExecuTorch stores no views."""
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
