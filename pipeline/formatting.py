"""Names and figures in words, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline import stats
from pipeline.core import Cell, Measurement

NONE = "–"
"""What was not measured."""

MICROSECONDS_BELOW_MS = 0.1
"""A table with a median under this is in µs: 0.0022, 0.0023 is hard to read."""


@dataclass(frozen=True)
class Cost:
    """What an inference costs, over the raw runs: milliseconds, or instructions where the clock counts those."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Unit:
    """The unit that the costs of one table or chart share.

    Attributes:
        scale: how many of it are a millisecond; 1 for instructions.
    """

    name: str
    scale: float

    def text(self, cost: float) -> str:
        """A cost in this unit, without its name."""
        return figure(cost * self.scale)


INSTRUCTIONS = Unit("instructions", 1.0)


def cost(cell: Cell) -> Cost | None:
    """What an inference costs on the cell's device; None where that is not known."""
    if cell.latency_ms is not None:
        return Cost(cell.latency_ms.p50, cell.latency_ms.p90, cell.latency_ms.p99)
    if cell.instructions is None:
        return None
    p50 = cell.instructions
    return Cost(p50, _or(cell.instructions_p90, p50), _or(cell.instructions_p99, p50))


def unit(cells: Iterable[Cell]) -> Unit:
    """The unit for the costs of these cells, which share a kind of clock: µs where the fastest would begin with 0.0 in
    ms; instructions on emulated devices."""
    cells = list(cells)
    latencies = [cell.latency_ms.p50 for cell in cells if cell.latency_ms]
    if not latencies and any(cell.instructions is not None for cell in cells):
        return INSTRUCTIONS
    return Unit("µs", 1000.0) if min(latencies, default=1.0) < MICROSECONDS_BELOW_MS else Unit("ms", 1.0)


def instructions(p50: float, p99: float) -> str:
    """Instructions an inference with their spread: 69,314 instr., p99 +0.5%."""
    return f"{p50:,.0f} instr., p99 {100 * (p99 / max(p50, 1) - 1):+.1f}%"


def figure(value: float) -> str:
    """Three significant digits or so: 0.213, 1.37, 45.1, 1,204."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """A share as a percentage, without its sign."""
    return NONE if share is None else f"{100 * share:.2f}"


def points(value: float) -> str:
    """Percentage points with a sign that zero does not have."""
    return f"{value + 0:+.2f}" if round(value, 2) else "0.00"


def interval(bounds: tuple[float, float]) -> str:
    """An interval in points; `*` where it leaves out 0."""
    low, high = bounds
    return f"[{points(low)}, {points(high)}]" + ("*" if stats.is_resolved(bounds) else "")


def drop(cell: Cell) -> str:
    """The drop with its interval."""
    if cell.drop_points is None or cell.drop_interval is None:
        return NONE
    return f"{points(cell.drop_points)} {interval(cell.drop_interval)}"


def kilobytes(size_bytes: int | None) -> str:
    """A size in kB of 1000 bytes."""
    return NONE if size_bytes is None else f"{size_bytes / 1000:,.1f}"


def megabytes(size_bytes: int | None) -> str:
    """A size in MB of 1,000,000 bytes."""
    return NONE if size_bytes is None else f"{size_bytes / 1e6:,.1f}"


def model(cell: Cell) -> str:
    """Model and framework: toy (torch)."""
    return f"{cell.model} ({cell.framework})"


def name(cell: Cell) -> str:
    """Recipe and target: int8 on tflite."""
    return f"{cell.recipe} on {cell.target}"


def run(cell: Cell) -> str:
    """As `name`, which says that the run was throttled where it was."""
    return name(cell) + throttled(cell)


def throttled(cell: Cell) -> str:
    """The mark of a run in which the device slowed its clock; nothing for others."""
    return " (throttled)" if cell.throttled else ""


def device(cell: Cell) -> str:
    """The device, which says that it is emulated where it is; and the threads, where they are not one."""
    if cell.device is None:
        return NONE
    emulated = " (emulated)" if cell.emulated and "emulated" not in cell.device else ""
    return cell.device + emulated + ("" if cell.threads in (None, 1) else f", {cell.threads} threads")


def place(cell: Cell) -> str:
    """The device as it stands beside times: with the mark of a throttled run."""
    return device(cell) + throttled(cell)


def runtime(measurement: Measurement) -> str:
    """A measurement's runtime: name, version, threads, delegate; and whether it overwrites its input."""
    facts = measurement.runtime
    parts = [f"{facts.get('name', '?')} {facts.get('version') or ''}".strip()]
    if facts.get("threads"):
        parts.append(f"{facts['threads']} thread" + ("s" if facts["threads"] != 1 else ""))
    if facts.get("delegate"):
        parts.append(str(facts["delegate"]))
    if facts.get("refills_input"):
        parts.append("input filled again in every run")
    return ", ".join(parts)


def _or(value: int | None, other: int) -> int:
    return other if value is None else value


def one_line(text: str) -> str:
    """One line of printable characters: reasons come from converters' logs and users' files."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
