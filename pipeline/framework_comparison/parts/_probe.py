"""The process of one framework, started by `_turns.py`: `python -m pipeline.framework_comparison.parts._probe REQUEST`.

It writes its result to the file named in the request. Whatever the framework prints is ignored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.core import ModelSpec, from_json
from pipeline.errors import BadOption, DiskFull, NeedsTool, PipelineError, Unsupported
from pipeline.sources import Model

HEAVY = ("torch", "tensorflow", "keras", "jax")
REFUSALS = (BadOption, NeedsTool, Unsupported)
"""Errors that mean that this machine cannot do it. Other errors are failures."""


def main(request: dict[str, Any]) -> None:
    """Carries out a request and writes its result."""
    registry.import_order()
    try:
        model = Model(Path(request["model"]), from_json(ModelSpec, request["spec"]))
        found = {"found": verb(request)(model, request)}
    except DiskFull as error:
        found = {"disk_full": str(error)}
    except REFUSALS as error:
        found = {"refused": str(error)}
    except PipelineError as error:
        found = {"failed": str(error)}
    loaded = [name for name in HEAVY if sys.modules.get(name) is not None]
    Path(request["out"]).write_text(json.dumps({**found, "loaded": loaded}))


def verb(request: dict[str, Any]) -> Callable[[Model, dict[str, Any]], Any]:
    """The requested function: from `_stages`, which serves both frameworks, or from the framework's own module."""
    name, framework = request["verb"], request["framework"]
    stages = import_module("pipeline.framework_comparison.parts._stages")
    if hasattr(stages, name):
        return getattr(stages, name)  # type: ignore[no-any-return]
    if framework == "keras":
        from pipeline.frameworks.keras import _on_tensorflow

        _on_tensorflow()
    return getattr(import_module(f"pipeline.framework_comparison.parts._{framework}"), name)  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
