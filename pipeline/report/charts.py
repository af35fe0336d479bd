"""Sections with charts: accuracy against cost, file sizes, accuracy drop by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline import formatting, stats
from pipeline.formatting import NONE
from pipeline.report import figures
from pipeline.report.groups import by_device, by_model, samples
from pipeline.report.page import Block, Section, Table, numbers, texts
from pipeline.results.rows import Row

MOST_CLASSES = 20
"""A heatmap has room for so many classes. Of more, those that change most are shown, and the caption notes it."""


def trade_off(found: Sequence[Row]) -> Section:
    targets = _names(found, "target")
    blocks: list[Block] = []
    for place, rows in by_device(found):
        known = [row for row in rows if formatting.cost(row.cell)]
        if known:
            left = (
                "Fewest instructions first. Left: median instructions per inference on a logarithmic axis, with a line "
                "to p99. Instructions are not latency: see the note under “All results”."
                if known[0].cell.emulated
                else "Fastest first. Left: median latency on this device on a logarithmic axis, with a line to p99."
            )
            caption = (
                f"{left} Middle: drop over {samples(known[0]):,} samples with its 95 % interval. If the "
                "interval contains 0, the difference is not significant. Right: file size."
            )
            chart = figures.html(figures.trade_off(known, targets), f"trade-off-{len(blocks)}")
            blocks.append(Block(place, chart=chart, caption=caption))
    return Section(
        "trade-off",
        "Accuracy, cost and size",
        blocks=tuple(blocks),
        nothing="No latency was measured.",
    )


def sizes(found: Sequence[Row]) -> Section:
    targets = _names(found, "target")
    blocks: list[Block] = []
    for model, rows in by_model(found):
        known = {(r.cell.target, r.cell.recipe): r.cell.size_bytes / 1000 for r in rows if r.cell.size_bytes}
        if known:
            recipes = [recipe for recipe in _names(rows, "recipe") if any(recipe == r for _, r in known)]
            caption = (
                "Size of the exported file (1 kB = 1000 bytes); for Core ML, of all files in the package. "
                "Combinations that were not exported have no bar."
            )
            chart = figures.html(figures.sizes(known, targets, recipes), f"sizes-{len(blocks)}")
            blocks.append(Block(model, chart=chart, caption=caption))
    return Section("sizes", "File size", blocks=tuple(blocks), nothing="Nothing was exported.")


def classes(found: Sequence[Row]) -> Section:
    """By class; no section if no model has classes."""
    groups = list(by_device(found))
    blocks = tuple(_classes(place, rows, number) for number, (place, rows) in enumerate(groups) if rows[0].classes)
    nothing = "" if groups else "Nothing was measured."
    return Section("classes", "Accuracy drop by class", blocks=blocks, nothing=nothing)


def _classes(place: str, rows: Sequence[Row], number: int) -> Block:
    """One model on one device: a heatmap and its table, or a sentence if no class changes."""
    width = len(rows[0].classes)
    if not any(drop for row in rows for _, drop, _ in row.classes):
        return Block(place, points=("Every file has the float model's accuracy in every class.",))
    labels = rows[0].checkpoint.spec.labels if rows[0].checkpoint else ()
    labels = labels if len(labels) == width else tuple(str(i) for i in range(width))
    shown = _most_changed(rows, width)
    counts = [rows[0].classes[i][0] for i in shown]
    caption = (
        "Accuracy lost against the float model in each class, in percentage points; negative is a gain. Each class has "
        f"{_count(counts)} samples, so one sample is up to {100 / min(counts):.1f} points. * marks a significant "
        "difference (the 95 % interval excludes 0); about 1 in 20 intervals does so by chance."
    )
    if len(shown) < width:
        caption += f" Only the {len(shown)} of {width:,} classes that change most are shown."
    changes = [tuple(_change(row, i) for i in shown) for row in rows]
    lines = tuple((row.cell.recipe, row.cell.target, *texts) for row, texts in zip(rows, changes, strict=True))
    return Block(
        place,
        chart=figures.html(figures.classes(rows, labels, shown, changes), f"classes-{number}"),
        table=Table((*texts("recipe", "target"), *numbers(*(labels[i] for i in shown))), lines),
        caption=caption,
    )


def _count(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _most_changed(rows: Sequence[Row], width: int) -> list[int]:
    """Indices, in label order, of the MOST_CLASSES classes with samples that change most in any row."""
    with_samples = [i for i in range(width) if rows[0].classes[i][0]]
    change = {i: max(abs(row.classes[i][1] or 0.0) for row in rows) for i in with_samples}
    return sorted(sorted(with_samples, key=lambda i: -change[i])[:MOST_CLASSES])


def _change(row: Row, label: int) -> str:
    """A class's drop, with a star if it is significant."""
    _, drop, interval = row.classes[label]
    if drop is None or interval is None:
        return NONE
    return (f"{drop + 0:+.1f}" if round(drop, 1) else "0") + ("*" if stats.is_significant(interval) else "")


def _names(found: Iterable[Row], field: str) -> list[str]:
    """The distinct names, in the order of the rows."""
    return list(dict.fromkeys(getattr(row.cell, field) for row in found))
