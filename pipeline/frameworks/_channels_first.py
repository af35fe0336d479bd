"""Rewrites a channels-last graph to channels first, the layout of PyTorch's kernels.

Keras on PyTorch transposes the image before every convolution and pooling, and transposes the result back. The rewrite
moves the second transpose down through the operations that follow until it cancels the next first one. Each rule
computes the same values for any input, and an operation without a rule keeps its transposes: that costs time, but is
correct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pipeline.frameworks._simplify import Graph

OPS = torch.ops.aten
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""The axes of a transpose from (N, channels, height, width) to (N, height, width, channels), and back."""

UNTAGGED = (OPS.hardsigmoid.default, OPS.hardswish.default, OPS.to.dtype, OPS._to_copy.default)
"""Elementwise operations that PyTorch does not tag as such."""
REDUCTIONS = (OPS.mean.dim, OPS.sum.dim_IntList, OPS.amax.default, OPS.amin.default)
BY_AXIS = {
    OPS.slice.Tensor: 0, OPS.softmax.int: -1, OPS.log_softmax.int: -1, OPS.repeat_interleave.self_int: None,
    OPS.index_select.default: 0, OPS.flip.default: 0,
}  # fmt: skip
"""Operations with one axis as the second argument, or the third for `repeat_interleave` → the axis if omitted."""


def rewrite(graph: Graph, node: Any) -> None:
    """Moves the transposes before `node` behind it, or cancels them; call it on every node in order."""
    if node.target == OPS.permute.default:
        _merge(graph, node)
        return
    if not any(_is_last(value) for value in node.all_input_nodes):
        return
    for rule in (_size, _pointwise, _reduction, _concatenation, _padding, _axis, _linear):
        if rule(graph, node):
            return


def _merge(graph: Graph, node: Any) -> None:
    """Merges two consecutive transposes, and removes one that does nothing."""
    value, axes = node.args[0], [axis % _rank(node) for axis in node.args[1]]
    if value.op == "call_function" and value.target == OPS.permute.default:
        value, first = value.args[0], value.args[1]
        axes = [first[axis] % _rank(node) for axis in axes]
    node.args = (value, axes)
    if axes == sorted(axes):
        graph.replace(node, value)


def _size(graph: Graph, node: Any) -> bool:
    if node.target != OPS.sym_size.int:
        return False
    node.args = (node.args[0].args[0], LAST[node.args[1]])
    return True


def _pointwise(graph: Graph, node: Any) -> bool:
    """Elementwise operations. A constant is transposed; another image gets a transpose before it."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()) and node.target not in UNTAGGED:
        return False
    if len(_shape(node)) != 4 or not all(
        value.op == "get_attr" or len(_shape(value)) in (0, 4) for value in node.all_input_nodes
    ):
        return False
    args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda value: _first(graph, node, value))
    return _replace(graph, node, args)


def _reduction(graph: Graph, node: Any) -> bool:
    if node.target not in REDUCTIONS or node.kwargs or len(node.args) < 2 or not node.args[1]:
        return False
    image, axes, *rest = node.args
    axes = [LAST[axis] for axis in axes]
    if rest and rest[0]:
        return _replace(graph, node, (image.args[0], axes, *rest))
    kept = [axis for axis in LAST if axis not in axes]
    if kept != sorted(kept):
        return False
    node.args = (image.args[0], sorted(axes), *rest)
    return True


def _concatenation(graph: Graph, node: Any) -> bool:
    if node.target != OPS.cat.default or any(len(_shape(value)) != 4 for value in node.args[0]):
        return False
    axis = LAST[node.args[1] if len(node.args) > 1 else 0]
    return _replace(graph, node, ([_first(graph, node, value) for value in node.args[0]], axis))


def _padding(graph: Graph, node: Any) -> bool:
    """Padding with a constant: amounts come in pairs, the last axis first."""
    if node.target not in (OPS.pad.default, OPS.constant_pad_nd.default) or node.kwargs:
        return False
    image, amounts, *rest = node.args
    if node.target == OPS.pad.default and rest and rest[0] != "constant":
        return False
    pairs = [(0, 0)] * 4
    for i in range(len(amounts) // 2):
        pairs[LAST[3 - i]] = amounts[2 * i], amounts[2 * i + 1]
    reordered = [amount for pair in reversed(pairs) for amount in pair]
    while len(reordered) > 4 and reordered[-2:] == [0, 0]:
        del reordered[-2:]
    return _replace(graph, node, (image.args[0], reordered, *rest))


def _axis(graph: Graph, node: Any) -> bool:
    if node.target not in BY_AXIS or node.kwargs:
        return False
    args = list(node.args)
    place = 2 if node.target == OPS.repeat_interleave.self_int else 1
    if len(args) <= place:
        args += [BY_AXIS[node.target]]
    if args[place] is None or not _is_last(args[0]):
        return False
    axes = args[place]
    args[0], args[place] = args[0].args[0], [LAST[a] for a in axes] if isinstance(axes, list) else LAST[axes]
    return _replace(graph, node, tuple(args))


def _linear(graph: Graph, node: Any) -> bool:
    """A dense layer over the channels of an image is a 1×1 convolution."""
    if node.target != OPS.linear.default or node.args[1].op != "get_attr":
        return False
    image, weight, *bias = node.args
    with graph.graph.inserting_before(node):
        kernel = graph.constant(node, graph.value(weight)[:, :, None, None])
    node.target = OPS.conv2d.default
    return _replace(graph, node, (image.args[0], kernel, *bias))


def _replace(graph: Graph, node: Any, args: tuple[Any, ...]) -> bool:
    """Gives `node`, which is channels last, arguments that make it channels first; its users get it transposed."""
    value = node.meta["val"]
    node.args = args
    node.meta = {"val": value.permute(*FIRST)}
    with graph.graph.inserting_after(node):
        last = graph.graph.call_function(OPS.permute.default, (node, LAST))
    last.meta = {"val": value}
    node.replace_all_uses_with(last, delete_user_cb=lambda user: user is not last)
    return True


def _first(graph: Graph, node: Any, value: Any) -> Any:
    """An argument of `node`, channels first."""
    if _is_last(value):
        return value.args[0]
    shape = _shape(value)
    if not shape:
        return value
    if value.op == "get_attr":
        tensor = graph.value(value)
        return graph.constant(node, tensor.reshape(*[1] * (4 - tensor.ndim), *tensor.shape).permute(*FIRST))
    with graph.graph.inserting_before(node):
        first = graph.graph.call_function(OPS.permute.default, (value, FIRST))
    first.meta = {"val": value.meta["val"].permute(*FIRST)}
    return first


def _is_last(value: Any) -> bool:
    return isinstance(value, torch.fx.Node) and value.target == OPS.permute.default and value.args[1] == LAST


def _shape(value: Any) -> list[Any]:
    found = value.meta.get("val")
    return list(found.shape) if isinstance(found, torch.Tensor) else []


def _rank(value: Any) -> int:
    return len(_shape(value))
