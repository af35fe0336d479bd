"""Quantization-aware training against calibration alone: accuracy drop of the graph of each recipe that trains.

    .venv/bin/python benchmarks/qat.py [--model NAME] [--data PATH] [--framework NAME] [--epochs N] [--lr X]

The float network is trained with the model's defaults, or taken from the build folder. Both graphs are evaluated on the
whole test split, paired sample by sample; intervals are those of `inv results`.
Bound: training loses no accuracy against calibration alone, as far as the interval can tell.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
import numpy as np

from pipeline import Plan, Store, TrainingOptions, registry, stats, train, train_quantized
from pipeline.core import PIXELS, Checkpoint, Recipe
from pipeline.registry import import_order
from pipeline.results import predictions
from pipeline.stages import quantize
from pipeline.stages.plan import Job
from pipeline.stages.train import split_of

CHUNK = 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--build", type=Path, default=Path("build"))
    options = parser.parse_args()
    import_order()
    build = Store(options.build)
    names = [name for name in registry.names("recipes") if registry.load("recipes", name).RECIPE.training == "qat"]
    plan = Plan.resolve(options.model, frameworks=options.framework, recipes=names, data=options.data)
    (checkpoint,) = train(build, plan)
    (job,) = plan.jobs
    test = split_of(checkpoint, job)
    folder = build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    (kept, *_), _ = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    right = stats.top1(kept) == test.labels
    rows, figures, holds = [], {}, True
    trainings = replace(plan, training=TrainingOptions(epochs=options.epochs, lr=options.lr))
    for trained in train_quantized(build, trainings):
        recipe, facts = trained.recipe, trained.graph.training
        assert facts is not None
        graphs = build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name)
        with tempfile.TemporaryDirectory() as temporary:
            calibrate(build, job, checkpoint, recipe, Path(temporary))
            before, after = (outputs(job, place, test) for place in (Path(temporary), graphs))
        correct = [stats.top1(found) == test.labels for found in (before, after)]
        drops = [stats.paired_drop(right, found) for found in correct]
        lost, (low, _) = stats.paired_drop(*correct)
        holds &= _common.verdict(
            f"{recipe.name}: training does not lose against calibration ({-lost:+.2f} points)", low <= 0
        )
        shown = [f"{drop:+.2f} [{low:+.2f}, {top:+.2f}]" for drop, (low, top) in drops]
        snr_db = facts["snr_db"][0], facts["snr_db"][facts["best_epoch"]]
        rows.append([recipe.name, *shown, *(f"{value:.1f}" for value in snr_db), f"{facts['seconds']:.0f}"])
        figures[recipe.name] = {"drops": drops, "lost": lost, **facts}
    print(_common.table(["recipe", "drop calibrated", "drop trained", "dB calibrated", "dB trained", "s"], rows))
    what = {"model": checkpoint.spec.name, "framework": checkpoint.framework, "float": checkpoint.accuracy}
    tools = _common.versions("torch", "torchao")
    _common.keep(f"qat_{checkpoint.spec.name}_{checkpoint.framework}", {**what, "recipes": figures, "tools": tools})
    return 0 if holds else 1


def calibrate(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe, folder: Path) -> None:
    """Writes the graph that the recipe would have without training."""
    images, _ = quantize.calibration_set(job, checkpoint, recipe)
    captured = build.graphs(checkpoint.spec.name, checkpoint.framework)
    job.framework.module.quantize(captured, PIXELS, images, folder, recipe)


def outputs(job: Job, folder: Path, test: Any) -> Any:
    """The outputs of a graph for the test split."""
    places = [range(start, min(start + CHUNK, len(test))) for start in range(0, len(test), CHUNK)]
    return np.concatenate([job.framework.module.evaluate(folder, test.inputs(place))[0] for place in places])


if __name__ == "__main__":
    raise SystemExit(main())
