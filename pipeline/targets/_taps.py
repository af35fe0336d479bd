"""Reads a graph's values at every layer: finds the layers of a float program, finds them again in programs that were
made from it, and adds their values as outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pipeline.core import ModelSpec, Tensor
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPS = torch.ops.aten
ACTIVATIONS = (
    OPS.relu.default, OPS.relu_.default, OPS.relu6.default, OPS.hardtanh.default, OPS.hardtanh_.default,
    OPS.clamp.default, OPS.clamp_min.default,
)  # fmt: skip
"""Converters fuse these into the operator before them."""
NORMALISATIONS = (OPS.batch_norm.default, OPS._native_batch_norm_legit_no_training.default)
MOVES = (
    OPS.flatten.using_ints, OPS.view.default, OPS.reshape.default, OPS.permute.default, OPS.transpose.int,
    OPS.unsqueeze.default, OPS.squeeze.dim, OPS.squeeze.dims, OPS.slice.Tensor, OPS.select.int, OPS.expand.default,
    OPS.clone.default, OPS.contiguous.default, OPS.alias.default, OPS.detach.default, OPS.dropout.default,
    OPS.pad.default, OPS.constant_pad_nd.default, OPS.split.Tensor, OPS.chunk.default,
)  # fmt: skip
"""Operators that compute no values. The next layer shows their mistakes."""


@dataclass(frozen=True)
class Tap:
    """A layer of a float program.

    Attributes:
        origin: the names of its last node in the programs that the float program was made from, newest first.
        operator: of its last node.
    """

    name: str
    operators: tuple[str, ...]
    origin: tuple[str, ...]
    operator: Any
    shape: tuple[int, ...]


def taps(program: Any) -> list[Tap]:
    """The layers of a float program, in its order."""
    found = []
    for node in _computed(program.graph):
        if node.target in MOVES or "getitem" in str(node.target) or _fused_into(node) is not None:
            continue
        group = _group(node)
        operators = tuple(_operator(each) for each in group)
        found.append(Tap(_path(group[0]), operators, _origin(node)[1:], node.target, tuple(node.meta["val"].shape)))
    return _named_apart(found)


def tapped(program: Any, layers: Sequence[Tap]) -> tuple[Any, list[int | None]]:
    """The program with the layers' values as more outputs.

    Returns:
        The program, and the index of each layer's output; None for a layer that the program does not have.
    """
    module = program.module()
    graph = module.graph
    output = graph.output_node()
    values = list(output.args[0])
    nodes = _found(graph, layers)
    places: list[int | None] = []
    for tap in layers:
        if tap not in nodes:
            places.append(None)
            continue
        value = _dequantized(graph, nodes[tap])
        if value not in values:
            values.append(value)
        places.append(values.index(value))
    output.args = (tuple(values),)
    graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    (image,) = program.example_inputs[0]
    return torch.export.export(module, (image,)), places


def common(original: Source, layers: Sequence[Tap]) -> list[Tap]:
    """The layers that every program of a source has."""
    programs = filter(None, map(original.open, ("program", "separate", "quantized", "unfolded")))
    found = [_found(program.module().graph, layers) for program in programs]
    return [tap for tap in layers if all(tap in nodes for nodes in found)]


def source(original: Source, layers: Sequence[Tap]) -> Source:
    """A source whose programs have the values of layers that all of them have as more outputs."""

    def open_(name: str) -> Any:
        program = original.open(name)
        return None if program is None else tapped(program, layers)[0]

    return Source(original.framework, open_)


def spec(original: ModelSpec, program: Any) -> ModelSpec:
    """The spec with as many outputs as the program has."""
    outputs = [node.meta["val"] for node in program.graph.output_node().args[0]]
    more = [
        Tensor(f"layer_{i}", tuple(int(n) for n in value.shape[1:]))
        for i, value in enumerate(outputs[len(original.outputs) :])
    ]
    return replace(original, outputs=(*original.outputs, *more))


def run(program: Any, samples: NDArray[Any]) -> list[NDArray[np.float32]]:
    """All outputs of a program with a batch size of 1 for samples of a split; see `Split.inputs`."""
    import numpy as np

    module = program.module()
    rows: list[list[NDArray[np.float32]]] = []
    with torch.no_grad():
        for sample in samples:
            image = sample.ndim == 3
            given = torch.from_numpy(np.ascontiguousarray(sample.transpose(2, 0, 1) if image else sample))[None]
            rows.append([value[0].numpy() for value in module(given.float() if image else given)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


# -- layers ------------------------------------------------------------------------------------------------------------


def _computed(graph: Any) -> Iterator[Any]:
    """The nodes with floating-point values that depend on the input."""
    dependent = set()
    for node in graph.nodes:
        if node.op == "placeholder" and not str(node.name).startswith(("p_", "b_", "c_")):
            dependent.add(node)
        if node.op == "call_function" and any(each in dependent for each in node.all_input_nodes):
            dependent.add(node)
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield node


def _fused_into(node: Any) -> Any:
    """The normalisation or activation that converters fuse with a node; None if its value is stored."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.target in NORMALISATIONS or (user.target in ACTIVATIONS and node.target not in ACTIVATIONS):
        return user if user.args[0] is node else None
    return None


