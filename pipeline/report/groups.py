"""Rows grouped by model and by device."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from pipeline import formatting
from pipeline.core import Measurement
from pipeline.results.rows import Row


def by_model(found: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """All rows, by model and framework."""
    return [(name, list(group)) for name, group in groupby(found, key=lambda row: formatting.model(row.cell))]


def by_device(found: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Measured rows by model and device. Only rows of one group may be ranked or share a chart."""
    rows = sorted((row for row in found if row.measurement and row.cell.status == "ok"), key=_place)
    return [(name, list(group)) for name, group in groupby(rows, key=_place)]


def measured(found: Iterable[Row]) -> list[Measurement]:
    """The valid measurements."""
    return [row.measurement for row in found if row.measurement and row.cell.status == "ok"]


def samples(row: Row) -> int:
    """The number of samples that a row's accuracy was measured on."""
    return row.measurement.accuracy.samples if row.measurement else 0


def _place(row: Row) -> str:
    return f"{formatting.model(row.cell)} on {formatting.device(row.cell)}"
