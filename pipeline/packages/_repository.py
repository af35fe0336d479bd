"""What the repositories of all inference servers share: the version's number, and the check of a running server."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packages import HOST

if TYPE_CHECKING:
    from pipeline.packages import Contents, ShippedCell

CHECK = Path(__file__).parent / "_serving" / "check.py"
MOST = 999
"""The largest minor and patch version that `number` has room for."""

TYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
"""numpy's types by their name in the Open Inference Protocol; Triton's configuration puts TYPE_ before it."""


def unsupported(contents: Contents, cell: ShippedCell) -> str | None:
    """Why a file cannot be served and checked; None if it can."""
    name = f"{cell.recipe} on {cell.target}"
    if HOST not in cell.golden:
        return f"{name} has no golden outputs of this machine to check a server with"
    if len(cell.artifact.inputs) != 1:
        return f"{name} has {len(cell.artifact.inputs)} inputs, and the golden data is of one"
    for port in (*cell.artifact.inputs, *cell.artifact.outputs):
        if port.dtype not in TYPES:
            return f"{port.name} of {name} is {port.dtype}, for which servers have no type"
    _, minor, patch = map(int, contents.version.split("."))
    if max(minor, patch) > MOST or contents.version == "0.0.0":
        return f"version {contents.version} is no number for a server: from 0.0.1, minor and patch at most {MOST}"
    return None


def number(version: str) -> int:
    """A version as the number that servers want: 1002003 for 1.2.3. A higher version has a higher number."""
    major, minor, patch = map(int, version.split("."))
    return (major * (MOST + 1) + minor) * (MOST + 1) + patch


def write_check(contents: Contents, cell: ShippedCell, folder: Path, protocol: str) -> None:
    """Writes check.py, and golden.json with the golden inputs in the file's layout and its outputs on this machine.

    Args:
        protocol: "v2", the Open Inference Protocol, or "tensorflow", TensorFlow Serving's.
    """
    import numpy as np

    golden = contents.root / "golden"
    inputs = np.load(golden / "inputs.npy", allow_pickle=False)
    (port,), output = cell.artifact.inputs, cell.artifact.outputs[0]
    if port.layout == "NCHW":
        inputs = inputs.transpose(0, 3, 1, 2)
    outputs = np.load(golden / cell.recipe / cell.target / f"{HOST}.npy", allow_pickle=False)
    value = {
        "protocol": protocol,
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
    (folder / "golden.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(CHECK, folder / CHECK.name)
