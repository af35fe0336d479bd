"""Plans and jobs for tests, of the tiny model by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.devices import BoundDevice
from pipeline.errors import PipelineError
from pipeline.stages import export, measure
from pipeline.stages.export import Outcome
from pipeline.stages.plan import ALL, Job, Names, Plan, TrainingOptions, recipes_of
from pipeline.system.store import Store

TINY = Path(__file__).parent / "models" / "tiny"
RECIPES = [recipe.name for recipe in recipes_of(ALL)]
"""The recipes of "all": those that need no training of the quantized network."""
QUICK = measure.Options(min_runs=3, min_seconds=0.0, time_limit=300.0, processes=1)
TRAINING = {field.name for field in fields(TrainingOptions)}


def plan(targets: Names = ALL, recipes: Names = ALL, **more: Any) -> Plan:
    """A plan; `more` are arguments of `Plan.resolve` (`devices` too) and fields of `TrainingOptions`."""
    options = TRAINING - {"devices"}
    training = TrainingOptions(**{"accelerator": "cpu", **{k: v for k, v in more.items() if k in options}})
    own = {name: value for name, value in more.items() if name not in options}
    return Plan.resolve(own.pop("model", TINY), targets=targets, recipes=recipes, training=training, **own)


def job(**more: Any) -> Job:
    """The job of a plan with one framework; arguments as for `plan`, but one `framework`."""
    (found,) = plan(frameworks=more.pop("framework", "torch"), **more).jobs
    return found


def changed(job: Job, **more: Any) -> Job:
    """A job with another framework, other data or weights, or other training options."""
    training = replace(job.training, **{name: value for name, value in more.items() if name in TRAINING})
    own = {name: value for name, value in more.items() if name not in TRAINING}
    if "framework" in own:
        own["framework"] = registry.bind("frameworks", own["framework"])
    return replace(job, training=training, **own)


@dataclass(frozen=True)
class Cells:
    """The exported files of a plan."""

    build: Store
    plan: Plan
    outcomes: Sequence[Outcome]

    def bench(self, device: BoundDevice, options: measure.Options = QUICK) -> list[PipelineError]:
        """Measures the files and returns the failures."""
        found = measure.measure(self.build, self.plan, self.outcomes, device, options)
        return [result.failure for result in found if result.failure]


def cells(build: Store, targets: Names = ALL, recipes: Names = ALL, **more: Any) -> Cells:
    """The up-to-date files of a plan. All of them must exist."""
    made = plan(targets, recipes, **more)
    found = [outcome for job in made.jobs for outcome in export.current(build, made, job) or []]
    assert len(found) == len(made.jobs) * len(made.targets) * len(made.recipes)
    return Cells(build, made, found)
