"""An instruction budget: recorded instruction counts that later measurements must not exceed.

Only for devices whose clock counts instructions. Their counts do not depend on the host machine or its load, so a
larger count is a real regression. A count is identified by model, framework, recipe, target, board, runtime and number
of threads. The weights hardly change it, so training again does not break the budget. The runtime's version is recorded
to explain changes.
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
"""The share by which a count may grow."""

Name = tuple[str, str, str, str, str, str, int]


@dataclass(frozen=True)
class Count:
    """The instructions of one inference.

    Attributes:
        board: the name that the board reports.
        version: the runtime's version.
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
        """What identifies the count."""
        return self.model, self.framework, self.recipe, self.target, self.board, self.runtime, self.threads


@dataclass(frozen=True)
class Budget:
    """The content of the budget file, benchmarks/instructions.json."""

    counts: tuple[Count, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Comparison:
    """A count and the recorded one.

    Attributes:
        now: None if the count is recorded but was not measured.
        recorded: None if the count was measured but is not recorded.
    """

    now: Count | None
    recorded: Count | None

    @property
    def growth(self) -> float | None:
        """The growth as a share of the recorded count."""
        if self.now is None or self.recorded is None:
            return None
        return (self.now.instructions - self.recorded.instructions) / self.recorded.instructions

    @property
    def fails(self) -> bool:
        """Whether the count grew too much, or one of both counts is missing, so that nothing was compared."""
        return self.growth is None or self.growth > GROWTH

    @property
    def message(self) -> str | None:
        """A line about the difference; None if the count is as recorded."""
        one = self.now or self.recorded
        assert one is not None
        name = formatting.one_line(f"{one.model} {one.recipe} on {one.target} ({one.runtime}, {one.board})")
        if self.recorded is None:
            return f"{name}: {one.instructions:,} instructions, none recorded: add them with --record"
        if self.now is None:
            return f"{name}: {one.instructions:,} instructions recorded, none counted now: remove them there"
        assert self.growth is not None
        if abs(self.growth) <= GROWTH:
            return None
        line = f"{name}: {self.now.instructions:,} instructions, {self.recorded.instructions:,} recorded"
        versions = self.recorded.version, self.now.version
        other = "" if versions[0] == versions[1] else f", {one.runtime} {versions[1]}, {versions[0]} recorded"
        hint = "" if self.growth > 0 else ": fewer; record them with --record"
        return f"{line} ({self.growth:+.1%}{formatting.one_line(other)}){hint}"


def require_clock(device: BoundDevice) -> None:
    """
    Raises:
        Unsupported: the device's clock does not count instructions.
    """
    if device.options.get("clock") != "instructions":
        raise Unsupported(
            f"{device.name} does not count instructions, and times differ between machines: use an emulated board "
            "(inv devices.emulate --board pi4, --device pi4-emulated)"
        )


def read(path: Path) -> Budget:
    """The recorded counts.

    Raises:
        BadOption: the file does not exist or is not valid.
    """
    try:
        budget = store.read(Budget, path)
    except (Broken, OSError, RecursionError) as error:
        raise BadOption(f"{error}; remove it and record again: inv bench --record {path}") from error
    if budget is None:
        raise BadOption(f"{path}: no such file; to write it: inv bench --record {path}")
    names = [count.name for count in budget.counts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadOption(f"{path}: two counts for {formatting.one_line(' '.join(map(str, twice)))}; remove one")
    if any(count.instructions < 1 for count in budget.counts):
        raise BadOption(f"{path}: a count below 1; remove it and record it again")
    return budget


def record(path: Path, counts: Sequence[Count]) -> None:
    """Writes counts into the file. They replace older counts with the same name; the others remain.

    Raises:
        BadOption: the existing file is not valid.
    """
    older = read(path).counts if path.exists() else ()
    merged = {count.name: count for count in (*older, *counts)}
    store.write(path, Budget(tuple(merged[name] for name in sorted(merged))))


def count(measurement: Measurement) -> Count:
    """The count of a measurement."""
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
        # The guest's clock advances one nanosecond per instruction.
        instructions=round(stats.latency(measurement.processes).p50 * 1e6),
    )


def compare(
    counts: Sequence[Count], budget: Budget, device: BoundDevice, asked: Collection[tuple[str, str]]
) -> list[Comparison]:
    """Compares each count with the recorded one, and lists recorded counts that were requested but not measured.

    Args:
        device: the device that counted.
        asked: (target, recipe) of every requested cell.
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
