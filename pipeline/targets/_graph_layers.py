"""The layers of a torch.export program, for the coverage of a file that was made from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import torch

from pipeline.core import Coverage, Operation, Recipe
from pipeline.errors import StageFailed, Unsupported
from pipeline.recipes import _exceptions
from pipeline.targets._coverage import COMPUTED, FLOAT_INPUT, TABLE, TWO_ACTIVATIONS, UNKNOWN, Layer, total

NET = "net."
"""The path of the source's network in the captured module, which normalises the input first."""
EXCEPTION = "the recipe leaves it in float"
LINEAR = "the recipe quantizes linear layers only"

OPS = torch.ops.aten
CONVOLUTIONS = (OPS.conv1d.default, OPS.conv2d.default, OPS.conv3d.default, OPS.convolution.default)
TRANSPOSED = (OPS.conv_transpose1d.default, OPS.conv_transpose2d.input, OPS.conv_transpose3d.input)
PADDED = (OPS.conv1d.padding, OPS.conv2d.padding, OPS.conv3d.padding)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, *PADDED, OPS.linear.default)
"""Operators whose first argument is an activation and whose second is a weight."""
KNOWN = (OPS.conv1d.default, OPS.conv2d.default, OPS.linear.default)
"""Layers whose weights every recipe quantizes: static, weight-only and dynamic."""
FACTORS = {
    OPS.matmul.default: (0, 1), OPS.mm.default: (0, 1), OPS.bmm.default: (0, 1),
    OPS.addmm.default: (1, 2), OPS.baddbmm.default: (1, 2), OPS.bilinear.default: (0, 2),
    OPS.scaled_dot_product_attention.default: (0, 1), OPS.einsum.default: (0, 1),
}  # fmt: skip
"""Products of two tensors → the places of these among the arguments."""
TABLES = (OPS.embedding.default,)
"""Operators with weights that multiply nothing; the weight is the first argument."""
RECURRENT = (OPS.gru.input, OPS.lstm.input, OPS.rnn_tanh.input, OPS.rnn_relu.input)


def operations(graph: Any) -> list[tuple[Any, Operation]]:
    """The operators of the source's network with their nodes, in the order of the graph.

    Args:
        graph: a torch.export program.
    """
    owners = _owners(graph)
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        path = _path(node, owners)
        if path.startswith(NET) or path == NET[:-1]:
            kind = node.target._schema.name.partition("::")[2].rstrip("_")
            found.append((node, Operation(path.removeprefix(NET), kind, _weights(node))))
    return found


def excepted(program: Any, recipe: Recipe) -> dict[str, str]:
    """Names of the nodes that the exceptions of a recipe match → the dtype of their weights."""
    pairs = operations(program)
    dtypes = _exceptions.matched(recipe, [operation for _, operation in pairs])
    return {node.name: dtype for (node, _), dtype in zip(pairs, dtypes, strict=True) if dtype is not None}


def left(program: Any, recipe: Recipe) -> dict[str, str]:
    """Names of the nodes that a recipe leaves in float → the reason.

    Raises:
        Unsupported: int4 weights are for linear layers, and the model has none that can have them.
    """
    found = {name: EXCEPTION for name, dtype in excepted(program, recipe).items() if dtype == "float32"}
    if recipe.weights != "int4" or recipe.static:
        return found
    indivisible = []
    for node in _nodes(program):
        weight = _weight(node)
        if node.target != OPS.linear.default:
            found.setdefault(node.name, LINEAR)
        elif weight is not None and recipe.block and _shape(weight)[1] % recipe.block:
            indivisible.append(f"its {_shape(weight)[1]} inputs cannot be divided into blocks of {recipe.block}")
            found.setdefault(node.name, indivisible[-1])
    if all(node.name in found or _weight(node) is None for node in _nodes(program)):
        why = f": {indivisible[0]}" if indivisible else ""
        raise Unsupported(f"int4 weights are for linear layers, and the model has none that can have them{why}")
    return found


def placed(layers: Iterable[Layer], program: Any, recipe: Recipe) -> list[Layer]:
    """The layers of a float file that its quantizer must leave in float under a recipe, with the reasons.

    Under int4 weights these are linear layers: a quantizer is told which operators it is for.

    Raises:
        Unsupported: as `left`.
        StageFailed: the file has other layers than the program.
    """
    reasons = {name: reason for name, reason in left(program, recipe).items() if reason != LINEAR}
    if not reasons:
        return []
    found, nodes = _pairs(layers, program)
    if nodes is None:
        raise StageFailed("the converter divided or merged layers: its file has none that the recipe's exceptions fit")
    return [
        replace(layer, reason=reasons[node.name])
        for layer, node in zip(found, nodes, strict=True)
        if node.name in reasons
    ]


