"""Whether a file is as accurate as the float model, within a margin: the verdict of each cell."""

from __future__ import annotations

from dataclasses import replace

from pipeline import stats
from pipeline.core import Cell
from pipeline.errors import BadOption

MARGIN = 1.0
"""The largest drop, in percentage points, that a recommended file may have, unless the user gives another."""


def check(margin: float) -> None:
    """
    Raises:
        BadOption: the margin is not between 0 and 100 points.
    """
    if not 0 < margin < 100:
        raise BadOption(f"--margin {margin:g}: must be above 0 and below 100 percentage points")


def judged(cell: Cell, margin: float) -> Cell:
    """The cell with its verdict, if its accuracy was measured."""
    if cell.drop_points is None or cell.drop_interval is None or cell.samples is None:
        return cell
    verdict = stats.verdict(cell.drop_interval, margin)
    needed = None
    if verdict == stats.CANNOT_TELL and cell.lost is not None and cell.gained is not None:
        needed = stats.samples_needed(cell.lost, cell.gained, cell.samples, margin)
    elif verdict == stats.CANNOT_TELL:
        needed = stats.samples_needed_of_mean(cell.drop_points, cell.drop_interval, cell.samples, margin)
    return replace(cell, margin_points=margin, verdict=verdict, samples_needed=needed)


def recommended(cell: Cell) -> bool:
    """Whether the cell's drop is shown to be below the margin."""
    return cell.verdict in (stats.BETTER, stats.NO_WORSE)
