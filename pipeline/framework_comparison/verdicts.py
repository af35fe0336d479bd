"""Verdicts: which framework is better in a row, and whether the difference is significant.

Every verdict of the comparison is computed here from a row's raw samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from statistics import median

from pipeline import stats
from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, PAIRED, Row, Side

UNRESOLVED = "no significant difference"
SAME = "the same"
NOBODY = "neither"
DIFFERENT = "they differ"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a row.

    Attributes:
        torch, keras: each framework's figure in the row's unit: the median over the rounds' medians.
        ratio: TensorFlow's figure divided by PyTorch's; in paired rows the difference in points.
        interval: its 95 % interval; None for exact figures and for fewer than two rounds.
        better: "torch", "keras" or None.
        words: the verdict in words.
    """

    torch: float | None
    keras: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    better: str | None
    words: str


def verdict(row: Row) -> Verdict:
    """The verdict on a row, from its samples."""
    torch, keras = figure(row.torch), figure(row.keras)
    if torch is None or keras is None:
        only = next((name for name, value in (("torch", torch), ("keras", keras)) if value is not None), None)
        words = f"{FRAMEWORKS[only]} only" if only else NOBODY
        return Verdict(torch, keras, None, None, None, words)
    if row.kind == PAIRED:
        shift, interval = stats.paired_shift(row.differences)
        return _of(row, (torch, keras), shift, interval, 0.0)
    if row.kind == EXACT:
        return _exact(row, torch, keras)
    if min(*_rounds(row.torch), *_rounds(row.keras)) <= 0:  # an accuracy of 0 has no ratio
        return Verdict(torch, keras, None, None, None, UNRESOLVED)
    ratio, bounds = stats.paired_ratio(_rounds(row.torch), _rounds(row.keras))
    return _of(row, (torch, keras), ratio, bounds, 1.0)


def figure(side: Side) -> float | None:
    """A side's figure; None if it has no samples."""
    return median(_rounds(side)) if side.samples else None


def _rounds(side: Side) -> list[float]:
    return [median(samples) for samples in side.samples]


def _exact(row: Row, torch: float, keras: float) -> Verdict:
    ratio = keras / torch if torch else None
    if torch == keras:
        return Verdict(torch, keras, ratio, None, None, SAME)
    better = _better(row, keras < torch)
    return Verdict(torch, keras, ratio, None, better, FRAMEWORKS[better] if better else DIFFERENT)


def _of(
    row: Row, figures: tuple[float, float], value: float, interval: tuple[float, float] | None, none: float
) -> Verdict:
    """The verdict on a difference with an interval. `none` is the value that means no difference."""
    low, high = interval or (nan, nan)
    if not (low > none or high < none):
        return Verdict(*figures, value, interval, None, UNRESOLVED)
    better = _better(row, high < none)
    return Verdict(*figures, value, interval, better, FRAMEWORKS[better] if better else DIFFERENT)


def _better(row: Row, keras_lower: bool) -> str | None:
    if row.better == "neither":
        return None
    return "keras" if keras_lower == (row.better == "lower") else "torch"