def _group(node: Any) -> list[Any]:
    """The nodes of the layer that ends with a node."""
    group = [node]
    while isinstance(group[0].args[0], torch.fx.Node) and _fused_into(group[0].args[0]) is group[0]:
        group.insert(0, group[0].args[0])
    return group


def _operator(node: Any) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _path(node: Any) -> str:
    """The path of the module that the node was captured in; the node's name if that is the whole model."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]).removeprefix("L['self']").strip(".") if stack else ""
    path = path.removeprefix("net").removeprefix(".")
    return path or str(node.name)


def _named_apart(found: Sequence[Tap]) -> list[Tap]:
    """The layers with a name of their own each: of several in one module, the operator is added."""
    names = [tap.name for tap in found]
    made: list[Tap] = []
    for tap in found:
        name = tap.name if names.count(tap.name) == 1 else f"{tap.name}.{tap.operators[0]}"
        taken = {each.name for each in made}
        count = 1
        while (name if count == 1 else f"{name}_{count}") in taken:
            count += 1
        made.append(replace(tap, name=name if count == 1 else f"{name}_{count}"))
    return made


# -- the same layer in another program ---------------------------------------------------------------------------------


def _origin(node: Any) -> tuple[str, ...]:
    """The names of a node in the programs that this one was made from, newest first."""
    names, found = [], node.meta.get("from_node")
    while found:
        names.append(str(found[-1].name))
        found = found[-1].from_node
    return tuple(names)


def _found(graph: Any, layers: Sequence[Tap]) -> dict[Tap, Any]:
    """For each layer the last node that was made from its last node and has its shape, if there is one."""
    origins = {tap.origin: tap for tap in layers}
    found = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or "quantize" in str(node.target) or not isinstance(value, torch.Tensor):
            continue
        names = _origin(node)
        # The longest that fits: an earlier program may have had another node of that name.
        tap = next((origins[names[i:]] for i in range(len(names)) if names[i:] in origins), None)
        if tap is not None and tuple(value.shape) == tap.shape:
            found[tap] = node
    return found


def _dequantized(graph: Any, node: Any) -> Any:
    """The node's value after it was quantized, if it is. It is dequantized once more, because converters expect that a
    dequantized value has one user."""
    for quantized in node.users:
        if "quantized_decomposed.quantize_per_tensor" not in str(quantized.target):
            continue
        for dequantized in quantized.users:
            if "quantized_decomposed.dequantize_per_tensor" in str(dequantized.target):
                if graph.output_node() in dequantized.users:
                    return dequantized
                with graph.inserting_after(dequantized):
                    return graph.create_node("call_function", dequantized.target, dequantized.args, dequantized.kwargs)
    return node
