"""The summary: for each model and device, the smallest and the fastest cell whose loss is not resolved."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import formatting, stats
from pipeline.core import Cell
from pipeline.formatting import Unit
from pipeline.report.groups import by_device, samples
from pipeline.report.page import Block, Section, only
from pipeline.results.output_diff import WAY
from pipeline.results.rows import Row

WORTH_SAYING = 1.1
"""A cell that is less than this many times better than fp32 is not said to be better."""


def summary(found: Sequence[Row]) -> Section:
    points = [p for place, rows in by_device(found) for p in (*_of_place(place, rows), *_through_host(place, rows))]
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
    share = formatting.percent(rows[0].cell.reference_accuracy)
    points = [f"{place}: the float model is right on {share} % of {samples(rows[0]):,} samples."]
    kept = [row for row in rows if row.cell.drop_interval and row.cell.drop_interval[0] <= 0]
    if not kept:
        return [*points, f"{place}: every measured cell is worse than the float model, by more than chance explains."]
    unit = formatting.unit(row.cell for row in rows)
    smallest = min(kept, key=lambda row: row.cell.size_bytes or 0)
    points.append(f"Smallest without a resolved loss: {_sentence(smallest, rows, unit)}")
    known = [row for row in kept if formatting.cost(row.cell)]
    if known:
        best = "Fewest instructions" if unit == formatting.INSTRUCTIONS else "Fastest"
        points.append(f"{best} without a resolved loss: {_cheapest(known, rows, unit)}")
    return points


def _cheapest(known: Sequence[Row], rows: Sequence[Row], unit: Unit) -> str:
    """The cell of the lowest median, and those that its own spread does not tell from it."""
    costs = [(cost, row) for row in known if (cost := formatting.cost(row.cell))]
    cost, best = min(costs, key=lambda each: each[0].p50)
    near = [formatting.run(row.cell) for other, row in costs if row is not best and other.p50 <= cost.p90]
    sentence = _sentence(best, rows, unit)
    if not near:
        return sentence
    return f"{sentence} Not told apart from it, since within its p50 to p90: {', '.join(near)}."


def _sentence(row: Row, rows: Sequence[Row], unit: Unit) -> str:
    """One cell in words: size, cost, drop, and what that drop is worth."""
    cell = row.cell
    base = next((r.cell for r in rows if (r.cell.recipe, r.cell.target) == ("fp32", cell.target)), cell)
    parts = [f"{formatting.kilobytes(cell.size_bytes)} kB{_smaller(cell, base)}"]
    cost = formatting.cost(cell)
    if cost:
        parts.append(f"{unit.text(cost.p50)} {unit.name} (p50){_cheaper(cell, base)}")
    parts.append(f"drop {formatting.drop(cell).rstrip('*')} points")
    return f"{formatting.run(cell)}: {', '.join(parts)}: {verdict(row)}."


def _through_host(place: str, rows: Sequence[Row]) -> list[str]:
    """How the outputs of one model on one device differ from this machine's, in a sentence; none for this machine's."""
    pairs = [(row, row.cell.steps[-1]) for row in rows if len(row.cell.steps) == len(WAY)]
    compared = [(step.equal, step.top1_agreement or 0.0, row) for row, step in pairs if step.equal is not None]
    if not compared:
        return [f"{place}: not compared with this machine, where these files were not measured."] if pairs else []
    count = f"{samples(compared[0][-1]):,} samples"
    same = sum(equal == 1 for equal, _, _ in compared)
    sentence = f"{place} beside this machine: {same} of {len(compared)} files give the same bits on all {count}"
    if same < len(compared):
        least = min(compared, key=lambda each: each[0])
        sentence += f", {formatting.run(least[-1].cell)} on the fewest ({formatting.percent(least[0])} %)"
    worst = min(compared, key=lambda each: each[1])
    where = "" if worst[1] == 1 else f" or more ({formatting.run(worst[-1].cell)})"
    left = len(pairs) - len(compared)
    more = f" {left} more were not measured on this machine." if left else ""
    return [f"{sentence}; top-1 is the same on {formatting.percent(worst[1])} %{where}.{more}"]


def _smaller(cell: Cell, base: Cell) -> str:
    """How much smaller it is than fp32 on the same target, where it is."""
    ratio = (base.size_bytes or 0) / (cell.size_bytes or 1)
    return f" ({ratio:.1f} times smaller than fp32)" if ratio >= WORTH_SAYING else ""


def _cheaper(cell: Cell, base: Cell) -> str:
    """How much faster it is than fp32 on the same target, or how many fewer its instructions are, where it is."""
    own, other = formatting.cost(cell), formatting.cost(base)
    if not (own and other and own.p50):
        return ""
    ratio, what = other.p50 / own.p50, "faster" if cell.latency_ms else "fewer"
    return f" ({ratio:.1f} times {what} than fp32)" if ratio >= WORTH_SAYING else ""
