"""Comparisons: PyTorch beside TensorFlow, each figure of both measured in turn, in one run on one machine.

A module here is a part of the comparison with the verbs of `Comparison`. What needs a framework runs in a process of
its own, which has that framework and not the other: `_turns.py` starts it, `_probe.py` is it, and `_torch.py` and
`_keras.py` have the same verbs. Raw samples are kept; verdicts.py makes verdicts of them when they are read.
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
"""The two that are compared, and what people call them."""

REGISTRY = "framework_comparison.parts"
"""This folder, as pipeline/registry.py names it."""

MEASURED, EXACT, PAIRED = "measured", "exact", "paired"
"""Kinds of rows. Measured: samples of a round in one framework belong to those of the same round in the other. Exact:
the same however often it is counted. Paired: test samples, each answered by both."""


@dataclass(frozen=True)
class Side:
    """What one framework gave for a row.

    Attributes:
        samples: raw figures in the row's unit, in order: a tuple for each round.
        interval: the 95 % interval of a figure that brings its own.
        text: what is shown in the figure's place: a message, verbatim, or a status.
        reason: why there is no figure.
    """

    samples: tuple[tuple[float, ...], ...] = ()
    interval: tuple[float, float] | None = None
    text: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Row:
    """One thing that both did.

    Attributes:
        table: the heading that it stands under, with others like it.
        what: in words.
        better: "lower", "higher" or "neither".
        kind: MEASURED, EXACT or PAIRED.
        sides: what each framework gave, by its name.
        differences: of a PAIRED row: (TensorFlow's minus PyTorch's, number of test samples with it).
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
    """A part of the comparison as it was measured: a manifest.

    Attributes:
        notes: what a reader must know of these figures.
        loaded: heavy packages that each framework's processes had imported at their end.
        machine, tools: where, and of which versions.
        load: load averages of the machine, over a minute, at the start and at the end.
        key: hash of all that it is of.
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
    """What a part's `measure` gives; the rest of `Part` is the stage's to know."""

    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    loaded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What is compared, and how thoroughly.

    Attributes:
        rounds: how often each figure is measured in each framework, in turn.
        epochs: of every training that is measured; None for the model's own number.
        accuracy: the share whose time is taken; None for the highest whole percent that every training reached.
        plan: the model in both frameworks, and what is exported and measured.
        scratch: a folder for what is not kept; it exists while a part is measured.
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
        """The same run with its scratch there."""
        return replace(self, scratch=scratch)

    def make(self, framework: str) -> Checkpoint:
        """The checkpoint of a framework, trained where it is not there yet; for `prepare`."""
        if train.ready(self.build, self.jobs[framework]) is None:
            with store.lock(self.build, f"training of {self.model.spec.name}"):
                train.ensure(self.build, self.jobs[framework])
        return self.checkpoint(framework)

    def checkpoint(self, framework: str) -> Checkpoint:
        """The checkpoint that `prepare` has made."""
        found = train.ready(self.build, self.jobs[framework])
        assert found is not None
        return found


class Comparison(Protocol):
    """The verbs of a module in this folder.

    Attributes:
        ORDER: its place in the report.
        TITLE: its heading.
        ABOUT: what was done, for the reader.
    """

    ORDER: int
    TITLE: str
    ABOUT: str

    def prepare(self, run: Run) -> object:
        """Makes what must be there before anything is measured (checkpoints, exports); what that is, for the key."""

    def measure(self, run: Run) -> Found:
        """Measures both frameworks in turn."""


def parts() -> list[str]:
    """Names of the parts in the order of the report."""
    return sorted(
        registry.names(REGISTRY),
        key=lambda name: int(registry.load(REGISTRY, name).ORDER),
    )
