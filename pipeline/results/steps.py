"""Steps in a series of figures, told from noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

LEVEL = 0.05
"""The probability of reporting any step where there is none, over all series that are tested together."""

FEWEST, SIDE = 6, 2
"""A series needs this many figures, and a step this many on each side."""


@dataclass(frozen=True)
class Found:
    """A step.

    Attributes:
        index: of the first figure after it.
        before, after: means of the figures between this step and the adjacent ones.
        interval: of after - before, 95 %, as if the index had been known.
        p: the p-value, adjusted for all indices and all series.
    """

    index: int
    before: float
    after: float
    interval: tuple[float, float]
    p: float


def steps(figures: Sequence[float], variance: float = 0.0, series: int = 1) -> list[Found]:
    """The steps in a series, in its order.

    Each index is tested as the border between two normal samples with the same variance (Student's t, pooled variance).
    The smallest p-value, times the number of indices, is that of the series. A series with a step is divided there, and
    both parts are tested in the same way.

    Args:
        figures: independent, and identically distributed where nothing changed.
        variance: a lower bound of a figure's variance, known from elsewhere.
        series: how many series are tested together.

    Sources: Worsley, "On the likelihood ratio test for a shift in location of normal populations", JASA 74, 1979, for
        the largest t and its Bonferroni bound; Scott and Knott, "A cluster analysis method for grouping means in the
        analysis of variance", Biometrics 30, 1974, for the division.
    """
    found = dict(_divided(figures, 0, variance, series))
    ends = [0, *sorted(found), len(figures)]
    parts = [figures[low:high] for low, high in pairwise(ends)]
    return [_found(i, parts[n], parts[n + 1], variance, found[i]) for n, i in enumerate(sorted(found))]


def _found(index: int, left: Sequence[float], right: Sequence[float], variance: float, p: float) -> Found:
    """The step between two parts, with Student's interval of the difference."""
    from scipy.stats import t

    before, after = sum(left) / len(left), sum(right) / len(right)
    freedom = len(left) + len(right) - 2
    within = sum((x - before) ** 2 for x in left) + sum((x - after) ** 2 for x in right)
    error = math.sqrt(max(within / freedom, variance) * (1 / len(left) + 1 / len(right)))
    half = float(t.ppf(0.975, freedom)) * error
    return Found(index, before, after, (after - before - half, after - before + half), p)


def _divided(figures: Sequence[float], start: int, variance: float, series: int) -> Iterator[tuple[int, float]]:
    """Indices of steps, with their p-values."""
    if len(figures) < FEWEST:
        return
    index, p = _largest(figures, variance)
    p = min(1.0, p * series)
    if p <= LEVEL:
        yield start + index, p
        yield from _divided(figures[:index], start, variance, series)
        yield from _divided(figures[index:], start + index, variance, series)


def _largest(figures: Sequence[float], variance: float) -> tuple[int, float]:
    """The index with the largest t, and its p-value for all indices."""
    import numpy as np
    from scipy.stats import t

    values = np.asarray(figures, np.float64)
    values = values - values.mean()  # so that squares of large figures lose no digits
    count = len(values)
    left = np.arange(SIDE, count - SIDE + 1)
    sums, squares = np.cumsum(values)[left - 1], float((values**2).sum())
    means = sums / left, -sums / (count - left)
    within = squares - left * means[0] ** 2 - (count - left) * means[1] ** 2
    pooled = np.maximum(np.maximum(within, 0) / (count - 2), max(variance, np.finfo(float).tiny))
    size = np.abs(means[1] - means[0]) / np.sqrt(pooled * (1 / left + 1 / (count - left)))
    best = int(np.argmax(size))
    return int(left[best]), min(1.0, float(2 * t.sf(size[best], count - 2)) * len(left))
