"""The ratio of two files: its verdict, its false alarms, its power, and how many rounds would tell."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from pipeline.results import ratios
from pipeline.results.ratios import ALPHAS, BETTER, CANNOT_TELL, SAME, WORSE, Ratio

FAR = 1e6
"""A margin that is never reached: the verdict then depends on whether 1 is in the interval."""


def two_stages(random: np.random.Generator, ratio: float, deviation: float, rounds: int, margin: float) -> str:
    """The verdict of a comparison: after the rounds, or after their extension."""
    old = np.exp(random.normal(0, deviation, 2 * rounds))
    new = ratio * np.exp(random.normal(0, deviation, 2 * rounds))
    first = ratios.of(old[:rounds].tolist(), new[:rounds].tolist(), ALPHAS[0])
    verdict = ratios.verdict(first, margin)
    if verdict != CANNOT_TELL:
        return verdict
    return ratios.verdict(ratios.of(old.tolist(), new.tolist(), ALPHAS[1]), margin)


def share(verdicts: list[str], *of: str) -> float:
    return sum(verdict in of for verdict in verdicts) / len(verdicts)


def test_two_looks_at_equal_files_call_at_most_five_percent_better_or_worse() -> None:
    random = np.random.default_rng(1)
    verdicts = [two_stages(random, 1.0, 0.02, 6, 1e-9) for _ in range(2000)]
    assert 0.02 < share(verdicts, BETTER, WORSE) <= 0.055  # three standard errors of 2,000 are 1.5 points
    assert share(verdicts, SAME) == 0


def test_a_margin_turns_false_alarms_into_the_same() -> None:
    random = np.random.default_rng(2)
    verdicts = [two_stages(random, 1.0, 0.01, ratios.ROUNDS, 0.02) for _ in range(500)]
    assert share(verdicts, BETTER, WORSE) <= 0.05
    assert share(verdicts, SAME) > 0.9


def test_a_slowdown_of_three_percent_is_caught_at_the_default_rounds() -> None:
    random = np.random.default_rng(3)
    verdicts = [two_stages(random, 1.03, 0.015, ratios.ROUNDS, 0.02) for _ in range(300)]
    assert share(verdicts, WORSE) > 0.9
    faster = [two_stages(random, 1 / 1.03, 0.015, ratios.ROUNDS, 0.02) for _ in range(300)]
    assert share(faster, BETTER) > 0.9


@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [(0.0, 0.001, SAME), (0.1, 0.01, WORSE), (-0.1, 0.01, BETTER), (0.0, 0.2, CANNOT_TELL), (0.005, 0.0, SAME)],
)
def test_the_interval_decides_the_verdict(mean: float, deviation: float, expected: str) -> None:
    assert ratios.verdict(Ratio(10, mean, deviation, 0.01), 0.02) == expected


def test_a_significant_difference_within_the_margin_is_the_same() -> None:
    ratio = Ratio(10, 0.005, 0.001, 0.01)
    assert ratio.interval[0] > 1
    assert ratios.verdict(ratio, 0.02) == SAME


def test_interval_and_p_value_are_those_of_students_t() -> None:
    random = np.random.default_rng(4)
    old, new = random.lognormal(0, 0.05, 9), random.lognormal(0.04, 0.05, 9)
    found = ratios.of(old.tolist(), new.tolist(), 0.04)
    expected = ttest_1samp(np.log(new / old), math.log(1.01))
    low, high = expected.confidence_interval(0.96)
    assert found.interval == pytest.approx((math.exp(low), math.exp(high)))
    assert found.value == pytest.approx(float(np.exp(np.log(new / old).mean())))
    p = expected.pvalue if found.mean > math.log(1.01) else 1.0
    assert found.p_above(1.01) == pytest.approx(p)
    assert found.p_above(10.0) == 1.0


def test_equal_rounds_leave_no_doubt() -> None:
    found = ratios.of([2.0] * 4, [2.2] * 4, 0.01)
    assert found.interval == pytest.approx((1.1, 1.1))
    assert (found.p_above(1.05), found.p_above(1.2)) == (0.0, 1.0)
    assert found.resolution == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("old", "new"), [([1.0], [1.0]), ([], []), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_what_has_no_ratio_is_refused(old: list[float], new: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        ratios.of(old, new, 0.01)


def test_the_rounds_that_would_tell_do_so_in_four_of_five_cases() -> None:
    random = np.random.default_rng(5)
    needed = ratios.rounds_to_tell(Ratio(5, 0.03, 0.02 * math.sqrt(2), 0.01), 0.02)
    assert needed is not None and 3 < needed < 20
    told = [two_stages(random, math.exp(0.03), 0.02, needed, 0.02) for _ in range(400)]
    assert share(told, WORSE) > 0.75
    fewer = [two_stages(random, math.exp(0.03), 0.02, max(2, needed // 2), 0.02) for _ in range(400)]
    assert share(fewer, WORSE) < share(told, WORSE)


def test_more_noise_and_a_narrower_margin_need_more_rounds() -> None:
    quiet, loud = (ratios.rounds_needed(Ratio(5, 0.0, deviation, 0.01), 0.02) for deviation in (0.02, 0.04))
    assert quiet is not None and loud is not None and loud >= 3 * quiet
    assert ratios.rounds_needed(Ratio(5, 0.0, 0.02, 0.01), 1e-9) is None
    assert ratios.rounds_needed(Ratio(5, 0.0, 0.02, 0.01), 0.0) is None


def test_the_resolution_is_half_of_the_interval_after_the_extension() -> None:
    first = Ratio(8, 0.0, 0.03, ALPHAS[0])
    extended = dataclasses.replace(first, rounds=16, alpha=ALPHAS[1])
    assert first.resolution == extended.resolution == pytest.approx(extended.interval[1] - 1)
    assert first.resolution < first.interval[1] - 1
