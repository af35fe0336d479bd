"""Times of graph captures, exports and inference, with the frameworks in turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline import devices
from pipeline.core import Artifact, to_json
from pipeline.errors import DiskFull
from pipeline.framework_comparison.parts import FRAMEWORKS, Row, Run
from pipeline.framework_comparison.parts._turns import take
from pipeline.results import rows
from pipeline.stages import export, push, train
from pipeline.stages import quantize as quantizing
from pipeline.stages.plan import ALL, recipes_of
from pipeline.system import proc
from pipeline.system.progress import say
from pipeline.system.store import Store

Cell = tuple[str, str, str]
"""Framework, recipe, target."""
Samples = list[tuple[float, ...]] | str
"""One tuple per round, or why there are none."""

DEVICE = "local"
LEAST_RUNS, LEAST_SECONDS = 64, 0.1
"""The minimum of one measurement. Each round has one."""
TIME_LIMIT = 3600.0


# -- graphs ------------------------------------------------------------------------------------------------------------


def captured(run: Run) -> list[Row]:
    """Times to capture the float graph and to quantize it, which every export needs first."""
    import numpy as np

    recipe = next(recipe for recipe in recipes_of(ALL) if recipe.static)
    split = train.split_of(run.checkpoint("torch"), run.jobs["torch"], "train")
    images = run.scratch / "calibration.npy"
    np.save(images, split.inputs(range(min(recipe.calibration, len(split)))))

    def ask(framework: str, _: int) -> dict[str, Any]:
        checkpoint = run.checkpoint(framework)
        weights = run.build.checkpoint(checkpoint.spec.name, framework) / checkpoint.weights
        spec = to_json(checkpoint.spec)
        return {"spec": spec, "weights": str(weights), "images": str(images), "recipe": to_json(recipe)}

    turns = take(run, "capture", "capturing", ask)
    whats = {"captured": "captured as a graph, imports included", "quantized": f"its static {recipe.name} graph"}
    return [
        turns.row("Graphs for export, s", what, "s", "lower", dict.fromkeys(FRAMEWORKS, (key,)))
        for key, what in whats.items()
    ]


# -- exports -----------------------------------------------------------------------------------------------------------


def exported(run: Run, cells: Collection[Cell]) -> dict[Cell, Samples]:
    """Seconds of each export: one process per target, in which the frameworks take turns."""
    build = _copied(run)
    found: dict[Cell, Samples] = {}
    for target in run.targets:
        pairs = [(recipe, name) for recipe in run.recipes for name in FRAMEWORKS]
        wanted = [(name, recipe, target) for recipe, name in pairs if (name, recipe, target) in cells]
        if wanted:
            found |= _worked(run, build, target, _plan(wanted, run.rounds))
    return found


def _plan(wanted: list[Cell], rounds: int) -> list[tuple[Cell, bool]]:
    """Cells in the order in which they are exported, and whether the time counts. The first of each framework does not
    count, because it imports the converter. Every other round runs backwards."""
    first = {cell[0]: cell for cell in reversed(wanted)}
    plan = [(cell, False) for cell in first.values()]
    for number in range(rounds):
        plan += [(cell, True) for cell in (wanted if number % 2 == 0 else wanted[::-1])]
    return plan


def _worked(run: Run, build: Store, target: str, plan: list[tuple[Cell, bool]]) -> dict[Cell, Samples]:
    """The results of a plan, carried out by the process that exports to a target."""
    say(f"  exports to {target}: {len(plan)}")
    left, found = list(plan), dict[Cell, Samples]()

    def each(line: str) -> None:
        event = json.loads(line)
        if event.get("disk_full"):
            raise DiskFull(event["disk_full"])
        cell, counts = left.pop(0)
        samples = found.setdefault(cell, [])
        if event["status"] != "ok":
            found[cell] = event["says"]
        elif counts and isinstance(samples, list):
            samples.append((float(f"{event['seconds']:.6g}"),))

    recipes = {recipe.name: recipe for recipe in run.plan.recipes}
    command = export.process(build, target, [(run.jobs[name], recipes[recipe]) for (name, recipe, _), _ in plan])
    done = proc.watch(command, each, {"PYTHONHASHSEED": "0"})
    for cell, _ in left:
        found[cell] = f"failed: {done.reason}"
    return found


def _copied(run: Run) -> Store:
    """A build folder with only checkpoints and graphs, so that every export in it is made."""
    build = Store(run.scratch / "exports")
    for name in FRAMEWORKS:
        checkpoint = run.checkpoint(name)
        model = checkpoint.spec.name
        for folder in (run.build.checkpoint(model, name), *run.build.home(model, name).glob("**/graphs")):
            shutil.copytree(folder, build.root / folder.relative_to(run.build.root))
        assert quantizing.ready(build, run.jobs[name], checkpoint, None) is not None  # `prepare` has exported
    return build


# -- benches -----------------------------------------------------------------------------------------------------------


def benched(run: Run, found: Mapping[Cell, rows.Row]) -> dict[str, dict[Cell, Samples]]:
    """Times and memory of every file that the host can run: one edge-bench process each, the frameworks in turn."""
    device, targets = devices.find(DEVICE), {target.name: target for target in run.plan.targets}
    images = push.evaluation(run.build, run.jobs["torch"], run.checkpoint("torch"))
    kept: dict[str, dict[Cell, Samples]] = {"ms": {}, "load_ms": {}, "peak_mb": {}}
    wanted = [cell for cell, row in found.items() if row.artifact and row.home]
    wanted.sort(key=lambda cell: (cell[1:], list(FRAMEWORKS).index(cell[0])))
    for number in range(run.rounds):
        say(f"  benches, round {number + 1}: {len(wanted)}")
        for cell in wanted if number % 2 == 0 else wanted[::-1]:
            artifact = found[cell].artifact
            assert artifact is not None
            path = run.build.cell(artifact.model, *cell) / artifact.file
            runtime = device.runtime(targets[cell[2]])
            assert runtime is not None  # it has run before
            done = device.call(run.build, runtime, _arguments(artifact, path, images, runtime), TIME_LIMIT)
            if done.code != 0:
                for samples in kept.values():
                    samples[cell] = f"failed: {done.reason}"
                continue
            printed = done.result("runs", "load_ns", "peak_rss_bytes")
            _add(kept["ms"], cell, tuple(float(f"{ns / loops / 1e6:.5g}") for loops, ns in printed["runs"]))
            _add(kept["load_ms"], cell, (float(f"{printed['load_ns'] / 1e6:.5g}"),))
            _add(kept["peak_mb"], cell, (printed["peak_rss_bytes"] / 1e6,))
    return kept


def _arguments(artifact: Artifact, path: Path, images: Path, runtime: str) -> list[str | Path]:
    layout = ["--layout", artifact.inputs[0].layout] if artifact.inputs[0].layout else []
    bounds = ["--min-runs", str(LEAST_RUNS), "--min-seconds", str(LEAST_SECONDS)]
    return ["run", path, "--inputs", images, "--runtime", runtime, "--threads", "1", *layout, *bounds]


def _add(samples: dict[Cell, Samples], cell: Cell, values: tuple[float, ...]) -> None:
    kept = samples.setdefault(cell, [])
    if isinstance(kept, list):  # else an earlier round failed
        kept.append(values)
