"""Simplifies a graph captured from Keras to the form of PyTorch's own models: channels first, constants folded, layers
fused.

Keras on PyTorch expresses batch normalisation as arithmetic, biases as additions, padding as a separate operation and
weights as views of stored tensors. A quantizer would quantize each of them separately, and runtimes have no kernels for
the result.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.frameworks import _channels_first

OPS = torch.ops.aten
ALIASES = {
    OPS.subtract.Tensor: OPS.sub.Tensor,
    OPS.multiply.Tensor: OPS.mul.Tensor,
    OPS.divide.Tensor: OPS.div.Tensor,
    OPS.view.default: OPS.reshape.default,
    OPS._unsafe_view.default: OPS.reshape.default,
}
"""Operations that some converters do not support → equivalents that all do. A view is valid only for traced strides."""
COPIES = (
    OPS.clone.default, OPS.contiguous.default, OPS.alias.default, OPS.detach.default, OPS.lift_fresh_copy.default,
    OPS.to.dtype, OPS.to.device, OPS.to.dtype_layout, OPS._to_copy.default,
)  # fmt: skip
"""Operations that change at most the type and the strides. Graphs with strides other than contiguous ones fail in
ExecuTorch."""


def simplified(decomposed: Any) -> torch.nn.Module:
    """The simplified module of a decomposed torch.export program; it computes the same up to rounding."""
    module: torch.fx.GraphModule = decomposed.module()
    graph = Graph(module)
    for rewrite in (
        graph.canonicalize, graph.fold_constants, graph.use_linear, graph.use_channels_first, graph.use_reshape,
        graph.merge_reshapes,
        graph.use_flatten, graph.fuse_scale_or_shift, graph.fuse_padding,
    ):  # fmt: skip
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                rewrite(node)
        module.graph.eliminate_dead_code(lambda node: node is graph.batch or node.is_impure())
    module.graph.eliminate_dead_code()
    graph.remove_unused_tensors()
    module.graph.lint()
    module.recompile()
    return module


class Graph:
    """Rewrites of a graph, each applied to every node in order."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.count = 0
        self.image = next(node for node in self.graph.nodes if node.op == "placeholder")
        with self.graph.inserting_after(self.image):
            self.batch = self.graph.call_function(OPS.sym_size.int, (self.image, 0))
        self.batch.meta = {"val": self.image.meta["val"].shape[0]}

    def canonicalize(self, node: Any) -> None:
        """Removes dtype assertions, copies and slices of everything, and replaces operations by their ALIASES."""
        if node.target == OPS._assert_tensor_metadata.default:
            self.graph.erase_node(node)
        elif _changes_nothing(node):
            self.replace(node, node.args[0])
        elif node.target == OPS.sym_size.int and node is not self.batch and self._is_batch(node.meta["val"]):
            self.replace(node, self.batch)
        node.target = ALIASES.get(node.target, node.target)

    def fold_constants(self, node: Any) -> None:
        """Replaces an operation on constants by its result."""
        inputs = node.all_input_nodes
        if inputs and all(each.op == "get_attr" for each in inputs):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self.value)
            self.replace(node, self.constant(node, node.target(*args, **kwargs)))

    def use_channels_first(self, node: Any) -> None:
        """See `_channels_first`."""
        _channels_first.rewrite(self, node)

    def use_reshape(self, node: Any) -> None:
        """Replaces a permute that only moves axes of size 1, as in squeeze-and-excite, by a reshape."""
        if node.target != OPS.permute.default or node.args[1][0] != 0:
            return
        value, axes = node.args
        sizes = shape(value)
        moved = [axis for axis in axes if sizes[axis] != 1]
        if moved == sorted(moved) and all(isinstance(size, int) for size in sizes[1:]):
            with self.graph.inserting_before(node):
                batch = self.size(value, 0)
            node.target, node.args = OPS.reshape.default, (value, [batch, *[sizes[axis] for axis in axes[1:]]])

    def merge_reshapes(self, node: Any) -> None:
        """Merges a reshape with the ones before it, and with a mean whose axes it restores."""
        if node.target != OPS.reshape.default:
            return
        value = node.args[0]
        while _is(value, OPS.reshape.default, OPS.unsqueeze.default, OPS.squeeze.dims, OPS.squeeze.dim):
            merged, value = value, value.args[0]
            node.args = (value, node.args[1])
            if not merged.users:
                self.graph.erase_node(merged)
        if _is(value, OPS.mean.dim) and len(value.args) == 2 and not value.kwargs and len(value.users) == 1:
            kept = [1 if axis in value.args[1] else size for axis, size in enumerate(shape(value.args[0]))]
            if kept == shape(node):
                value.args = (*value.args, True)
                value.meta = node.meta
                self.replace(node, value)

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
            weight = self.constant(node, self.value(node.args[1]).t())
            linear = self.graph.call_function(OPS.linear.default, (node.args[0], weight))
        linear.meta = node.meta
        self.replace(node, linear)

    def fuse_scale_or_shift(self, node: Any) -> None:
        """Fuses a constant per channel, added to or multiplied with a layer's output, into the layer's weights.

        Applies to biases, to the three operations of batch normalisation, and to Rescaling and Normalization.
        """
        if node.target not in (OPS.add.Tensor, OPS.sub.Tensor, OPS.mul.Tensor, OPS.div.Tensor) or node.kwargs:
            return
        layer, constant = node.args
        if (
            node.target in (OPS.add.Tensor, OPS.mul.Tensor)
            and isinstance(layer, torch.fx.Node)
            and layer.op == "get_attr"
        ):
            layer, constant = constant, layer
        if not _is(layer, OPS.conv2d.default, OPS.linear.default) or len(layer.users) > 1:
            return
        weight = layer.args[1]
        if weight.op != "get_attr":
            return
        channels = self.value(weight).shape[0]
        value = self._per_channel(constant, layer, channels)
        if value is None:
            return
        scale, shift = torch.ones(()), torch.zeros(())
        if node.target in (OPS.mul.Tensor, OPS.div.Tensor):
            scale = value if node.target == OPS.mul.Tensor else 1 / value
        else:
            shift = value if node.target == OPS.add.Tensor else -value
        old = layer.args[2] if len(layer.args) > 2 else None
        bias = (torch.zeros(channels) if old is None else self.value(old)) * scale + shift
        kernel = self.value(weight) * scale.reshape(-1, *[1] * (_rank(weight) - 1))
        if str(weight.target) == "normalize.weight":  # `_int8_constants` finds the input normalisation by its name
            self._set(weight, kernel)
            self._set(old, bias)
        else:
            with self.graph.inserting_before(layer):
                layer.args = (layer.args[0], self.constant(layer, kernel), self.constant(layer, bias), *layer.args[3:])
        self.replace(node, layer)

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
        """The constant as (channels,) if it has one value, or one per output channel of the layer, else None."""
        if isinstance(constant, int | float):
            return torch.full((channels,), float(constant))
        if not isinstance(constant, torch.fx.Node) or constant.op != "get_attr":
            return None
        value = self.value(constant)
        if value.ndim == 0:
            return value.expand(channels)
        spatial = 2 if layer.target == OPS.conv2d.default else 0
        shape = list(value.shape)
        wanted = [channels, *[1] * spatial]
        return value.flatten() if shape in (wanted, [1, *wanted]) else None

    def size(self, node: Any, axis: int) -> Any:
        """The size of an axis: a number, or a node if it is dynamic."""
        size = shape(node)[axis]
        if isinstance(size, int):
            return size
        if self._is_batch(size):
            return self.batch
        found = self.graph.call_function(OPS.sym_size.int, (node, axis))
        found.meta = {"val": size}
        return found

    def _is_batch(self, size: Any) -> bool:
        batch = self.batch.meta["val"]
        return isinstance(size, torch.SymInt) and isinstance(batch, torch.SymInt) and size.node.expr == batch.node.expr

    def value(self, node: Any) -> torch.Tensor:
        """The tensor behind a get_attr node."""
        path, _, name = str(node.target).rpartition(".")
        value: torch.Tensor = getattr(self.module.get_submodule(path), name)
        return value.detach()

    def _set(self, node: Any, value: torch.Tensor) -> None:
        """Changes the tensor behind a get_attr node; a copy, because programs share theirs."""
        path, _, name = str(node.target).rpartition(".")
        parameter = torch.nn.Parameter(value.clone(memory_format=torch.contiguous_format), requires_grad=False)
        setattr(self.module.get_submodule(path), name, parameter)

    def constant(self, node: Any, value: torch.Tensor) -> Any:
        """Inserts a node with this constant before `node`. Makes it contiguous, because ExecuTorch stores no views."""
        self.count += 1
        name = f"constant_{self.count}"
        self.module.register_buffer(name, value.clone(memory_format=torch.contiguous_format))
        with self.graph.inserting_before(node):
            constant = self.graph.get_attr(name)
        constant.meta = {"val": value}
        return constant

    def replace(self, node: Any, other: Any) -> None:
        """Replaces a node by another one and removes it."""
        node.replace_all_uses_with(other)
        self.graph.erase_node(node)


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, torch.fx.Node) and node.target in targets


def _changes_nothing(node: Any) -> bool:
    if node.target in COPIES:
        return bool(node.meta["val"].dtype == node.args[0].meta["val"].dtype)
    return node.target == OPS.slice.Tensor and list(map(str, shape(node))) == list(map(str, shape(node.args[0])))


def shape(node: Any) -> list[Any]:
    """The shape of a node's value; dynamic sizes are symbolic."""
    return list(node.meta["val"].shape)


def _rank(node: Any) -> int:
    return len(shape(node))
