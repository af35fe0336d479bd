"""The ratio of a figure of two files, new / old, measured over rounds: in each round, one process ran each file.

One process is one sample: the runs of one process depend on each other (addresses, pages, the scheduler). The test is
Student's t on the logarithms of the rounds' ratios. If it cannot tell after the rounds, they are extended once by as
many; the two tests share a level of 5 % (`ALPHAS`), so both together are false in at most 5 % of comparisons of equal
files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median, stdev

from pipeline import stats
from pipeline.core import Process

ROUNDS = 10
"""Rounds of a comparison before the extension."""

ALPHAS = (0.01, 0.04)
"""Levels of the two-sided tests after the rounds and after their extension. Source: Bonferroni's inequality."""

MOST_ROUNDS = 10**6
"""`rounds_needed` returns no larger number."""

BETTER, WORSE, SAME, CANNOT_TELL = "better", "worse", "same", stats.CANNOT_TELL
"""Verdicts; see `verdict`."""


@dataclass(frozen=True)
class Ratio:
    """The ratio of a figure, new / old.

    Attributes:
        rounds: their number.
        mean: of the logarithms of the rounds' ratios.
        deviation: their standard deviation.
        alpha: the level of the test that was made last.
    """

    rounds: int
    mean: float
    deviation: float
    alpha: float

    @property
    def value(self) -> float:
        """The geometric mean of the rounds' ratios."""
        return math.exp(self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval at 1 - alpha."""
        half = _half(self.deviation, self.rounds, self.alpha)
        return math.exp(self.mean - half), math.exp(self.mean + half)

    def p_above(self, limit: float) -> float:
        """Two-sided p-value of a ratio of `limit`, if this one is above; 1 if it is below."""
        distance = self.mean - math.log(limit)
        if distance <= 0:
            return 1.0
        if self.deviation == 0:
            return 0.0
        from scipy.stats import t

        return float(2 * t.sf(distance / self.deviation * math.sqrt(self.rounds), self.rounds - 1))

    @property
    def resolution(self) -> float:
        """Half the interval after the extension, as a share: a narrower margin cannot be shown with these rounds."""
        total = self.rounds if self.alpha == ALPHAS[-1] else 2 * self.rounds
        return math.expm1(_half(self.deviation, total, ALPHAS[-1]))


def of(old: Sequence[float], new: Sequence[float], alpha: float) -> Ratio:
    """The ratio of figures of the same rounds.

    Raises:
        ValueError: the lengths differ, there are fewer than two rounds, or a figure is not positive.
    """
    if len(old) != len(new) or len(old) < 2 or min(*old, *new) <= 0:
        raise ValueError(f"rounds: {len(old)} and {len(new)} figures; two at least, all above 0")
    logs = [math.log(b / a) for a, b in zip(old, new, strict=True)]
    return Ratio(len(logs), sum(logs) / len(logs), stdev(logs), alpha)


def medians(processes: Sequence[Process]) -> list[float]:
    """The figure of each process: its median, in milliseconds or, on a device that counts them, 10^6 instructions."""
    return [stats.median_ms(process.runs) for process in processes]


def median_of(processes: Sequence[Process]) -> float:
    """The median of `medians`."""
    return median(medians(processes))


def verdict(ratio: Ratio, margin: float) -> str:
    """What the interval of a ratio shows, for a margin as a share.

    Returns:
        SAME: the interval lies within the margin, from 1 / (1 + margin) to 1 + margin. BETTER, WORSE: it lies below or
        above 1. CANNOT_TELL: it contains 1 and leaves the margin.
    """
    low, high = ratio.interval
    if 1 / (1 + margin) < low and high < 1 + margin:
        return SAME
    if low > 1:
        return WORSE
    return BETTER if high < 1 else CANNOT_TELL


def rounds_needed(ratio: Ratio, distance: float) -> int | None:
    """With how many rounds, which may be extended once, an interval ends within this distance (of logarithms) from the
    ratio in 80 % of cases, if the rounds differ as they did.

    Returns:
        None for more than a million.
    """
    if distance <= 0:
        return None
    power = NormalDist().inv_cdf(stats.POWER)
    low, high = 2, MOST_ROUNDS + 1
    while low < high:
        middle = (low + high) // 2
        total = 2 * middle
        if _half(ratio.deviation, total, ALPHAS[-1]) + power * ratio.deviation / math.sqrt(total) < distance:
            high = middle
        else:
            low = middle + 1
    return low if low <= MOST_ROUNDS else None


def rounds_to_tell(ratio: Ratio, margin: float) -> int | None:
    """`rounds_needed` for a verdict other than CANNOT_TELL: the ratio is not 1, or it is within the margin."""
    return rounds_needed(ratio, max(abs(ratio.mean), math.log1p(margin) - abs(ratio.mean)))


def _half(deviation: float, rounds: int, alpha: float) -> float:
    """Half the width of the interval of the mean."""
    from scipy.stats import t

    return float(t.ppf(1 - alpha / 2, rounds - 1)) * deviation / math.sqrt(rounds)
