"""TFLite's older runtime, half the size of LiteRT; it needs numpy<2. By name only, never instead of litert."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import Session

SUFFIX = ".tflite"
DEFAULT = False
IMPORT = "tflite_runtime.interpreter"
DISTRIBUTION = "tflite-runtime"
EXTRA = "tflite_runtime"


def library() -> Any:
    import numpy as np

    if not np.__version__.startswith("1."):  # it would import, and then fail at the first model with a riddle
        raise ImportError(f"it needs numpy<2, and this is {np.__version__}")
    return importlib.import_module(IMPORT)


def check(path: Path) -> None:
    """A .tflite file is whole by itself."""


def load(path: Path, threads: int) -> Session:
    from . import _tflite

    return _tflite.load(library(), path, threads)
