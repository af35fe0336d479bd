"""Files of predictions: every evaluation sample's outputs, as output_0, output_1 … of an .npz, perhaps with labels."""

from __future__ import annotations

import io
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.core import safe_file_name
from pipeline.errors import Broken


def read(folder: Path, name: str, digest: str) -> tuple[tuple[Any, ...], Any]:
    """The arrays of the file `name` in `folder`; nothing in it is run.

    Args:
        digest: the sha256 that its manifest has.

    Returns:
        The outputs in their order, each with the samples as first axis, and the labels (or None).

    Raises:
        Broken: it cannot be read, is another file than the manifest's, or is not of these arrays.
    """
    import numpy as np

    try:
        content = (folder / safe_file_name(name)).read_bytes()
    except OSError as error:
        raise Broken(f"{name} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() != digest:
        raise Broken(f"{name} is not the file that its manifest describes (another sha256)")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise Broken(f"{name} is not an .npz file of arrays: {error}") from error
    outputs = tuple(arrays[f"output_{i}"] for i in range(len(arrays)) if f"output_{i}" in arrays)
    if not outputs or not outputs[0].ndim or set(arrays) - {f"output_{i}" for i in range(len(outputs))} - {"labels"}:
        raise Broken(f"{name} holds {sorted(arrays)}, not output_0 … and labels")
    return outputs, arrays.get("labels")
