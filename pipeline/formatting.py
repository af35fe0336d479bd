"""Names and figures as text, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline import stats
from pipeline.core import Cell, Latency, Parity, Timed

NONE = "–"
"""The text for a figure that was not measured."""

MICROSECONDS_BELOW_MS = 0.1
"""A table with a median below this is in µs: 0.0022 and 0.0023 ms are hard to read."""


@dataclass(frozen=True)
class Cost:
    """The cost of an inference over all runs, in milliseconds, or in instructions on emulated devices."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Unit:
    """The unit of the costs in one table or chart.

    Attributes:
        scale: units per millisecond; 1 for instructions.
    """

    name: str
    scale: float

    def text(self, cost: float) -> str:
        """A cost in this unit, without the unit's name."""
        return figure(cost * self.scale)


INSTRUCTIONS = Unit("instructions", 1.0)


def cost(cell: Cell) -> Cost | None:
    """The cost of an inference on the cell's device; None if it is unknown."""
    if cell.latency_ms is not None:
        return Cost(cell.latency_ms.p50, cell.latency_ms.p90, cell.latency_ms.p99)
    if cell.instructions is None:
        return None
    p50 = cell.instructions
    return Cost(p50, _or(cell.instructions_p90, p50), _or(cell.instructions_p99, p50))


def unit(cells: Iterable[Cell]) -> Unit:
    """The unit for the costs of these cells, which are all real or all emulated: instructions on emulated devices, µs
    if the fastest would start with 0.0 in ms, else ms."""
    cells = list(cells)
    latencies = [cell.latency_ms.p50 for cell in cells if cell.latency_ms]
    if not latencies and any(cell.instructions is not None for cell in cells):
        return INSTRUCTIONS
    return Unit("µs", 1000.0) if min(latencies, default=1.0) < MICROSECONDS_BELOW_MS else Unit("ms", 1.0)


def instructions(p50: float, p99: float) -> str:
    """Instructions per inference with their spread: 69,314 instr., p99 +0.5%."""
    return f"{p50:,.0f} instr., p99 {100 * (p99 / max(p50, 1) - 1):+.1f}%"


def spread(latency: Latency | None) -> str:
    """How far the processes of a measurement differ: 2.1 %."""
    return NONE if latency is None or latency.spread is None else f"{100 * latency.spread:.1f} %"


def figure(value: float) -> str:
    """About three significant digits: 0.213, 1.37, 45.1, 1,204."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """A share as a percentage, without the % sign."""
    return NONE if share is None else f"{100 * share:.2f}"


def points(value: float) -> str:
    """Percentage points with a sign, except for zero."""
    return f"{value + 0:+.2f}" if round(value, 2) else "0.00"


def interval(bounds: tuple[float, float]) -> str:
    """An interval in points, with `*` if it excludes 0."""
    low, high = bounds
    return f"[{points(low)}, {points(high)}]" + ("*" if stats.is_significant(bounds) else "")


def drop(cell: Cell) -> str:
    """The drop with its interval: +1.00 [+0.20, +1.80]*."""
    if cell.drop_points is None or cell.drop_interval is None:
        return NONE
    return f"{points(cell.drop_points)} {interval(cell.drop_interval)}"


def drop_in_points(cell: Cell) -> str:
    """The drop with its interval, in a sentence: +1.00 points [+0.20, +1.80]."""
    if cell.drop_points is None or cell.drop_interval is None:
        return NONE
    return f"{points(cell.drop_points)} points {interval(cell.drop_interval).rstrip('*')}"


def margin(value: float) -> str:
    """A margin in words: 1 point, 0.5 points."""
    return f"{value:g} point{'' if value == 1 else 's'}"


def about(count: int) -> str:
    """A count rounded up to two significant digits: 4,200."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"


def verdict(cell: Cell) -> str:
    """The verdict on a cell's drop; in brackets, about how many samples would tell: cannot tell (4,200)."""
    if cell.verdict is None:
        return NONE
    return cell.verdict + (f" ({about(cell.samples_needed)})" if cell.samples_needed else "")


def kilobytes(size_bytes: int | None) -> str:
    """A size in kB of 1000 bytes."""
    return NONE if size_bytes is None else f"{size_bytes / 1000:,.1f}"


def megabytes(size_bytes: int | None) -> str:
    """A size in MB of 1,000,000 bytes."""
    return NONE if size_bytes is None else f"{size_bytes / 1e6:,.1f}"


def model(cell: Cell) -> str:
    """Model and framework: toy (torch)."""
    return f"{cell.model} ({cell.framework})"


def recipe(cell: Cell) -> str:
    """The recipe, with a mark if much of the file stays in float: int8 (12.3 % quantized)."""
    if cell.coverage is None or not cell.coverage.low:
        return cell.recipe
    return f"{cell.recipe} ({100 * cell.coverage.multiply_adds:.1f} % quantized)"


def name(cell: Cell) -> str:
    """Recipe and target: int8 on tflite."""
    return f"{recipe(cell)} on {cell.target}"


def decibels(parity: Parity | None) -> str:
    """The signal-to-noise ratio of a comparison."""
    return NONE if parity is None else f"{parity.snr_db:.1f}"


def run(cell: Cell) -> str:
    """As `name`, with a mark if the run was throttled."""
    return name(cell) + throttled(cell)


def throttled(cell: Cell) -> str:
    """The mark of a run in which the device throttled; empty for others."""
    return " (throttled)" if cell.throttled else ""


def device(cell: Cell) -> str:
    """The device, marked if it is emulated, with the number of threads if there are several, and the CPUs if the
    processes were pinned to some. With its hardware, if other hardware was measured under the same name."""
    if cell.device is None:
        return NONE
    emulated = " (emulated)" if cell.emulated and "emulated" not in cell.device else ""
    threads = "" if cell.threads in (None, 1) else f", {cell.threads} threads"
    hardware = f" ({cell.hardware or 'unknown hardware'})" if cell.shares_name else ""
    return cell.device + hardware + emulated + threads + (f", CPUs {cell.cpus}" if cell.cpus else "")


def place(cell: Cell) -> str:
    """The device next to times: as `device`, with a mark if the run was throttled."""
    return device(cell) + throttled(cell)


def runtime(measurement: Timed) -> str:
    """A measurement's runtime: name, version, threads, delegate, the CPUs that it was pinned to or that a phone used,
    and whether its input is refilled."""
    facts = measurement.runtime
    parts = [f"{facts.get('name', '?')} {facts.get('version') or ''}".strip()]
    if facts.get("threads"):
        parts.append(f"{facts['threads']} thread" + ("s" if facts["threads"] != 1 else ""))
    if facts.get("delegate"):
        parts.append(str(facts["delegate"]))
    if facts.get("cpus"):
        parts.append(f"CPUs {facts['cpus']}")
    ran = {
        cpu for state in measurement.device.get("states", ()) for sample in state["samples"] for cpu in sample["cpus"]
    }
    if ran:
        parts.append(f"ran on CPUs {', '.join(map(str, sorted(ran)))}")
    if facts.get("refills_input"):
        parts.append("input refilled in every run")
    return ", ".join(parts)


def _or(value: int | None, other: int) -> int:
    return other if value is None else value


def one_line(text: str) -> str:
    """The text as one line of printable characters. Reasons come from converters' logs and users' files."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def listed(names: Iterable[str], most: int = 5) -> str:
    """Comma-separated names; of many, the first few and how many more."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
