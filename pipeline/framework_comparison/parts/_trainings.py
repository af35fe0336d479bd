"""Trains in both frameworks in turn. Each training has its own build folder, which the framework's next one removes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.framework_comparison.parts import Run
from pipeline.framework_comparison.parts._turns import Turns, take
from pipeline.stages.plan import TrainingOptions
from pipeline.system import store
from pipeline.system.store import Store


@dataclass(frozen=True)
class Way:
    """Where a training runs."""

    name: str
    accelerator: str
    devices: int


WAYS = (
    Way("one CPU worker", "cpu", 1),
    Way("two CPU workers", "cpu", 2),
    Way("one GPU", "cuda", 1),
    Way("two GPUs", "cuda", 2),
)


def train_in_turn(run: Run, way: Way, epochs: int | None, rounds: int = 0) -> Turns:
    """Trains in turn. A training's files remain in `home` until the framework's next training."""

    def ask(framework: str, number: int) -> dict[str, object]:
        store.remove(home(run, framework).root)
        return {"build": str(home(run, framework).root), "job": _job(run, way, framework, epochs, number)}

    return take(run, f"training, {way.name}", "training", ask, rounds)


def home(run: Run, framework: str) -> Store:
    """The build folder of a framework's measured trainings."""
    return Store(run.scratch / f"build-{framework}")


def _job(run: Run, way: Way, framework: str, epochs: int | None, seed: int) -> dict[str, object]:
    """A training job in its own build folder."""
    data = run.checkpoint(framework).data
    options = TrainingOptions(epochs=epochs, seed=seed, accelerator=way.accelerator, devices=way.devices, resume=False)
    job = replace(run.jobs[framework], data=None if data is None else Path(data), training=options)
    return job.to_json()
