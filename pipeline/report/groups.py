"""Rows that belong together."""

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
    """Measured rows by model and device: what may stand in one chart or be ranked."""
    rows = sorted((row for row in found if row.measurement and row.cell.status == "ok"), key=_place)
    return [(name, list(group)) for name, group in groupby(rows, key=_place)]


def measured(found: Iterable[Row]) -> list[Measurement]:
    """The measurements that count."""
    return [row.measurement for row in found if row.measurement and row.cell.status == "ok"]


def samples(row: Row) -> int:
    """How many samples its accuracy is over."""
    return row.measurement.accuracy.samples if row.measurement else 0


def _place(row: Row) -> str:
    return f"{formatting.model(row.cell)} on {formatting.device(row.cell)}"
