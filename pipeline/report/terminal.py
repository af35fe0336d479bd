"""The terminal's table of cells: `table(results.cells(build))`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest

from pipeline import formatting
from pipeline.core import Cell
from pipeline.results import warnings

WIDTH = 132
"""Columns of a terminal that reasons and warnings are wrapped to."""

NAMES = 3
"""So many columns are names, to the left; the others are figures, to the right."""


def table(found: Sequence[Cell]) -> str:
    """The cells as text: one row each, under a line for each model; then what should be known of their figures."""
    if not found:
        return "no models yet: inv train"
    models = [(name, list(cells)) for name, cells in groupby(found, key=formatting.model)]
    tables = [(name, _rows(cells)) for name, cells in models]
    widths = _widths(row for _, rows in tables for row in rows)
    lines: list[str] = []
    for name, rows in tables:
        lines += ["", name, *(line for row in rows for line in _aligned(row, widths))]
    notes = [line for text in warnings.once(found) for line in _wrapped("! ", text)]
    return "\n".join([*lines[1:], "", *notes] if notes else lines[1:])


def _rows(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """The head and each cell's texts. In a row with fewer texts than the head, the last stands in the others' place."""
    unit = formatting.unit(cell for cell in cells if not cell.emulated)
    head = (
        *("recipe", "target", "device", "size kB", f"p50 / p90 / p99 {unit.name}", "load ms", "RSS MB"),
        *("top-1 %", "drop, points [95 %] ", "agree %"),
    )
    return [head, *(_texts(cell, unit) for cell in cells)]


def _texts(cell: Cell, unit: formatting.Unit) -> tuple[str, ...]:
    names = (cell.recipe, cell.target, formatting.place(cell))
    if cell.status != "ok":
        return *names, f"{cell.status}: {cell.reason}"
    if cell.device is None:
        return *names, formatting.kilobytes(cell.size_bytes), cell.unchecked or "not checked"
    drop = formatting.drop(cell)
    return (
        *names,
        formatting.kilobytes(cell.size_bytes),
        _cost(cell, unit),
        formatting.NONE if cell.load_ms is None else formatting.figure(cell.load_ms),
        formatting.megabytes(cell.peak_rss_bytes),
        formatting.percent(cell.accuracy),
        drop if drop.endswith("*") else drop + " ",
        formatting.percent(cell.agreement),
    )


def _cost(cell: Cell, unit: formatting.Unit) -> str:
    """p50 / p90 / p99; for an emulated device its instructions with their spread, or that they were not counted."""
    cost = formatting.cost(cell)
    if cost is None:
        return "not counted" if cell.emulated else formatting.NONE
    if cell.emulated:
        return formatting.instructions(cost.p50, cost.p99)
    return " / ".join(unit.text(value) for value in (cost.p50, cost.p90, cost.p99))


def _widths(rows: Iterable[tuple[str, ...]]) -> list[int]:
    """Widths of the columns. A text that stands in others' place may run over the columns after it."""
    rows = list(rows)
    whole = max(map(len, rows))
    columns = zip_longest(*(row if len(row) == whole else row[:-1] for row in rows), fillvalue="")
    return [max(map(len, column)) for column in columns]


def _aligned(row: tuple[str, ...], widths: Sequence[int]) -> list[str]:
    """A row as a line, or as some, where its last text is long and stands in others' place."""
    whole = len(row) == len(widths)
    texts = row if whole else row[:-1]
    parts = (
        text.ljust(width) if place < NAMES else text.rjust(width)
        for place, (text, width) in enumerate(zip(texts, widths, strict=False))
    )
    begin = "  " + "  ".join(parts)
    return [begin.rstrip()] if whole else _wrapped(begin + "  ", row[-1])


def _wrapped(begin: str, text: str) -> list[str]:
    room = max(40, WIDTH - len(begin))
    first, *rest = textwrap.wrap(formatting.one_line(text), room) or [""]
    return [begin + first, *(" " * len(begin) + line for line in rest)]
