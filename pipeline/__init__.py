"""Lastmile: take a trained model to phones and boards by every route, and measure it there.

The names below are the public Python API; docs/python-api.md shows how to use them. A name is imported on first use,
so `import pipeline` loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.core import (
        Artifact,
        Audio,
        Cell,
        Checkpoint,
        Device,
        Latency,
        Measurement,
        ModelSpec,
        Parity,
        Preprocessing,
        Process,
        Recipe,
        Standardization,
        Tensor,
        Tokens,
        Training,
    )
    from pipeline.errors import PipelineError
    from pipeline.report.document import write_report
    from pipeline.results.collect import cells
    from pipeline.results.image_trace import Trace
    from pipeline.stages.export import Outcome, export
    from pipeline.stages.measure import Options as MeasureOptions
    from pipeline.stages.measure import Result, bench
    from pipeline.stages.plan import Plan, TrainingOptions
    from pipeline.stages.push import Pushed, push
    from pipeline.stages.qat import Trained, train_quantized
    from pipeline.stages.ship import Options as ShipOptions
    from pipeline.stages.ship import Shipped, ship
    from pipeline.stages.trace import trace
    from pipeline.stages.train import train
    from pipeline.stats import latency
    from pipeline.system.store import Store

_HOMES = {
    "core": (
        "Artifact", "Audio", "Cell", "Checkpoint", "Device", "Latency", "Measurement", "ModelSpec", "Parity",
        "Preprocessing", "Process", "Recipe", "Standardization", "Tensor", "Tokens", "Training",
    ),
    "errors": ("PipelineError",),
    "report.document": ("write_report",),
    "results.collect": ("cells",),
    "results.image_trace": ("Trace",),
    "stages.export": ("Outcome", "export"),
    "stages.measure": ("MeasureOptions", "Result", "bench"),
    "stages.plan": ("Plan", "TrainingOptions"),
    "stages.push": ("Pushed", "push"),
    "stages.qat": ("Trained", "train_quantized"),
    "stages.ship": ("ShipOptions", "Shipped", "ship"),
    "stages.trace": ("trace",),
    "stages.train": ("train",),
    "stats": ("latency",),
    "system.store": ("Store",),
}  # fmt: skip
_RENAMED = {"MeasureOptions": "Options", "ShipOptions": "Options"}

__all__ = [
    "Artifact",
    "Audio",
    "Cell",
    "Checkpoint",
    "Device",
    "Latency",
    "MeasureOptions",
    "Measurement",
    "ModelSpec",
    "Outcome",
    "Parity",
    "PipelineError",
    "Plan",
    "Preprocessing",
    "Process",
    "Pushed",
    "Recipe",
    "Result",
    "ShipOptions",
    "Shipped",
    "Standardization",
    "Store",
    "Tensor",
    "Tokens",
    "Trace",
    "Trained",
    "Training",
    "TrainingOptions",
    "bench",
    "cells",
    "export",
    "latency",
    "push",
    "ship",
    "trace",
    "train",
    "train_quantized",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{home}"), _RENAMED.get(name, name))
