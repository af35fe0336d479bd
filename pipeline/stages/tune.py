"""Tune: find the int8 recipe with the fewest layers in float whose accuracy drop stays within a budget; where layers in
float are not enough or cost much, train the quantized graph.

The search compares graphs with the float model on the validation split, which neither calibrates nor tests. The final
figure is on the test split.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import registry, stats, tasks
from pipeline.core import Checkpoint, Recipe, Sensitivity
from pipeline.datasets import Split
from pipeline.errors import BadOption, StageFailed
from pipeline.results import keys, noise, predictions, tuning
from pipeline.results.tuning import Test, Trial, Tuning
from pipeline.stages import export, measure, qat, quantize, sensitivity, train
from pipeline.stages.plan import Job, Plan, TrainingOptions
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store, digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLIT = "validation"
FOLDER, MANIFEST, PAGE, RECIPE = "tune", "tune.json", "tune.html", "int8_tuned.toml"

MUCH = 0.1
"""A search that leaves more than this share of the multiply-adds in float also trains the quantized graph: the training
costs time once, layers in float cost time at every inference."""


@dataclass(frozen=True)
class Budget:
    """What a search must meet.

    Attributes:
        max_drop: in percentage points: the upper end of the 95 % interval of the drop must be below it.
        minimize: "latency" or "size": what leaving a group in float costs.
        max_size: bytes that a file of the plan's targets may have; None for any.
        qat: whether the quantized graph may be trained.
    """

    max_drop: float = 0.5
    minimize: str = "latency"
    max_size: int | None = None
    qat: bool = True


def tune(build: Store, plan: Plan, budget: Budget) -> list[Tuning]:
    """Searches for each job of a plan, exports the recipe found, and measures it on the plan's devices.

    Raises:
        BadOption: the budget or the plan's recipe is invalid, or no file can be as small as `budget.max_size`.
        ExportsFailed: some of the files cannot be made.
        StageFailed: a file cannot be measured.
    """
    check(plan, budget)
    (base,) = plan.recipes
    found = []
    for job in plan.jobs:
        (checkpoint,) = train.train(build, replace(plan, frameworks=(job.framework,)))
        with store.lock(build, f"tuning of {plan.model.spec.name}"):
            one = _searched(build, plan, job, checkpoint, base, budget)
        found.append(one)
        made = replace(plan, recipes=(one.recipe,), frameworks=(job.framework,))
        export.raise_if_failed(export.export(build, made))
        if plan.devices:
            _raise_failure(measure.bench(build, made, measure.Options()))
    return found


def _raise_failure(results: Sequence[measure.Result]) -> None:
    for result in results:
        if result.failure:
            raise result.failure


def check(plan: Plan, budget: Budget) -> None:
    """
    Raises:
        BadOption: the budget or the plan's recipe is invalid.
    """
    if not 0 < budget.max_drop < 100:
        raise BadOption(f"--max-drop {budget.max_drop:g}: it must be between 0 and 100 points")
    if budget.minimize not in tuning.MINIMIZE:
        raise BadOption(f"--minimize {budget.minimize!r}: it must be one of {', '.join(tuning.MINIMIZE)}")
    if len(plan.recipes) != 1:
        raise BadOption("inv tune begins with one recipe: name one with --recipe")
    sensitivity.check(plan.recipes)


def _searched(build: Store, plan: Plan, job: Job, checkpoint: Checkpoint, base: Recipe, budget: Budget) -> Tuning:
    from pipeline.report import tune as report

    started = time.perf_counter()
    found = sensitivity.measured(build, job, checkpoint, base).sensitivity
    grows = _room(build, plan, job, checkpoint, base, budget)
    order = tuning.order(found, budget.minimize, grows)
    split = train.split_of(checkpoint, job, SPLIT)
    evaluation = _Evaluation(build, job, checkpoint, base, split, found, order)
    trials, chosen, outcome = tuning.search(evaluation.trial, len(order), budget.max_drop)
    found_enough = tuning.enough(trials[chosen], outcome, budget.max_drop)
    if budget.qat and (not found_enough or trials[chosen].multiply_adds > MUCH):
        try:
            trials.append(evaluation.trained())
        except StageFailed as error:  # what was found without training is still worth having
            say(f"  trained: failed: {error}")
        else:
            chosen, outcome = tuning.with_training(trials, chosen, outcome, budget.max_drop)
    best = trials[chosen]
    home = build.home(checkpoint.spec.name, checkpoint.framework) / FOLDER
    recipe, file = base, None
    if best.in_float or best.trained:
        recipe, file = _trained(base) if best.trained else _mixed(base, best.in_float, _tuned(base)), home / RECIPE
        store.write_text(file, _toml(recipe))
    made = Tuning(
        model=checkpoint.spec.name,
        framework=checkpoint.framework,
        base=base.name,
        split=SPLIT,
        max_drop=budget.max_drop,
        minimize=budget.minimize,
        max_bytes_more=grows,
        order=tuple(order),
        trials=tuple(trials),
        chosen=chosen,
        outcome=outcome,
        reason=_reason(best, outcome, budget.max_drop),
        recipe=recipe,
        file=str(file) if file else None,
        test=_test(build, job, checkpoint, recipe),
        seconds=time.perf_counter() - started,
    )
    store.write(home / MANIFEST, made)
    store.write_text(home / PAGE, report.page(made))
    return made


def _room(build: Store, plan: Plan, job: Job, checkpoint: Checkpoint, base: Recipe, budget: Budget) -> int | None:
    """By how many bytes the largest file of the plan's targets may grow.

    Raises:
        BadOption: it is too large without any layer in float.
    """
    if budget.max_size is None:
        return None
    outcomes = export.export(build, replace(plan, recipes=(base,), frameworks=(job.framework,)))
    export.raise_if_failed(outcomes)
    largest = max((o for o in outcomes if o.artifact), key=lambda o: o.artifact.size_bytes if o.artifact else 0)
    assert largest.artifact is not None
    room = budget.max_size - largest.artifact.size_bytes
    if room < 0:
        raise BadOption(
            f"--max-size {budget.max_size}: the {largest.target} file of {checkpoint.spec.name} under {base.name} has "
            f"{largest.artifact.size_bytes:,} bytes already"
        )
    return room


@dataclass(frozen=True)
class _Evaluation:
    """Evaluates the recipe with the first groups of an order in float."""

    build: Store
    job: Job
    checkpoint: Checkpoint
    base: Recipe
    split: Split
    found: Sensitivity
    order: Sequence[str]

    @property
    def captured(self) -> Path:
        """The folder of the float graph."""
        return self.build.graphs(self.checkpoint.spec.name, self.checkpoint.framework)

    @cached_property
    def float_scores(self) -> NDArray[np.float64]:
        """Whether the float graph classifies each sample correctly."""
        return quantize.scores(self.job, self.captured, self.split)

    def trial(self, count: int) -> Trial:
        """The accuracy on the tuning split with this many groups in float."""
        in_float = tuple(self.order[:count])
        recipe = _mixed(self.base, in_float, self.base.name) if in_float else self.base
        return self._kept(recipe, in_float, self._calibrated)

    def trained(self) -> Trial:
        """The accuracy with no group in float, trained on simulated quantization."""
        return self._kept(_trained(self.base), (), self._trained)

    def _calibrated(self, recipe: Recipe) -> NDArray[np.float64]:
        framework = self.job.framework.module
        with tempfile.TemporaryDirectory(prefix="lastmile-") as scratch:
            folder = Path(scratch) / "graphs"
            images, _ = quantize.calibration_set(self.job, self.checkpoint, recipe)
            framework.quantize(self.captured, self.checkpoint.spec.input_range, images, folder, recipe)
            return quantize.scores(self.job, folder, self.split)

    def _trained(self, recipe: Recipe) -> NDArray[np.float64]:
        _train(self.build, self.job, self.checkpoint, recipe)
        folder = self.build.graphs(self.checkpoint.spec.name, self.checkpoint.framework, recipe.name)
        return quantize.scores(self.job, folder, self.split)

    def _kept(
        self, recipe: Recipe, in_float: tuple[str, ...], scored: Callable[[Recipe], NDArray[np.float64]]
    ) -> Trial:
        """The trial of a recipe: the one that is stored, or made now."""
        key = digest([keys.graph(self.checkpoint, recipe), self.split.sha256, registry.code_hash(__name__)])
        path = self.build.home(self.checkpoint.spec.name, self.checkpoint.framework) / FOLDER / f"{key[:16]}.json"
        known = store.read_or_warn(Trial, path)
        if known is not None and known.key == key:
            return known
        started = time.perf_counter()
        scores, classes = scored(recipe), tasks.of(self.checkpoint.spec).CLASSES
        lost, gained = stats.discordant(self.float_scores, scores) if classes else (None, None)
        drop, interval = stats.mean_drop(self.float_scores, scores)
        work = max(1, sum(group.multiply_adds for group in self.found.groups))
        chosen = [group for group in self.found.groups if group.name in in_float]
        trained = recipe.training == "qat"
        trial = Trial(
            in_float=in_float,
            trained=trained,
            samples=len(scores),
            lost=lost,
            gained=gained,
            drop_points=drop,
            interval=interval,
            predicted_db=None if trained else stats.decibels(1, self.found.predicted(in_float)),
            bytes_more=sum(map(noise.bytes_more, chosen)),
            multiply_adds=sum(group.multiply_adds for group in chosen) / work,
            seconds=time.perf_counter() - started,
            key=key,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write(path, trial)
        low, high = interval
        what = "trained" if trained else f"{len(in_float)} of {len(self.found.groups)} groups in float"
        say(
            f"  {what}: {drop:+.2f} points [{low:+.2f}, {high:+.2f}] on {len(scores):,} {SPLIT} samples, in "
            f"{trial.seconds:.1f} s"
        )
        return trial


def _tuned(base: Recipe) -> str:
    """The name of the recipe that a search finds."""
    return f"{base.name}_tuned"


def _trained(base: Recipe) -> Recipe:
    """The recipe whose graph is trained."""
    return replace(
        base, name=_tuned(base), summary=f"{base.summary}; trained on simulated quantization", training="qat"
    )


def _train(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Trains the recipe's graph as `inv train --recipe` does, unless it exists. The caller holds the lock."""
    plain = replace(job, training=TrainingOptions(accelerator=job.training.accelerator))
    qat.ensure(build, plain, checkpoint, recipe)


