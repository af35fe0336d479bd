"""Drift: compare every layer of a cell: the float graph, the quantized graph, the file on this machine and on a device.

The file that runs has the layers' values as more outputs, so that every device runs it as it runs any other file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import devices
from pipeline.core import Checkpoint, Recipe, to_json
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, StageFailed
from pipeline.registry import Plugin
from pipeline.report import drift as reporting
from pipeline.results import drift as comparing
from pipeline.results.drift import DEVICE, FLOAT, GRAPH, HOST, Drift
from pipeline.stages import train
from pipeline.stages._drift_process import IMAGES, VALUES
from pipeline.stages.export import Outcome, export
from pipeline.stages.plan import Job, Plan
from pipeline.system import proc, store
from pipeline.system.progress import working
from pipeline.system.store import Store
from pipeline.targets import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 16
"""Test images. All values of all layers are kept for each."""
SECONDS = 600.0
LOCAL = "local"
MANIFEST, PAGE = "drift.json", "drift.html"
FILE, VARIANT = "the file with more outputs", "a file made from the graph with more outputs"


def drift(build: Store, plan: Plan, below: float = comparing.BELOW) -> list[Drift]:
    """Exports what is missing of a plan, then compares the layers of every cell that its target supports. A file or a
    graph that failed its check is compared as well: that is what the command is for.

    Raises:
        BadOption: there is nothing to compare, or more than one device.
        StageFailed: a side could not run.
    """
    if len(plan.devices) > 1:
        raise BadOption("inv drift compares this machine with one device: name one with --device")
    outcomes = export(build, plan)
    cells = [
        _Cell(build, plan, job, recipe, target, outcome)
        for job in plan.jobs
        for recipe in plan.recipes
        for target in plan.targets
        for outcome in outcomes
        if (outcome.framework, outcome.recipe, outcome.target) == (job.framework.name, recipe.name, target.name)
        and outcome.status != "unsupported"
    ]
    if not cells:
        raise BadOption("nothing to compare: " + "; ".join(dict.fromkeys(str(outcome.reason) for outcome in outcomes)))
    return [_compared(cell, below) for cell in cells]


def write(build: Store, found: Drift) -> Path:
    """Writes drift.json and a page with charts beside the cell's file; returns the page's path.

    Raises:
        DiskFull: no space is left on the disk.
    """
    folder = build.cell(found.model, found.framework, found.recipe, found.target) / "drift"
    folder.mkdir(parents=True, exist_ok=True)
    store.write(folder / MANIFEST, found)
    store.write_text(folder / PAGE, reporting.page(found))
    return folder / PAGE


@dataclass(frozen=True)
class _Cell:
    """One file to look into."""

    build: Store
    plan: Plan
    job: Job
    recipe: Recipe
    target: Plugin[Target]
    outcome: Outcome

    @property
    def exported(self) -> Path | None:
        """The exported file, if there is one. One that failed its check is there too."""
        spec = self.job.model.spec
        folder = self.build.cell(spec.name, self.job.framework.name, self.recipe.name, self.target.name)
        path = folder / f"model{self.target.module.SUFFIX}"
        return path if path.exists() else None

    @property
    def device(self) -> BoundDevice | None:
        """The device to compare with this machine, if one is named."""
        return next((device for device in self.plan.devices if device.name != LOCAL), None)


def _compared(cell: _Cell, below: float) -> Drift:
    checkpoint = train.ready(cell.build, cell.job)
    if checkpoint is None:
        raise StageFailed(str(cell.outcome.reason))
    work = store.unfinished(cell.build.root / "drift")
    work.mkdir(parents=True)
    try:
        return _in(work, cell, checkpoint, below)
    finally:
        store.remove(work)


def _in(work: Path, cell: _Cell, checkpoint: Checkpoint, below: float) -> Drift:
    import numpy as np

    images = train.split_of(checkpoint, cell.job).inputs(range(min(SAMPLES, checkpoint.samples)))
    np.save(work / IMAGES, images)
    answer = _computed(work, cell)
    problems = [answer["problem"]] if answer["problem"] else []
    if cell.outcome.status == "failed":
        problems.append(f"the export failed: {cell.outcome.reason}")
    device, host = cell.device, devices.find(LOCAL)
    outputs: dict[str, list[NDArray[Any]]] = {}
    places = {FLOAT: f"float graph from {cell.job.framework.name}"}
    if cell.recipe.static:
        places[GRAPH] = "quantized graph"
    file_snr = None
    if answer["file"]:
        for place, where in ((HOST, host), (DEVICE, device)):
            if where is None:
                continue
            reason = where.unsupported(cell.target)
            if reason:
                problems.append(f"{where.name}: {reason}")
                continue
            places[place], outputs[place] = _predicted(cell, where, work / answer["file"], work)
        if HOST in outputs and cell.exported is not None:
            _, own = _predicted(cell, host, cell.exported, work)
            file_snr = min(comparing.snr_db(a, b) for a, b in zip(own, outputs[HOST], strict=False))
    with np.load(work / VALUES, allow_pickle=False) as kept:
        graphs = {name: kept[name] for name in kept.files}
    layers, values = [], []
    for i, one in enumerate(answer["layers"]):
        own_values = {place: graphs[f"{place}_{i}"] for place in (FLOAT, GRAPH) if f"{place}_{i}" in graphs}
        if one["place"] is not None:
            output, axes = one["place"]
            own_values |= {place: _transposed(arrays[output], axes) for place, arrays in outputs.items()}
        why = {place: reason for place, reason in one["not_mapped"].items() if place in places}
        layers.append(comparing.layer(one["name"], one["operators"], own_values, why))
        values.append(own_values)
    for i in comparing.worth_looking_at(layers, below):
        layers[i] = replace(layers[i], histogram=comparing.histogram(values[i]))
    return Drift(
        model=checkpoint.spec.name,
        framework=cell.job.framework.name,
        recipe=cell.recipe.name,
        target=cell.target.name,
        device=device.name if device else None,
        samples=len(images),
        below=below,
        places=places,
        layers=tuple(layers),
        first=comparing.first_below(layers, below),
        first_not_finite=comparing.first_not_finite(layers),
        file=FILE if answer["exported"] else VARIANT,
        file_snr_db=file_snr,
        problems=tuple(problems),
    )


def _transposed(values: NDArray[Any], axes: list[int] | None) -> NDArray[Any]:
    """Values (samples, …) with their axes as the float graph has them. Args: axes: with the batch axis."""
    return values if axes is None else values.transpose(axes)


def _computed(work: Path, cell: _Cell) -> dict[str, Any]:
    """Runs `_drift_process` for a cell.

    Raises:
        StageFailed: the graphs cannot be made.
    """
    request = {
        "build": str(cell.build.root), "work": str(work), "job": cell.job.to_json(),
        "recipe": to_json(cell.recipe), "target": cell.target.name,
        "exported": str(cell.exported) if cell.exported else None,
    }  # fmt: skip
    with working(f"computing the layers of {cell.target.name} {cell.recipe.name}"):
        done = proc.run([sys.executable, "-m", "pipeline.stages._drift_process", json.dumps(request)])
    if done.code != 0:
        raise StageFailed(f"{cell.target.name} {cell.recipe.name}: {done.reason}")
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def _predicted(cell: _Cell, device: BoundDevice, file: Path, work: Path) -> tuple[str, list[NDArray[Any]]]:
    """What runs the file on a device, and all its outputs for the images.

    Raises:
        StageFailed: the device cannot run it.
    """
    import numpy as np

    runtime, build, images = device.runtime(cell.target), cell.build, work / IMAGES
    assert runtime is not None  # the device supports the target
    out = work / f"{device.name}.npz"
    words: list[str | Path] = ["predict", file, "--inputs", images, "--runtime", runtime, "--out", out]
    words += ["--layout", cell.target.module.LAYOUT] if cell.job.model.spec.image else []
    with device.exclusive(build):
        device.setup(build, runtime)
        device.push(build, [file, images])
        done = device.call(build, runtime, words, SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: {done.reason.removeprefix('edge-bench: ')}")
    ran = done.result("runtime")["runtime"]
    with np.load(out, allow_pickle=False) as kept:
        arrays = [kept[f"output_{i}"] for i in range(len(kept.files))]
    return f"{ran['name']} {ran['version']} on {device.name}", arrays
