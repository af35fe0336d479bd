"""The parts of the comparison. Each measures PyTorch and TensorFlow in turn, in one run on one machine.

Every public module here is a part and has the functions of `Comparison`. Code that needs a framework runs in its own
process, which imports that framework and not the other: `_turns.py` starts the process, `_probe.py` is its entry point,
and `_torch.py` and `_keras.py` have the same functions. Raw samples are stored; verdicts.py judges them when the report
is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pipeline import registry, sources
from pipeline.core import SCHEMA, Checkpoint
from pipeline.stages import train
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.store import Store

FRAMEWORKS = {"torch": "PyTorch", "keras": "TensorFlow"}
"""The two frameworks, with the names shown in the report."""

REGISTRY = "framework_comparison.parts"
"""The name of this folder in pipeline/registry.py."""

MEASURED, EXACT, PAIRED = "measured", "exact", "paired"
"""Kinds of rows. Measured: both frameworks are timed in the same rounds, and rounds are paired. Exact: a count that is
the same in every round. Paired: both models predict the same test samples."""


@dataclass(frozen=True)
class Side:
    """One framework's result in a row.

    Attributes:
        samples: raw figures in the row's unit, one tuple per round.
        interval: the figure's own 95 % interval, if it has one.
        text: text to show instead of the figure: a message or a status.
        reason: why there is no figure.
    """

    samples: tuple[tuple[float, ...], ...] = ()
    interval: tuple[float, float] | None = None
    text: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """One figure, measured in both frameworks.

    Attributes:
        table: the heading of the table that contains the row.
        what: the row's name.
        better: "lower", "higher" or "neither".
        kind: MEASURED, EXACT or PAIRED.
        sides: the results by framework.
        differences: in PAIRED rows: (TensorFlow's minus PyTorch's, number of test samples with this difference).
    """

    table: str
    what: str
    unit: str
    better: str
    kind: str
    sides: Mapping[str, Side]
    differences: tuple[tuple[int, int], ...] = ()

    @property
    def torch(self) -> Side:
        return self.sides["torch"]

    @property
    def keras(self) -> Side:
        return self.sides["keras"]


@dataclass(frozen=True)
class Curve:
    """A line of a chart: points (x, y)."""

    chart: str
    framework: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Part:
    """A measured part of the comparison: the manifest.

    Attributes:
        notes: remarks for the reader.
        loaded: heavy packages that each framework's processes had imported when they ended.
        machine, tools: the machine and the versions.
        load: one-minute load averages at the start and at the end.
        key: cache key: the hash of all inputs.
    """

    name: str
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    loaded: Mapping[str, tuple[str, ...]]
    machine: Mapping[str, str]
    tools: Mapping[str, str]
    load: tuple[float, float]
    started_at: str
    seconds: float
    key: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Found:
    """The result of a part's `measure`; run.py adds the rest of `Part`."""

    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    loaded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What to compare, and with how many rounds.

    Attributes:
        plan: the model in both frameworks, and the combinations to export and measure.
        rounds: number of measurements of each figure in each framework, in turn.
        epochs: number of epochs of measured trainings; None for the model's own.
        accuracy: the validation accuracy, from 0 to 1, to which training is timed; None for the highest whole percent
            that every training reaches.
        scratch: a temporary folder that exists while a part is measured.
    """

    build: Store
    plan: Plan
    rounds: int
    epochs: int | None
    accuracy: float | None
    scratch: Path

    @property
    def model(self) -> sources.Model:
        """The model folder with its spec."""
        return self.plan.model

    @property
    def jobs(self) -> dict[str, Job]:
        """By framework."""
        return {job.framework.name: job for job in self.plan.jobs}

    @property
    def targets(self) -> list[str]:
        """Names of the plan's targets."""
        return [target.name for target in self.plan.targets]

    @property
    def recipes(self) -> list[str]:
        """Names of the plan's recipes."""
        return [recipe.name for recipe in self.plan.recipes]

    def into(self, scratch: Path) -> Run:
        """The same run with this scratch folder."""
        return replace(self, scratch=scratch)

    def make(self, framework: str) -> Checkpoint:
        """A framework's checkpoint, trained now if it does not exist; for `prepare`."""
        if train.ready(self.build, self.jobs[framework]) is None:
            with store.lock(self.build, f"training of {self.model.spec.name}"):
                train.ensure(self.build, self.jobs[framework])
        return self.checkpoint(framework)

    def checkpoint(self, framework: str) -> Checkpoint:
        """A framework's checkpoint, which `prepare` has ensured."""
        found = train.ready(self.build, self.jobs[framework])
        assert found is not None
        return found


class Comparison(Protocol):
    """The interface of a part.

    Attributes:
        ORDER: its position in the report.
        TITLE: its heading in the report.
        ABOUT: what is measured and how, for the reader.
    """

    ORDER: int
    TITLE: str
    ABOUT: str

    def prepare(self, run: Run) -> object:
        """Makes checkpoints and exports that `measure` needs, and returns what identifies them, for the cache key."""

    def measure(self, run: Run) -> Found:
        """Measures both frameworks in turn."""


def parts() -> list[str]:
    """The names of the parts in report order."""
    return sorted(
        registry.names(REGISTRY),
        key=lambda name: int(registry.load(REGISTRY, name).ORDER),
    )
