"""Sensitivity: how much noise each group of layers adds in static int8, and what it costs to leave it in float."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import registry
from pipeline.core import SCHEMA, Checkpoint, Recipe, Sensitivity
from pipeline.errors import BadOption
from pipeline.recipes import _exceptions
from pipeline.results import collect, keys, noise
from pipeline.results.noise import Time
from pipeline.stages import quantize, train
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store, digest

MANIFEST, PAGE = "sensitivity.json", "sensitivity.html"


@dataclass(frozen=True)
class Measured:
    """The sensitivity of a model under a recipe: the manifest beside the recipe's graphs."""

    model: str
    framework: str
    recipe: str
    sensitivity: Sensitivity
    seconds: float
    key: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Result:
    """What `sensitivity` found.

    Attributes:
        time: of the fp32 and int8 files on the plan's device; None without a device.
        page: an HTML page with a chart.
    """

    model: str
    framework: str
    recipe: str
    sensitivity: Sensitivity
    time: Time | None
    page: Path


def sensitivity(build: Store, plan: Plan) -> list[Result]:
    """Trains and captures what is missing of a plan, then measures each of its jobs under each of its recipes.

    Raises:
        BadOption: a recipe is not static; or there is a device, and files were not measured on it.
        StageFailed: the quantizer cannot quantize the graph.
    """
    check(plan.recipes)
    found = []
    for job in plan.jobs:
        (checkpoint,) = train.train(build, replace(plan, frameworks=(job.framework,)))
        with store.lock(build, f"sensitivity of {plan.model.spec.name}"):
            found += [_result(build, plan, job, checkpoint, recipe) for recipe in plan.recipes]
    return found


def check(recipes: tuple[Recipe, ...]) -> None:
    """
    Raises:
        BadOption: a recipe is not static.
    """
    for recipe in recipes:
        if not recipe.static:
            raise BadOption(f"{recipe.name} has no calibrated graph: name a recipe with int8 activations, such as int8")
        if recipe.training != "ptq":
            raise BadOption(f"{recipe.name} trains its graph: name a recipe that is only calibrated, such as int8")


def _result(build: Store, plan: Plan, job: Job, checkpoint: Checkpoint, recipe: Recipe) -> Result:
    from pipeline.report import sensitivity as report

    found = measured(build, job, checkpoint, recipe)
    time = cost(build, plan, job, checkpoint)
    page = folder(build, checkpoint, recipe) / PAGE
    store.write_text(page, report.page(found.model, recipe.name, found.sensitivity, time))
    return Result(found.model, found.framework, recipe.name, found.sensitivity, time, page)


def cost(build: Store, plan: Plan, job: Job, checkpoint: Checkpoint) -> Time | None:
    """What the fp32 and int8 files of a plan's first target take on its device; None without a device.

    Raises:
        BadOption: they were not measured there.
    """
    if not plan.devices:
        return None
    model, framework = checkpoint.spec.name, checkpoint.framework
    device, target = plan.devices[0].name, plan.targets[0].name
    found = noise.time(collect.cells(build, [(model, framework)]), model, framework, device, target)
    if found is None:
        bench = f"inv bench --target {target} --recipe fp32,int8 --device {device}{checkpoint.options}"
        raise BadOption(f"the fp32 and int8 files of {target} were not measured on {device}: run {bench} first")
    return found


def measured(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe) -> Measured:
    """The existing manifest, if it is up to date, or a new one."""
    spec = checkpoint.spec
    path = folder(build, checkpoint, recipe) / MANIFEST
    key = digest([keys.graph(checkpoint, recipe), registry.code_hash(__name__)])
    found = store.read_or_warn(Measured, path)
    if found is not None and found.key == key:
        return found
    _exceptions.check(recipe, quantize.quantize(build, job, checkpoint, None).operations)
    started = time.perf_counter()
    images, _ = quantize.calibration_set(job, checkpoint, recipe)
    captured = build.graphs(spec.name, checkpoint.framework)
    noise = job.framework.module.sensitivity(captured, spec.input_range, images, recipe)
    found = Measured(spec.name, checkpoint.framework, recipe.name, noise, time.perf_counter() - started, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write(path, found)
    say(f"{spec.name}: noise of {len(noise.groups)} groups in {found.seconds:.1f} s")
    return found


def folder(build: Store, checkpoint: Checkpoint, recipe: Recipe) -> Path:
    """Where the sensitivity of a checkpoint under a recipe is stored."""
    return build.home(checkpoint.spec.name, checkpoint.framework) / recipe.name
