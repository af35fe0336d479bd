"""LiteRT, TFLite's present name: the default for .tflite files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import Session

SUFFIX = ".tflite"
DEFAULT = True
IMPORT = "ai_edge_litert.interpreter"
DISTRIBUTION = "ai-edge-litert"
EXTRA = "litert"


def library() -> Any:
    return importlib.import_module(IMPORT)


def check(path: Path) -> None:
    """A .tflite file is whole by itself."""


def load(path: Path, threads: int) -> Session:
    from . import _tflite

    return _tflite.load(library(), path, threads)
