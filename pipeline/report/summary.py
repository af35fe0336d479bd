"""The summary: for each model and device, the smallest and the fastest cell whose loss is not resolved."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import stats, words
from pipeline.core import Cell
from pipeline.report.groups import by_device, samples
from pipeline.report.page import Block, Section, only
from pipeline.results import Row
from pipeline.words import Unit

WORTH_SAYING = 1.1
"""A cell that is less than this many times better than fp32 is not said to be better."""


def summary(found: Sequence[Row]) -> Section:
    points = [point for place, rows in by_device(found) for point in _of_place(place, rows)]
    waiting = sum(row.cell.status in ("missing", "failed") for row in found)
    counted = [row.cell for row in found if row.cell.status == "ok" and row.cell.device is not None]
    doubted = sum(bool(cell.warnings) for cell in counted)
    if doubted:
        points.append(f"{doubted} of {len(counted)} measured cells have warnings: they are below.")
    if waiting:
        points.append(f"{waiting} of {len(found)} cells failed or were not measured: their reasons are below.")
    return Section("summary", "Summary", blocks=only(Block(points=tuple(points))), nothing="No models yet: inv train.")


def verdict(row: Row) -> str:
    """What a cell's drop is worth."""
    interval, count = row.cell.drop_interval, f"{samples(row):,} samples"
    if interval is None or not stats.is_resolved(interval):
        return f"no difference that {count} can resolve"
    return f"a {'loss' if interval[0] > 0 else 'gain'} that {count} resolve"


def _of_place(place: str, rows: Sequence[Row]) -> list[str]:
    """The sentences of one model on one device."""
    share = words.percent(rows[0].cell.reference_accuracy)
    points = [f"{place}: the float model is right on {share} % of {samples(rows[0]):,} samples."]
    kept = [row for row in rows if row.cell.drop_interval and row.cell.drop_interval[0] <= 0]
    if not kept:
        return [*points, f"{place}: every measured cell is worse than the float model, by more than chance explains."]
    unit = words.unit(row.cell for row in rows)
    smallest = min(kept, key=lambda row: row.cell.size_bytes or 0)
    points.append(f"Smallest without a resolved loss: {_sentence(smallest, rows, unit)}")
    timed = [row for row in kept if row.cell.latency_ms]
    if timed:
        points.append(f"Fastest without a resolved loss: {_fastest(timed, rows, unit)}")
    return points


def _fastest(timed: Sequence[Row], rows: Sequence[Row], unit: Unit) -> str:
    """The fastest cell, and those that its own spread does not tell from it."""

    def p50(row: Row) -> float:
        return row.cell.latency_ms.p50 if row.cell.latency_ms else 0.0

    best = min(timed, key=p50)
    spread = best.cell.latency_ms.p90 if best.cell.latency_ms else 0.0
    near = [words.name(row.cell) for row in timed if row is not best and p50(row) <= spread]
    sentence = _sentence(best, rows, unit)
    if not near:
        return sentence
    return f"{sentence} Not told apart from it, since within its p50 to p90: {', '.join(near)}."


def _sentence(row: Row, rows: Sequence[Row], unit: Unit) -> str:
    """One cell in words: size, speed, drop, and what that drop is worth."""
    cell = row.cell
    base = next((r.cell for r in rows if (r.cell.recipe, r.cell.target) == ("fp32", cell.target)), cell)
    parts = [f"{words.kilobytes(cell.size_bytes)} kB{_smaller(cell, base)}"]
    if cell.latency_ms:
        parts.append(f"{unit.text(cell.latency_ms.p50)} {unit.name} (p50){_faster(cell, base)}")
    elif cell.instructions:
        parts.append(f"{cell.instructions / 1e6:.2f} million instructions")
    parts.append(f"drop {words.drop(cell).rstrip('*')} points")
    return f"{words.name(cell)}: {', '.join(parts)}: {verdict(row)}."


def _smaller(cell: Cell, base: Cell) -> str:
    """How much smaller it is than fp32 on the same target, where it is."""
    ratio = (base.size_bytes or 0) / (cell.size_bytes or 1)
    return f" ({ratio:.1f} times smaller than fp32)" if ratio >= WORTH_SAYING else ""


def _faster(cell: Cell, base: Cell) -> str:
    """How much faster it is than fp32 on the same target, where it is."""
    if not (base.latency_ms and cell.latency_ms and cell.latency_ms.p50):
        return ""
    ratio = base.latency_ms.p50 / cell.latency_ms.p50
    return f" ({ratio:.1f} times faster than fp32)" if ratio >= WORTH_SAYING else ""
