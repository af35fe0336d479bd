"""A budget on instructions: recorded counts that a later bench must not exceed.

For devices whose clock counts instructions only: their counts repeat on any machine under any load, so what grows has
grown. A count is of a model, framework, recipe, target, board, runtime and number of threads; not of the weights, which
hardly change it, so training again breaks no budget. The runtime's version is kept to say where a change comes from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import formatting, registry, stats
from pipeline.core import SCHEMA, Measurement
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken, Unsupported
from pipeline.system import store

GROWTH = 0.02
"""The share that a count may grow by."""

Name = tuple[str, str, str, str, str, str, int]


@dataclass(frozen=True)
class Count:
    """Instructions of one inference.

    Attributes:
        board: the name that the board gives itself.
        version: of the runtime.
        instructions: the median over the runs.
    """

    model: str
    framework: str
    recipe: str
    target: str
    board: str
    runtime: str
    threads: int
    version: str
    instructions: int

    @property
    def name(self) -> Name:
        """What it is the count of."""
        return self.model, self.framework, self.recipe, self.target, self.board, self.runtime, self.threads


@dataclass(frozen=True)
class Budget:
    """The file: benchmarks/instructions.json."""

    counts: tuple[Count, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Comparison:
    """A count beside the recorded one.

    Attributes:
        now: None where it is recorded and was not counted.
        recorded: None where it was counted and is not recorded.
    """

    now: Count | None
    recorded: Count | None

    @property
    def growth(self) -> float | None:
        """As a share of the recorded count."""
        if self.now is None or self.recorded is None:
            return None
        return (self.now.instructions - self.recorded.instructions) / self.recorded.instructions

    @property
    def fails(self) -> bool:
        """Grown beyond what it may, or one side is missing: what is not compared is not guarded."""
        return self.growth is None or self.growth > GROWTH

    @property
    def told(self) -> str | None:
        """What should be known of it, in a line; None where all is as recorded."""
        one = self.now or self.recorded
        assert one is not None
        name = formatting.one_line(f"{one.model} {one.recipe} on {one.target} ({one.runtime}, {one.board})")
        if self.recorded is None:
            return f"{name}: {one.instructions:,} instructions, none recorded: add them with --record"
        if self.now is None:
            return f"{name}: {one.instructions:,} instructions recorded, and not counted any more: remove them there"
        assert self.growth is not None
        if abs(self.growth) <= GROWTH:
            return None
        line = f"{name}: {self.now.instructions:,} instructions, {self.recorded.instructions:,} recorded"
        versions = self.recorded.version, self.now.version
        other = "" if versions[0] == versions[1] else f", {one.runtime} {versions[1]}, {versions[0]} recorded"
        hint = "" if self.growth > 0 else ": less; keep it with --record"
        return f"{line} ({self.growth:+.1%}{formatting.one_line(other)}){hint}"


def require_clock(device: BoundDevice) -> None:
    """
    Raises:
        Unsupported: the device's clock does not count instructions.
    """
    if device.options.get("clock") != "instructions":
        raise Unsupported(
            f"{device.name} has no clock that counts instructions, and times are no budget that holds everywhere: "
            "use an emulated board (inv devices.emulate --board pi4, --device pi4-emulated)"
        )


def read(path: Path) -> Budget:
    """The recorded counts.

    Raises:
        BadOption: there is no such file, or it is not of this form.
    """
    try:
        budget = store.read(Budget, path)
    except (Broken, OSError, RecursionError) as error:
        raise BadOption(f"{error}; remove it and record anew: inv bench --record {path}") from error
    if budget is None:
        raise BadOption(f"{path}: no such file; inv bench --record {path} writes it")
    names = [count.name for count in budget.counts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadOption(f"{path}: two counts for {formatting.one_line(' '.join(map(str, twice)))}; remove one")
    if any(count.instructions < 1 for count in budget.counts):
        raise BadOption(f"{path}: a count below 1; remove it and record it anew")
    return budget


def record(path: Path, counts: Sequence[Count]) -> None:
    """Writes counts into the file, each in the place of its older one; the others stay.

    Raises:
        BadOption: there is a file of another form.
    """
    older = read(path).counts if path.exists() else ()
    merged = {count.name: count for count in (*older, *counts)}
    store.write(path, Budget(tuple(merged[name] for name in sorted(merged))))


def count(measurement: Measurement) -> Count:
    """What a measurement counted."""
    facts, runtime = measurement.device, measurement.runtime
    return Count(
        model=measurement.model,
        framework=measurement.framework,
        recipe=measurement.recipe,
        target=measurement.target,
        board=str(facts.get("board")),
        runtime=str(runtime["name"]),
        threads=int(runtime["threads"]),
        version=str(runtime.get("version")),
        instructions=round(stats.latency(measurement.runs).p50 * 1e6),  # one nanosecond of its time an instruction
    )


def compare(
    counts: Sequence[Count], budget: Budget, device: BoundDevice, asked: Collection[tuple[str, str]]
) -> list[Comparison]:
    """Each count beside the recorded one; then what is recorded and was asked for, and was not counted.

    Args:
        device: where the counts are of.
        asked: (target, recipe) of every cell that was to be counted.
    """
    recorded = {one.name: one for one in budget.counts}
    found = [Comparison(one, recorded.get(one.name)) for one in counts]
    places, counted = {_place(one) for one in counts}, {one.name for one in counts}
    gone = [
        one
        for one in budget.counts
        if one.name not in counted
        and _place(one) in places
        and (one.target, one.recipe) in asked
        and device.runtime(registry.bind("targets", one.target)) == one.runtime
    ]
    return [*found, *(Comparison(None, one) for one in gone)]


def _place(one: Count) -> tuple[str, str, str, int]:
    return one.model, one.framework, one.board, one.threads
