"""A model repository for inference servers that read ONNX files: NVIDIA Triton and OpenVINO Model Server.

<model>/config.pbtxt            Triton's configuration; OpenVINO Model Server does not read it
<model>/labels.txt              the labels, which Triton's classification extension returns
<model>/<number>/model.onnx     the number is the bundle's version; see `number`
check.py, golden.json           sends the golden inputs to a server and compares the outputs
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packages import HOST, _labels

if TYPE_CHECKING:
    from pipeline.core import Artifact, Port
    from pipeline.packages import Contents, ShippedCell

FOLDER = "serving"

CHECK = Path(__file__).parent / "_serving" / "check.py"
LABELS = "labels.txt"
MOST = 999
"""The largest minor and patch version that `number` has room for."""

TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""numpy's types by their name in the Open Inference Protocol; Triton's configuration puts TYPE_ before it."""


def supports(contents: Contents) -> str | None:
    """An ONNX file with golden outputs, one input, and tensors that the protocol has types for."""
    cell = contents.recommended("onnx")
    if cell is None:
        return "the bundle has no ONNX file, which Triton and OpenVINO Model Server read"
    if HOST not in cell.golden:
        return f"{cell.recipe} on onnx has no golden outputs of this machine to check a server with"
    if len(cell.artifact.inputs) != 1:
        return f"{cell.recipe} on onnx has {len(cell.artifact.inputs)} inputs, and the golden data is of one"
    for port in (*cell.artifact.inputs, *cell.artifact.outputs):
        if port.dtype not in TYPES:
            return f"{port.name} of {cell.recipe} on onnx is {port.dtype}, which the Open Inference Protocol has not"
        if not port.shape:
            return f"{port.name} of {cell.recipe} on onnx has no axis, and Triton needs one"
    _, minor, patch = map(int, contents.version.split("."))
    if max(minor, patch) > MOST or contents.version == "0.0.0":
        return f"version {contents.version} is no number for a server: from 0.0.1, minor and patch at most {MOST}"
    return None


def write(contents: Contents, folder: Path) -> None:
    """Writes the repository; see `Package`."""
    cell = contents.recommended("onnx")
    assert cell is not None  # see `supports`
    model = folder / contents.model
    (model / str(number(contents.version))).mkdir(parents=True)
    shutil.copyfile(contents.root / cell.file, model / str(number(contents.version)) / "model.onnx")
    labels = _labels.lines(contents.spec.labels)
    if labels is not None:
        (model / LABELS).write_text(labels, encoding="utf-8")
    (model / "config.pbtxt").write_text(_configuration(contents, cell), encoding="utf-8")
    (folder / "golden.json").write_text(json.dumps(_golden(contents, cell), indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(CHECK, folder / CHECK.name)


def number(version: str) -> int:
    """A version as the number that servers want: 1002003 for 1.2.3. A higher version has a higher number."""
    major, minor, patch = map(int, version.split("."))
    return (major * (MOST + 1) + minor) * (MOST + 1) + patch


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
    yield f"  data_type: TYPE_{TYPES[port.dtype]}"
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


def _golden(contents: Contents, cell: ShippedCell) -> dict[str, object]:
    """The golden inputs as the file takes them, and its outputs on the machine that shipped it."""
    import numpy as np

    golden = contents.root / "golden"
    inputs = np.load(golden / "inputs.npy", allow_pickle=False)
    (port,), output = cell.artifact.inputs, cell.artifact.outputs[0]
    if port.layout == "NCHW":
        inputs = inputs.transpose(0, 3, 1, 2)
    outputs = np.load(golden / cell.recipe / cell.target / f"{HOST}.npy", allow_pickle=False)
    return {
        "model": contents.model,
        "version": str(number(contents.version)),
        "release": contents.version,
        "recipe": cell.recipe,
        "input": {"name": port.name, "shape": list(port.shape), "datatype": TYPES[port.dtype]},
        "output": {"name": output.name, "shape": list(output.shape), "datatype": TYPES[output.dtype]},
        "tolerance": cell.tolerance,
        "samples": len(inputs),
        "inputs_type": inputs.dtype.name,
        "inputs": base64.b64encode(inputs.astype(inputs.dtype.newbyteorder("<")).tobytes()).decode(),
        "outputs": base64.b64encode(outputs.astype("<f4").tobytes()).decode(),
    }
