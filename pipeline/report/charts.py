"""Sections that are charts: cost and drop, sizes, drops by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline import formatting, stats
from pipeline.formatting import NONE
from pipeline.report import figures
from pipeline.report.groups import by_device, by_model, samples
from pipeline.report.page import Block, Section, Table, numbers, texts
from pipeline.results.rows import Row

MOST_CLASSES = 20
"""More classes than these do not fit a heatmap's width; those that change the most are shown, and it is said."""


def trade_off(found: Sequence[Row]) -> Section:
    targets = _names(found, "target")
    blocks: list[Block] = []
    for place, rows in by_device(found):
        known = [row for row in rows if formatting.cost(row.cell)]
        if known:
            left = (
                "The fewest instructions first. Left: instructions an inference, the median of raw runs (logarithmic "
                "axis); the line ends at p99. This is no latency: see below."
                if known[0].cell.emulated
                else "The fastest first. Left: median latency of raw runs on this device (logarithmic axis); the line "
                "ends at p99."
            )
            caption = (
                f"{left} Middle: drop over {samples(known[0]):,} samples with its 95 % interval; one that crosses 0 "
                "shows no difference that these samples can resolve. Right: size of the file."
            )
            chart = figures.html(figures.trade_off(known, targets), f"trade-off-{len(blocks)}")
            blocks.append(Block(place, chart=chart, caption=caption))
    return Section(
        "trade-off",
        "Accuracy drop against cost, with size",
        blocks=tuple(blocks),
        nothing="No latency was measured.",
    )


def sizes(found: Sequence[Row]) -> Section:
    targets = _names(found, "target")
    blocks: list[Block] = []
    for model, rows in by_model(found):
        held = {(r.cell.target, r.cell.recipe): r.cell.size_bytes / 1000 for r in rows if r.cell.size_bytes}
        if held:
            recipes = [recipe for recipe in _names(rows, "recipe") if any(recipe == r for _, r in held)]
            caption = (
                "Size of the exported file (1 kB is 1000 bytes); for Core ML of all files in the package. A missing "
                "bar is a combination without a file."
            )
            chart = figures.html(figures.sizes(held, targets, recipes), f"sizes-{len(blocks)}")
            blocks.append(Block(model, chart=chart, caption=caption))
    return Section("sizes", "Size", blocks=tuple(blocks), nothing="Nothing was exported.")


def classes(found: Sequence[Row]) -> Section:
    blocks = tuple(_classes(place, rows, number) for number, (place, rows) in enumerate(by_device(found)))
    return Section("classes", "Accuracy by class", blocks=blocks, nothing="Nothing was measured.")


def _classes(place: str, rows: Sequence[Row], number: int) -> Block:
    """One model on one device: a sentence where no class changes, else a heatmap and its table."""
    width = len(rows[0].classes)
    if not any(drop for row in rows for _, drop, _ in row.classes):
        return Block(points=(f"{place}: no class is right more or less often than in the float model, in any cell.",))
    labels = rows[0].checkpoint.spec.labels if rows[0].checkpoint else ()
    labels = labels if len(labels) == width else tuple(str(i) for i in range(width))
    shown = _most_changed(rows, width)
    counts = [rows[0].classes[i][0] for i in shown]
    caption = (
        f"Percentage points of each class's samples lost against the float model; negative is a gain. A class has "
        f"{min(counts)} to {max(counts)} samples here, so one sample is up to {100 / min(counts):.1f} points. A "
        "star marks intervals that leave out 0; of many, about 1 in 20 does by chance."
    )
    if len(shown) < width:
        caption += f" Shown are the {len(shown)} of {width:,} classes that change the most."
    changes = [tuple(_change(row, i) for i in shown) for row in rows]
    lines = tuple((row.cell.recipe, row.cell.target, *texts) for row, texts in zip(rows, changes, strict=True))
    return Block(
        f"{place}: drop by class, points",
        chart=figures.html(figures.classes(rows, labels, shown, changes), f"classes-{number}"),
        table=Table((*texts("recipe", "target"), *numbers(*(labels[i] for i in shown))), lines),
        caption=caption,
    )


def _most_changed(rows: Sequence[Row], width: int) -> list[int]:
    """Indices of at most MOST_CLASSES classes with samples, in label order: those with the largest change anywhere."""
    with_samples = [i for i in range(width) if rows[0].classes[i][0]]
    change = {i: max(abs(row.classes[i][1] or 0.0) for row in rows) for i in with_samples}
    return sorted(sorted(with_samples, key=lambda i: -change[i])[:MOST_CLASSES])


def _change(row: Row, label: int) -> str:
    """A class's drop in words, with a star where its interval leaves out 0."""
    _, drop, interval = row.classes[label]
    if drop is None or interval is None:
        return NONE
    return (f"{drop + 0:+.1f}" if round(drop, 1) else "0") + ("*" if stats.is_resolved(interval) else "")


def _names(found: Iterable[Row], field: str) -> list[str]:
    """Names in the order of the rows, once each."""
    return list(dict.fromkeys(getattr(row.cell, field) for row in found))
