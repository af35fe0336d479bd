"""The summary: for each model and device, the smallest and the fastest file whose accuracy drop is below the margin."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import formatting, stats, tasks
from pipeline.core import Cell
from pipeline.formatting import Unit
from pipeline.report.groups import by_device, samples
from pipeline.report.page import Block, Section, only
from pipeline.results import verdicts
from pipeline.results.output_diff import WAY
from pipeline.results.rows import Row

COUNTED_ALIKE = 1.01
"""Numbers of instructions within this ratio are alike: addresses alone change them by up to 0.84 %
(benchmarks/README.md)."""

WORTH_MENTIONING = 1.1
"""A file must be at least this many times better than fp32 to be called better."""

SHOWN = 4
"""At most so many files of which the verdict is open are listed: the smallest."""


def summary(found: Sequence[Row]) -> Section:
    blocks = [Block(place, points=(*_best(rows), *_compared_with_host(rows))) for place, rows in by_device(found)]
    notes = []
    measured = [row.cell for row in found if row.cell.status == "ok" and row.cell.device is not None]
    with_warnings = sum(bool(cell.warnings) for cell in measured)
    if with_warnings:
        notes.append(f"{with_warnings} of {len(measured)} measured cells have warnings: see “Warnings”.")
    unmeasured = sum(row.cell.status in ("missing", "failed") for row in found)
    if unmeasured:
        notes.append(f"{unmeasured} of {len(found)} cells failed or were not measured: see “Not measured”.")
    return Section(
        "summary",
        "Summary",
        blocks=(*blocks, *only(Block("Attention" if blocks else "", points=tuple(notes)))),
        nothing="No models yet. Train one with: inv train",
    )


def verdict(row: Row) -> str:
    """The verdict on a row's drop, in words."""
    cell = row.cell
    count = f"over {samples(row):,} samples"
    if cell.verdict is None or cell.margin_points is None or cell.drop_interval is None:
        return f"not judged {count}"
    margin = formatting.margin(cell.margin_points)
    words = {
        stats.BETTER: "better than the float model",
        stats.NO_WORSE: f"no worse than the margin of {margin}",
        stats.WORSE: f"worse by more than {margin}",
        stats.CANNOT_TELL: f"cannot tell whether that is below {margin}",
    }[cell.verdict]
    return f"{words} {count}"


def _best(rows: Sequence[Row]) -> list[str]:
    """The float model's accuracy, the recommended files of one model on one device, and the files of which the samples
    cannot tell whether their drop is below the margin."""
    accuracy = formatting.percent(rows[0].cell.reference_accuracy)
    margin = formatting.margin(rows[0].cell.margin_points or verdicts.MARGIN)
    points = [f"Float model: {accuracy} % {tasks.name(rows[0].cell.metric)} over {samples(rows[0]):,} samples."]
    kept = [row for row in rows if verdicts.recommended(row.cell)]
    unknown = [row for row in rows if row.cell.verdict == stats.CANNOT_TELL]
    if kept:
        points += _recommended(kept, rows, margin)
    elif unknown:
        points.append(f"No file can be recommended: none is shown to have a drop below {margin}.")
    else:
        points.append(f"Every measured file is less accurate than the float model by more than {margin}.")
    if unknown:
        smallest = sorted(unknown, key=lambda row: row.cell.size_bytes or 0)
        more = f"; and {len(unknown) - SHOWN} more, see “All results”" if len(unknown) > SHOWN else ""
        shown = "; ".join(map(_needs, smallest[:SHOWN]))
        points.append(f"Cannot tell whether the drop is below {margin}: {shown}{more}.")
    return points


def _recommended(kept: Sequence[Row], rows: Sequence[Row], margin: str) -> list[str]:
    """The smallest and the fastest file."""
    unit = formatting.unit(row.cell for row in rows)
    smallest = min(kept, key=lambda row: row.cell.size_bytes or 0)
    points = [f"Smallest with a drop below {margin}: {_sentence(smallest, rows, unit)}"]
    known = [row for row in kept if formatting.cost(row.cell)]
    if known:
        best = "Fewest instructions" if unit == formatting.INSTRUCTIONS else "Fastest"
        cheapest, *others = _cheapest(known, rows, unit)
        points += [f"{best} with a drop below {margin}: {cheapest}", *others]
    return points


def _needs(row: Row) -> str:
    """A file, and how many samples would tell: int8 on onnx, +1.00 points [-0.95, +2.95], about 4,200 samples would."""
    needed = row.cell.samples_needed
    would = f", about {formatting.about(needed)} samples would" if needed else ""
    return f"{formatting.run(row.cell)}, {formatting.drop_in_points(row.cell)}{would}"


