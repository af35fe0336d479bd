"""Two files measured alternately on one device: one process each in every round, in the order A B, B A, A B, …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core import Process
from pipeline.devices import BoundDevice
from pipeline.errors import StageFailed
from pipeline.stages import measure
from pipeline.system.progress import bar
from pipeline.system.store import Store

EFFORT = ("--min-runs", "13", "--min-seconds", "0.1", "--warmup-seconds", "0.05")
"""Of each process: what each of the five processes of a bench does."""


@dataclass(frozen=True)
class File:
    """A file and how it runs.

    Attributes:
        name: for messages.
        layout: of its image input; see `Port`. Used with given inputs only.
    """

    name: str
    path: Path
    runtime: str
    layout: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two files that are measured with the same inputs.

    Attributes:
        inputs: .npy file whose first sample the runs use; None for the pseudo-random inputs of edge-bench.
        time_limit: seconds that one process may take.
    """

    old: File
    new: File
    inputs: Path | None = None
    threads: int = 1
    time_limit: float = 3600.0

    def words(self, file: File) -> list[str | Path]:
        """The arguments of `edge-bench run`."""
        words: list[str | Path] = ["run", file.path, "--runtime", file.runtime, "--threads", str(self.threads)]
        if self.inputs is not None:
            words += ["--inputs", self.inputs]
            words += ["--layout", file.layout] if file.layout in ("NHWC", "NCHW") else []
        return [*words, *EFFORT]


@dataclass(frozen=True)
class Side:
    """What was measured of one file: a process in every round.

    Attributes:
        facts: the last answer of edge-bench, for the device and the runtime.
    """

    processes: tuple[Process, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """What was measured of two files."""

    old: Side = Side()
    new: Side = Side()


def more(build: Store, device: BoundDevice, pair: Pair, done: Rounds, count: int) -> Rounds:
    """Measures more rounds. The caller holds the device: `measure.alone`.

    Raises:
        StageFailed: a file cannot be run.
        Unreachable: the connection to the device was lost.
    """
    sides = {"old": done.old, "new": done.new}
    first = len(done.old.processes)
    turns = [side for round in range(first, first + count) for side in (("old", "new"), ("new", "old"))[round % 2]]
    for turn in bar(turns, "comparing", unit="process"):
        facts = _run(build, device, pair, pair.old if turn == "old" else pair.new)
        sides[turn] = Side((*sides[turn].processes, measure.of_process(facts)), facts)
    return Rounds(sides["old"], sides["new"])


def _run(build: Store, device: BoundDevice, pair: Pair, file: File) -> dict[str, Any]:
    """`edge-bench run` in one process."""
    device.setup(build, file.runtime)
    device.push(build, [file.path, *([pair.inputs] if pair.inputs else [])])
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    done = device.call(build, file.runtime, pair.words(file), pair.time_limit)
    if done.code != 0:
        raise StageFailed(f"{file.name} on {device.name}: {done.reason.removeprefix('edge-bench: ')}")
    return {**done.result("runs"), "started_at": started_at}
