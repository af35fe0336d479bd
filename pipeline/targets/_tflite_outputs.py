"""Adds outputs to a finished .tflite file: the tensors that hold the values of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.targets._same_operators import Operation, Place, matched, traced

OUTPUT_ONLY = ("TRANSPOSE ", "RESHAPE ", "DEQUANTIZE ", "QUANTIZE ")
"""Operators that the converter adds between a layer and an output: outputs have PyTorch's layout. A reshape keeps the
order of the values."""


def with_outputs(file: Path, other: Path, outputs: Sequence[int], out: Path) -> list[Place | None]:
    """See `Target.with_outputs`."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    model, variant = (schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0) for path in (file, other))
    graph, theirs = model.subgraphs[0], variant.subgraphs[0]
    operations = _operations(variant, schema)
    inputs = {int(a): int(b) for a, b in zip(theirs.inputs, graph.inputs, strict=True)}
    found = matched(_operations(model, schema), operations, inputs)
    listed = [int(each) for each in theirs.outputs]
    added = [int(each) for each in graph.outputs]
    # The first output is the model's own in both files, even where operators before it were merged.
    found.setdefault(listed[0], added[0])
    made: list[Place | None] = []
    for output in outputs:
        place = traced(listed[output], operations, found, OUTPUT_ONLY)
        if place is None:
            made.append(None)
            continue
        tensor, axes = int(str(place[0])), place[1]
        if tensor not in added:
            added.append(tensor)
        made.append((added.index(tensor), axes))
    graph.outputs = added
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    out.write_bytes(builder.Output())
    return made


def _operations(model: Any, schema: Any) -> list[Operation]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    graph, found = model.subgraphs[0], []
    for operation in graph.operators:
        code = model.operatorCodes[operation.opcodeIndex]
        kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        given = vars(operation.builtinOptions) if operation.builtinOptions else {}
        options = {name: _plain(value) for name, value in sorted(given.items())}
        inputs = tuple(int(each) for each in operation.inputs)
        constants = {each: constant for each in inputs if (constant := _constant(model, graph, each)) is not None}
        axes = None
        if kind == "TRANSPOSE" and inputs[1] in constants:
            data = model.buffers[graph.tensors[inputs[1]].buffer].data
            axes = tuple(int(n) for n in bytes(data)[::4])
        made = tuple(int(each) for each in operation.outputs)
        found.append(Operation(f"{kind} {options}", inputs, made, constants, axes))
    return found


def _constant(model: Any, graph: Any, index: int) -> tuple[str, str] | None:
    if index < 0:
        return "omitted", ""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
    return f"{tensor.type} {shape}", hashlib.sha256(bytes(data)).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