def _cheapest(known: Sequence[Row], rows: Sequence[Row], unit: Unit) -> list[str]:
    """The file with the lowest median, and those that are not significantly worse.

    The level is divided by the number of comparisons (Bonferroni): the chance of a false difference is 5 % for the
    whole list.
    """
    best = min(known, key=_p50)
    rivals = [row for row in known if row is not best]
    near = [formatting.run(row.cell) for row in rivals if not _costs_more(row, best, 1 - 0.05 / len(rivals))]
    others = [f"Not significantly worse: {', '.join(near)}."] if near else []
    return [_sentence(best, rows, unit), *others]


def _p50(row: Row) -> float:
    cost = formatting.cost(row.cell)
    assert cost is not None  # only rows with a cost are compared
    return cost.p50


def _costs_more(row: Row, than: Row, confidence: float) -> bool:
    """Whether a file is significantly slower than another one, or counts clearly more instructions."""
    if row.cell.latency_ms is None:
        return _p50(row) > COUNTED_ALIKE * _p50(than)
    assert row.measurement is not None and than.measurement is not None  # they have a latency
    found = stats.latency_ratio(than.measurement.processes, row.measurement.processes, confidence)
    return found is not None and found[1][0] > 1


def _sentence(row: Row, rows: Sequence[Row], unit: Unit) -> str:
    """One file in words: size, cost, accuracy drop, and the verdict on the drop."""
    cell = row.cell
    base = next((r for r in rows if (r.cell.recipe, r.cell.target) == ("fp32", cell.target)), row)
    parts = [f"{formatting.kilobytes(cell.size_bytes)} kB{_smaller(cell, base.cell)}"]
    cost = formatting.cost(cell)
    if cost:
        parts.append(f"p50 {unit.text(cost.p50)} {unit.name}{_cheaper(row, base)}")
    parts.append(f"drop {formatting.drop_in_points(cell)}, {verdict(row)}")
    return f"{formatting.run(cell)}. {', '.join(parts)}."


def _compared_with_host(rows: Sequence[Row]) -> list[str]:
    """How a model's outputs on a device differ from the host's. Rows of the host itself give nothing."""
    pairs = [(row, row.cell.steps[-1]) for row in rows if len(row.cell.steps) == len(WAY)]
    compared = [(step.equal, step.top1_agreement, row) for row, step in pairs if step.equal is not None]
    if not compared:
        return ["Not compared with the host, which has not measured these files."] if pairs else []
    count = f"{samples(compared[0][-1]):,} samples"
    same = sum(equal == 1 for equal, _, _ in compared)
    sentences = [f"Compared with the host: {same} of {len(compared)} files are bit-equal on all {count}."]
    if same < len(compared):
        equal, _, row = min(compared, key=lambda each: each[0])
        sentences.append(f"Fewest bit-equal samples: {formatting.percent(equal)} % ({formatting.run(row.cell)}).")
    known = [(agreement, row) for _, agreement, row in compared if agreement is not None]
    if known:
        agreement, row = min(known, key=lambda each: each[0])
        where = "" if agreement == 1 else f" ({formatting.run(row.cell)})"
        sentences.append(f"{'Lowest top' if where else 'Top'}-1 agreement: {formatting.percent(agreement)} %{where}.")
    if len(compared) < len(pairs):
        sentences.append(f"The host has not measured {len(pairs) - len(compared)} more files.")
    return [" ".join(sentences)]


def _smaller(cell: Cell, base: Cell) -> str:
    """How much smaller a file is than fp32 on the same target, if it is."""
    ratio = (base.size_bytes or 0) / (cell.size_bytes or 1)
    return f" ({ratio:.1f} times smaller than fp32)" if ratio >= WORTH_MENTIONING else ""


def _cheaper(row: Row, base: Row) -> str:
    """How much faster a file is than fp32 on the same target, or how many fewer instructions it runs, if so: only
    where the difference is significant."""
    own, other = formatting.cost(row.cell), formatting.cost(base.cell)
    if row is base or not (own and other and own.p50):
        return ""
    ratio, what = other.p50 / own.p50, "faster" if row.cell.latency_ms else "fewer"
    clear = ratio >= WORTH_MENTIONING and _costs_more(base, row, 0.95)
    return f" ({ratio:.1f} times {what} than fp32)" if clear else ""
