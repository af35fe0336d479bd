r"""Models of every task: the float metric in PyTorch and Keras, and what each recipe and target loses of it.

    .venv/bin/python benchmarks/tasks.py --fsdd fsdd.zip --wearable wearable.zip --masks nuclei.zip --sms sms.zip \
        --boxes bccd.zip --nab nab.zip

`diabetes_mlp` has its data built in; the others are measured if their data are given. Bound: int8 within 1 point of
float on every target.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import _common

from pipeline import tasks
from pipeline.core import Cell
from pipeline.results import collect
from pipeline.stages.measure import Options, bench
from pipeline.stages.plan import Plan
from pipeline.system.store import Store
from pipeline.tasks import SECOND

MODELS = {
    "diabetes_mlp": None, "har_cnn": "wearable", "kws_dscnn": "fsdd", "text_tiny_transformer": "sms",
    "unet_small": "masks", "ssdlite_tiny": "boxes",
    "autoencoder_series": "nab",
}  # fmt: skip
"""Model → the option that has its data."""
TARGETS, RECIPES = ("tflite", "executorch", "onnx"), ("fp32", "fp16", "int8_dynamic", "int8")
BOUND = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in filter(None, MODELS.values()):
        parser.add_argument(f"--{option}", type=Path)
    options = vars(parser.parse_args())
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    found: list[Cell] = []
    for model, needed in MODELS.items():
        data = options[needed] if needed else None
        if needed and data is None:
            print(f"{model}: not measured without --{needed}")
            continue
        plan = Plan.resolve(model, frameworks="all", targets=TARGETS, recipes=RECIPES, devices="local", data=data)
        bench(build, plan, Options())
        cells = [cell for cell in collect.cells(build, [(model, framework) for framework in ("torch", "keras")])
                 if cell.status == "ok" and cell.recipe in RECIPES and cell.target in TARGETS]  # fmt: skip
        found += cells
        show(model, cells)
    worst = max((cell.drop_points or 0.0 for cell in found if cell.recipe == "int8"), default=0.0)
    holds = _common.verdict(f"int8 loses at most {BOUND:g} point (worst: {worst:+.2f})", worst <= BOUND)
    rows = [
        {
            "model": cell.model, "framework": cell.framework, "recipe": cell.recipe, "target": cell.target,
            "metric": cell.metric, "value": cell.accuracy, "float": cell.reference_accuracy, "drop": cell.drop_points,
            "interval": cell.drop_interval, "figures": dict(cell.figures), "samples": cell.samples,
            "bytes": cell.size_bytes, "p50_ms": cell.latency_ms.p50 if cell.latency_ms else None,
            "quantized": cell.coverage.multiply_adds if cell.coverage else None,
        }
        for cell in found
    ]  # fmt: skip
    _common.keep("tasks", {"cells": rows})
    return 0 if holds else 1


def show(model: str, cells: list[Cell]) -> None:
    second = list(dict.fromkeys(name for cell in cells for name in cell.figures))
    title = f"{tasks.titles(cell.metric for cell in cells)}, %"
    print(f"\n{model}, {cells[0].samples} test samples")
    print(_common.table(
        ["file", "bytes", "ms", title, *(SECOND[name] for name in second), "drop, points [95 %]"],
        [
            [
                f"{cell.recipe} {cell.target} ({cell.framework})",
                f"{cell.size_bytes:,}",
                f"{cell.latency_ms.p50:.4f}" if cell.latency_ms else "–",
                f"{100 * (cell.accuracy or 0):.2f}",
                *(f"{(100 if SECOND[name].endswith('%') else 1) * cell.figures[name]:.2f}" for name in second),
                f"{cell.drop_points:+.2f} [{cell.drop_interval[0]:+.2f}, {cell.drop_interval[1]:+.2f}]"
                if cell.drop_interval else "–",
            ]
            for cell in cells
        ],
    ))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
