"""A model repository for inference servers that read ONNX files: NVIDIA Triton and OpenVINO Model Server.

<model>/config.pbtxt            Triton's configuration; OpenVINO Model Server does not read it
<model>/labels.txt              the labels, which Triton's classification extension returns
<model>/<number>/model.onnx     the number is the bundle's version; see `number`
check.py, golden.json           sends the golden inputs to a server and compares the outputs
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packages import _labels, _repository

if TYPE_CHECKING:
    from pipeline.core import Artifact, Port
    from pipeline.packages import Contents, ShippedCell

FOLDER = "serving"

LABELS = "labels.txt"


def supports(contents: Contents) -> str | None:
    """Why the ONNX file cannot be served; None if it can."""
    cell = contents.recommended("onnx")
    if cell is None:
        return "the bundle has no ONNX file, which Triton and OpenVINO Model Server read"
    for port in (*cell.artifact.inputs, *cell.artifact.outputs):
        if not port.shape:
            return f"{port.name} of {cell.recipe} on onnx has no axis, and Triton needs one"
    return _repository.unsupported(contents, cell)


def write(contents: Contents, folder: Path) -> None:
    """Writes the repository; see `Package`."""
    cell = contents.recommended("onnx")
    assert cell is not None  # see `supports`
    model = folder / contents.model
    version = model / str(_repository.number(contents.version))
    version.mkdir(parents=True)
    shutil.copyfile(contents.root / cell.file, version / "model.onnx")
    labels = _labels.lines(contents.spec.labels)
    if labels is not None:
        (model / LABELS).write_text(labels, encoding="utf-8")
    (model / "config.pbtxt").write_text(_configuration(contents, cell), encoding="utf-8")
    _repository.write_check(contents, cell, folder, "v2")


def _configuration(contents: Contents, cell: ShippedCell) -> str:
    """Triton's ModelConfig in protobuf's text format. The file has a fixed batch axis, so Triton makes no batches."""
    artifact = cell.artifact
    facts = {"version": contents.version, "recipe": cell.recipe, "weights_sha256": contents.weights_sha256}
    lines = [
        f"name: {_text(contents.model)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        "max_batch_size: 0",
        *(line for port in artifact.inputs for line in _tensor("input", port, [])),
        *(line for port in artifact.outputs for line in _tensor("output", port, _label_file(port, artifact))),
        *(
            f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"
            for key, value in facts.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _tensor(side: str, port: Port, more: Sequence[str]) -> Iterator[str]:
    yield f"{side} {{"
    yield f"  name: {_text(port.name)}"
    yield f"  data_type: TYPE_{_repository.TYPES[port.dtype]}"
    yield f"  dims: [ {', '.join(map(str, port.shape))} ]"
    yield from more
    yield "}"


def _label_file(port: Port, artifact: Artifact) -> list[str]:
    return [f"  label_filename: {_text(LABELS)}"] if _labels.belong(port, artifact.spec) else []


def _text(text: str) -> str:
    """A string of protobuf's text format: UTF-8, with what is not printable ASCII as octal numbers."""
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{quoted}"'
