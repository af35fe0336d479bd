"""Adds outputs to a finished .onnx file: the tensors that hold the values of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.targets._same_operators import Operation, Place, matched, traced

OUTPUT_ONLY = ("Cast ", "Identity ")
"""Operators between a layer and an output: a half-precision file returns float32."""


def with_outputs(file: Path, other: Path, outputs: Sequence[int], out: Path) -> list[Place | None]:
    """See `Target.with_outputs`."""
    import onnx

    model, variant = onnx.load(file), onnx.load(other)
    operations = _operations(variant)
    inputs = {a.name: b.name for a, b in zip(variant.graph.input, model.graph.input, strict=True)}
    found = matched(_operations(model), operations, inputs)
    listed, added = ([each.name for each in one.graph.output] for one in (variant, model))
    # The first output is the model's own in both files, even where operators before it were merged.
    found.setdefault(listed[0], added[0])
    known = {each.name: each for each in onnx.shape_inference.infer_shapes(model).graph.value_info}
    made: list[Place | None] = []
    for output in outputs:
        place = traced(listed[output], operations, found, OUTPUT_ONLY)
        if place is None or (place[0] not in added and place[0] not in known):
            made.append(None)
            continue
        if place[0] not in added:
            added.append(str(place[0]))
            model.graph.output.append(known[str(place[0])])
        made.append((added.index(str(place[0])), place[1]))
    onnx.save(model, out)
    return made


def _operations(model: Any) -> list[Operation]:
    stored = {each.name: each for each in model.graph.initializer}
    found = []
    for node in model.graph.node:
        options = sorted(hashlib.sha256(each.SerializeToString()).hexdigest() for each in node.attribute)
        constants = {name: _constant(stored[name]) for name in node.input if name in stored}
        constants |= {name: ("omitted", "") for name in node.input if not name}
        found.append(Operation(f"{node.op_type} {options}", tuple(node.input), tuple(node.output), constants))
    return found


def _constant(tensor: Any) -> tuple[str, str]:
    values = [tensor.raw_data, list(tensor.float_data), list(tensor.int32_data), list(tensor.int64_data)]
    return f"{tensor.data_type} {list(tensor.dims)}", hashlib.sha256(str(values).encode()).hexdigest()
