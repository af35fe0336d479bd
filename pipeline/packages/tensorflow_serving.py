"""A model's folder for TensorFlow Serving, with the SavedModel that Keras writes.

<model>/<number>/saved_model.pb, variables/     the number is the bundle's version; see `_repository.number`
check.py, golden.json                           sends the golden inputs to a server and compares the outputs
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.packages import _repository
from pipeline.targets import savedmodel

if TYPE_CHECKING:
    from pipeline.packages import Contents

FOLDER = "tensorflow-serving"


def supports(contents: Contents) -> str | None:
    """Why the SavedModel cannot be served; None if it can."""
    cell = contents.recommended("savedmodel")
    if cell is None:
        return (
            "the bundle has no SavedModel, which TensorFlow Serving reads and Keras models have (--target savedmodel)"
        )
    return _repository.unsupported(contents, cell)


def write(contents: Contents, folder: Path) -> None:
    """Writes the folder; see `Package`."""
    cell = contents.recommended("savedmodel")
    assert cell is not None  # see `supports`
    version = folder / contents.model / str(_repository.number(contents.version))
    shutil.copytree(contents.root / cell.file / savedmodel.VERSION, version)
    _repository.write_check(contents, cell, folder, "tensorflow")
