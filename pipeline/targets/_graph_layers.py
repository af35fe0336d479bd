"""The layers of a torch.export program, for the coverage of a file that was made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import torch

from pipeline.core import Coverage, Recipe
from pipeline.targets._coverage import COMPUTED, FLOAT_INPUT, TABLE, TWO_ACTIVATIONS, UNKNOWN, Layer, total

OPS = torch.ops.aten
CONVOLUTIONS = (OPS.conv1d.default, OPS.conv2d.default, OPS.conv3d.default, OPS.convolution.default)
TRANSPOSED = (OPS.conv_transpose1d.default, OPS.conv_transpose2d.input, OPS.conv_transpose3d.input)
PADDED = (OPS.conv1d.padding, OPS.conv2d.padding, OPS.conv3d.padding)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, *PADDED, OPS.linear.default)
"""Operators whose first argument is an activation and whose second is a weight."""
KNOWN = (OPS.conv1d.default, OPS.conv2d.default, OPS.linear.default)
"""Operators that every quantizer knows."""
FACTORS = {
    OPS.matmul.default: (0, 1), OPS.mm.default: (0, 1), OPS.bmm.default: (0, 1),
    OPS.addmm.default: (1, 2), OPS.baddbmm.default: (1, 2), OPS.bilinear.default: (0, 2),
    OPS.scaled_dot_product_attention.default: (0, 1), OPS.einsum.default: (0, 1),
}  # fmt: skip
"""Products of two tensors → the places of these among the arguments."""
TABLES = (OPS.embedding.default,)
"""Operators with weights that multiply nothing; the weight is the first argument."""
RECURRENT = (OPS.gru.input, OPS.lstm.input, OPS.rnn_tanh.input, OPS.rnn_relu.input)


def named(layers: Iterable[Layer], program: Any) -> list[Layer]:
    """Layers that were found in a file, with the names they have in the model, if both have the same layers."""
    found, nodes = list(layers), list(_nodes(program))
    ours = [_multiply_adds(node) if node.target not in RECURRENT else None for node in nodes]
    if ours != [layer.multiply_adds for layer in found]:
        return found
    return [replace(layer, name=_name(node, program)) for layer, node in zip(found, nodes, strict=True)]


def coverage(quantized: Any, program: Any, recipe: Recipe, left: str = UNKNOWN) -> Coverage:
    """The coverage of a graph.

    Args:
        quantized: the quantized torch.export program with a batch size of 1.
        program: the float program that it was made from; it still has the names of the layers.
        left: why the quantizer leaves some layers in float whose operator it knows.
    """
    names = [_name(node, program) for node in _nodes(program)]
    nodes = list(_nodes(quantized))
    if len(names) != len(nodes):  # the quantizer divided or merged layers
        names = [node.name for node in nodes]
    return total(
        _layer(name, node, recipe, left)
        for name, node in zip(names, nodes, strict=True)
        if recipe.activations != "float32" or node.target not in FACTORS or _weight(node) is not None
    )


def _nodes(program: Any) -> Iterable[Any]:
    """The nodes that multiply and add, in the order of the graph."""
    known = (*LAYERS, *FACTORS, *RECURRENT, *TABLES)
    return (node for node in program.graph.nodes if node.op == "call_function" and node.target in known)


def _layer(name: str, node: Any, recipe: Recipe, left: str) -> Layer:
    operator = str(node.target).removesuffix(".default").removesuffix(".input")
    if node.target in RECURRENT:
        (sequence, *_), tensors = node.args, next(a for a in node.args[1:] if _matrices(a))
        weights = sum(prod(_shape(matrix)) for matrix in _matrices(tensors))
        return Layer(name, operator, weights, weights * prod(_shape(sequence)[:2]), UNKNOWN)
    if node.target in TABLES:
        return Layer(name, operator, prod(_shape(node.args[0])), 0, TABLE)
    weight = _weight(node)
    weights = 0 if weight is None else prod(_shape(weight))
    return Layer(name, operator, weights, _multiply_adds(node), _reason(node, weight, recipe, left))


def _reason(node: Any, weight: Any, recipe: Recipe, left: str) -> str | None:
    """Why a layer stays in float; None if it is quantized."""
    value, factor = _factors(node)
    if weight is None:
        return TWO_ACTIVATIONS if node.target in FACTORS else COMPUTED
    if not _dequantized(factor):
        return left if node.target in KNOWN else UNKNOWN
    return None if recipe.activations == "float32" or _dequantized(value) else FLOAT_INPUT


def _factors(node: Any) -> tuple[Any, Any]:
    first, second = FACTORS.get(node.target, (0, 1))
    if node.target == OPS.einsum.default:
        factors = sorted(node.args[1], key=_is_constant)  # activations come first
        return factors[0], factors[-1]
    return node.args[first], node.args[second]


def _weight(node: Any) -> Any:
    """The constant factor of a layer, before or after quantization; None if both factors are activations."""
    factor = _factors(node)[1]
    while _dequantized(factor) or (factor.op == "call_function" and len(factor.all_input_nodes) == 1):
        factor = factor.all_input_nodes[0]
    return factor if _is_constant(factor) else None


def _is_constant(node: Any) -> bool:
    return node.op == "placeholder" and str(node.name).startswith(("p_", "b_", "c_"))


def _dequantized(node: Any) -> bool:
    return isinstance(node, torch.fx.Node) and "dequantize" in str(node.target)


def _multiply_adds(node: Any) -> int:
    if node.target in TABLES:
        return 0
    value, factor = (_shape(each) for each in _factors(node))
    if node.target == OPS.einsum.default:
        letters = node.args[0].replace(" ", "").partition("->")[0].split(",")
        sizes = {
            k: n
            for part, each in zip(letters, node.args[1], strict=True)
            for k, n in zip(part, _shape(each), strict=True)
        }
        return prod(sizes.values())
    if node.target == OPS.bilinear.default:
        return prod(_shape(node)) * prod(factor[1:])
    if node.target in TRANSPOSED:
        return prod(value) * prod(factor[1:])
    if node.target in LAYERS:
        return prod(_shape(node)) * prod(factor[1:])
    if node.target == OPS.scaled_dot_product_attention.default:
        return prod(value[:-1]) * factor[-2] * (value[-1] + _shape(node)[-1])
    return prod(_shape(node)) * value[-1]


def _matrices(tensors: Any) -> list[Any]:
    return [t for t in tensors if isinstance(t, torch.fx.Node) and len(_shape(t)) == 2] if _is_list(tensors) else []


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _shape(node: Any) -> list[int]:
    return [int(size) for size in node.meta["val"].shape]


def _name(node: Any, program: Any) -> str:
    """The layer's path in the model, from the name of its weight; the node's name if it has none."""
    names = {**program.graph_signature.inputs_to_parameters, **program.graph_signature.inputs_to_buffers}
    if node.target in RECURRENT:
        first = next(found[0] for found in map(_matrices, node.args) if found)
        return names[first.name].rpartition(".")[0].removeprefix("net.") or str(node.name)
    weight = node.args[0] if node.target in TABLES else _weight(node)
    found = "" if weight is None else names.get(weight.name, "")
    return found.removesuffix(".weight").removeprefix("net.") or str(node.name)
