"""TFLite's older runtime, half the size of LiteRT, requires numpy<2. Used only if named, never instead of litert."""

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
COPIES_INPUT = False


def library() -> Any:
    import numpy as np

    if not np.__version__.startswith("1."):  # the import would succeed, and the first model fail with an unclear error
        raise ImportError(f"it requires numpy<2, and numpy {np.__version__} is installed")
    return importlib.import_module(IMPORT)


def check(path: Path) -> None:
    """Nothing to check: a .tflite file is always the whole model."""


def load(path: Path, threads: int) -> Session:
    from . import _tflite

    return _tflite.load(library(), path, threads)
