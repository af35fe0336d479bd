"""Verdicts: what the figures of both frameworks say, and whether they say anything.

Every verdict of the comparison is made here, of a row's raw samples: nobody writes one by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from statistics import median

from pipeline import stats
from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, PAIRED, Row, Side

UNRESOLVED = "no difference we can resolve"
SAME = "the same"
NOBODY = "neither"
DIFFERENT = "they differ"


@dataclass(frozen=True)
class Verdict:
    """What a row comes to.

    Attributes:
        torch, keras: the figure of each, in the row's unit: the median over rounds of each round's median.
        ratio: TensorFlow's over PyTorch's, of measured rows; of paired ones the difference in points.
        interval: its 95 % interval; None where the figures are exact, or too few.
        better: "torch", "keras", or nobody.
        words: the verdict.
    """

    torch: float | None
    keras: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    better: str | None
    words: str


def verdict(row: Row) -> Verdict:
    """What the samples of a row say."""
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
    """A side's figure; None where it has none."""
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
    """The verdict of a difference with an interval; `none` is where there is no difference."""
    low, high = interval or (nan, nan)
    if not (low > none or high < none):
        return Verdict(*figures, value, interval, None, UNRESOLVED)
    better = _better(row, high < none)
    return Verdict(*figures, value, interval, better, FRAMEWORKS[better] if better else DIFFERENT)


def _better(row: Row, keras_lower: bool) -> str | None:
    if row.better == "neither":
        return None
    return "keras" if keras_lower == (row.better == "lower") else "torch"