def _mixed(base: Recipe, in_float: Sequence[str], name: str) -> Recipe:
    """A recipe with these groups in float as well."""
    more = tuple((group, "float32") for group in in_float)
    summary = f"{base.summary}; {len(more)} groups of layers in float"
    return replace(base, name=name, summary=summary, exceptions=(*base.exceptions, *more))


def _toml(recipe: Recipe) -> str:
    """A recipe as the file that --recipe reads."""
    lines = ["# made by inv tune", f"name = {json.dumps(recipe.name)}", f"summary = {json.dumps(recipe.summary)}"]
    lines += [f'weights = "{recipe.weights}"', f'bias_correction = "{recipe.bias_correction}"']
    lines += [f'activations = "{recipe.activations}"', f"calibration = {recipe.calibration}"]
    lines += [f'training = "{recipe.training}"', "exceptions = ["]
    lines += [f"  [{json.dumps(pattern)}, {json.dumps(dtype)}]," for pattern, dtype in recipe.exceptions]
    return "\n".join([*lines, "]"]) + "\n"


def _test(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe) -> Test:
    """The drop of a recipe's graph on the test split."""
    if recipe.training == "qat":
        _train(build, job, checkpoint, recipe)
    else:
        quantize.quantize(build, job, checkpoint, recipe)
    test = train.split_of(checkpoint, job)
    name, framework = checkpoint.spec.name, checkpoint.framework
    scores = quantize.scores(job, build.graphs(name, framework, recipe.name), test)
    outputs, labels = predictions.read(
        build.checkpoint(name, framework), checkpoint.predictions, checkpoint.predictions_sha256
    )
    drop, interval = stats.mean_drop(tasks.of(checkpoint.spec).scores(outputs, labels), scores)
    return Test(len(scores), drop, interval)


def _reason(best: Trial, outcome: str, max_drop: float) -> str:
    low, high = best.interval
    found = f"the drop is {best.drop_points:+.2f} points [{low:+.2f}, {high:+.2f}] on {best.samples:,} {SPLIT} samples"
    if outcome == tuning.MET:
        return f"{found}, below {max_drop:g}"
    if outcome == tuning.NOT_MET:
        return f"{found}: nothing that was tried keeps it below {max_drop:g}"
    if best.lost is None or best.gained is None:
        needed = stats.samples_needed_of_mean(best.drop_points, best.interval, best.samples, max_drop)
    else:
        needed = stats.samples_needed(best.lost, best.gained, best.samples, max_drop)
    return f"{found}: too few to tell whether it is below {max_drop:g}" + (
        f"; about {needed:,} would" if needed else ""
    )
