"""LiteRT, the current name of TFLite: the default for .tflite files."""

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
COPIES_INPUT = False


def library() -> Any:
    return importlib.import_module(IMPORT)


def check(path: Path) -> None:
    """Nothing to check: a .tflite file is always the whole model."""


def load(path: Path, threads: int) -> Session:
    from . import _tflite

    return _tflite.load(library(), path, threads)
