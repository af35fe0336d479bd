"""Predictions files: the outputs of all evaluation samples as output_0, output_1 … of an .npz, optionally labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.core import safe_file_name
from pipeline.errors import Broken


def arrays(outputs: Sequence[Any]) -> dict[str, Any]:
    """Outputs under their names in a file."""
    return {f"output_{i}": each for i, each in enumerate(outputs)}


def of(file: Mapping[str, Any]) -> tuple[Any, ...]:
    """The outputs in a file, in their order."""
    return tuple(file[f"output_{i}"] for i in range(len(file)) if f"output_{i}" in file)


def read(folder: Path, name: str, digest: str) -> tuple[tuple[Any, ...], Any]:
    """Reads the file `name` in `folder`. Pickled objects are refused, so no code runs.

    Args:
        digest: the sha256 recorded in the manifest.

    Returns:
        The outputs in order, each with the samples as first axis, and the labels or None.

    Raises:
        Broken: the file cannot be read, has another sha256, or has other arrays than these.
    """
    import numpy as np

    try:
        content = (folder / safe_file_name(name)).read_bytes()
    except OSError as error:
        raise Broken(f"{name} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() != digest:
        raise Broken(f"{name} does not match its manifest (sha256 differs)")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise Broken(f"{name} is not an .npz file of arrays: {error}") from error
    outputs = of(found)
    if not outputs or not outputs[0].ndim or set(found) - {f"output_{i}" for i in range(len(outputs))} - {"labels"}:
        raise Broken(f"{name} contains {sorted(found)}, not output_0 … and labels")
    return outputs, found.get("labels")