def named(layers: Iterable[Layer], program: Any, recipe: Recipe) -> list[Layer]:
    """Layers that were found in a file, with the names they have in the model and the recipe's reasons why they stay in
    float, if both have the same layers with weights."""
    every = list(layers)
    found, nodes = _pairs(every, program)
    if nodes is None:
        return every
    reasons, owners = left(program, recipe), _owners(program)
    new = {
        id(layer): replace(
            layer, name=_name(node, owners), reason=layer.reason and reasons.get(node.name, layer.reason)
        )
        for layer, node in zip(found, nodes, strict=True)
    }
    return [new.get(id(layer), layer) for layer in every]


def _pairs(layers: Iterable[Layer], program: Any) -> tuple[list[Layer], list[Any] | None]:
    """The layers of a file that have weights, and the program's nodes in the same order; None if they differ."""
    found = [layer for layer in layers if layer.weights]
    nodes = [node for node in _nodes(program) if node.target not in TABLES and _weights(node)]
    ours = [_multiply_adds(node) if node.target not in RECURRENT else None for node in nodes]
    return found, nodes if ours == [layer.multiply_adds for layer in found] else None


def coverage(quantized: Any, program: Any, recipe: Recipe, other: str = UNKNOWN) -> Coverage:
    """The coverage of a graph.

    Args:
        quantized: the quantized torch.export program with a batch size of 1.
        program: the float program that it was made from; it still has the names of the layers.
        other: why the quantizer leaves some layers in float that it knows and the recipe does not except.
    """
    floats, nodes, owners = list(_nodes(program)), list(_nodes(quantized)), _owners(program)
    names, reasons = [_name(node, owners) for node in floats], left(program, recipe)
    given = [reasons.get(node.name) for node in floats]
    if len(floats) != len(nodes):  # the quantizer divided or merged layers
        names, given = [node.name for node in nodes], [None for _ in nodes]
    return total(
        _layer(name, node, recipe, reason or (other if node.target in KNOWN else UNKNOWN))
        for name, node, reason in zip(names, nodes, given, strict=True)
        if recipe.activations != "float32" or node.target not in FACTORS or _weight(node) is not None
    )


def _nodes(program: Any) -> Iterable[Any]:
    """The nodes that multiply and add, in the order of the graph."""
    known = (*LAYERS, *FACTORS, *RECURRENT, *TABLES)
    return (node for node in program.graph.nodes if node.op == "call_function" and node.target in known)


def _layer(name: str, node: Any, recipe: Recipe, given: str) -> Layer:
    """A layer. Args: given: the reason if it stays in float although its weight is constant."""
    operator = str(node.target).removesuffix(".default").removesuffix(".input")
    weights = _weights(node)
    if node.target in RECURRENT:
        return Layer(name, operator, weights, weights * prod(_shape(node.args[0])[:2]), UNKNOWN)
    if node.target in TABLES:
        return Layer(name, operator, weights, 0, TABLE)
    return Layer(name, operator, weights, _multiply_adds(node), _reason(node, recipe, given))


def _reason(node: Any, recipe: Recipe, given: str) -> str | None:
    """Why a layer stays in float; None if it is quantized."""
    value, factor = _factors(node)
    if _weight(node) is None:
        return TWO_ACTIVATIONS if node.target in FACTORS else COMPUTED
    if not _dequantized(factor):
        return given
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


def _weights(node: Any) -> int:
    """The number of weights of a node."""
    if node.target in RECURRENT:
        tensors = next(argument for argument in node.args[1:] if _matrices(argument))
        return sum(prod(_shape(matrix)) for matrix in _matrices(tensors))
    if node.target in TABLES:
        return prod(_shape(node.args[0]))
    if node.target not in (*LAYERS, *FACTORS):
        return 0
    weight = _weight(node)
    return 0 if weight is None else prod(_shape(weight))


def _owners(program: Any) -> dict[str, str]:
    """The names of a program's constants: of an input of the graph, the path of the tensor."""
    signature = program.graph_signature
    return {**signature.inputs_to_parameters, **signature.inputs_to_buffers}


def _path(node: Any, owners: dict[str, str]) -> str:
    """The path of a layer or of the module that computes a node: of a layer from the name of its weight."""
    weight = None
    if node.target in RECURRENT:
        weight = next(found[0] for found in map(_matrices, node.args) if found)
    elif node.target in (*LAYERS, *FACTORS, *TABLES):
        weight = node.args[0] if node.target in TABLES else _weight(node)
    owner = "" if weight is None else owners.get(weight.name, "")
    if owner and not re.fullmatch(r"constant_\d+", owner):  # a computed weight has no name
        return owner.rpartition(".")[0] if node.target in RECURRENT else re.sub(r"\.weight(_\d+)?$", "", owner)
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return str(stack[-1]).removeprefix("L['self'].") if stack else ""


def _name(node: Any, owners: dict[str, str]) -> str:
    """A layer's path in the model; the node's name if no constant tells it."""
    path = _path(node, owners)
    return path.removeprefix(NET) if _weights(node) and path not in ("", NET[:-1]) else str(node.name)
