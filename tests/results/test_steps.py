"""Steps in series of figures: how often noise is taken for one, and which real ones are found where."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.results.steps import LEVEL, steps


@pytest.mark.parametrize("count", [8, 30])
def test_noise_is_rarely_a_step(count: int) -> None:
    random = np.random.default_rng(count)
    alarms = sum(bool(steps(random.normal(0, 1, count).tolist())) for _ in range(400))
    assert alarms <= 400 * LEVEL


def test_a_step_of_three_deviations_is_found_at_its_place_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(3)
    found = [steps((random.normal(0, 1, 24) + 3 * (np.arange(24) >= 14)).tolist()) for _ in range(100)]
    assert sum(len(each) == 1 for each in found) >= 90
    firsts = [each[0] for each in found if each]
    assert sum(abs(first.index - 14) <= 1 for first in firsts) >= 90
    assert sum(first.interval[0] < 3 < first.interval[1] for first in firsts) >= 85


def test_two_steps_are_found_in_order() -> None:
    noise = np.random.default_rng(5).normal(0, 0.1, 30)
    found = steps((noise + np.repeat([0.0, 1.0, 0.5], 10)).tolist())
    assert [step.index for step in found] == [10, 20]
    assert found[1].after - found[1].before == pytest.approx(-0.5, abs=0.1)


def test_few_figures_have_no_steps() -> None:
    assert steps([1.0, 1.0, 1.0, 9.0, 9.0]) == [] and steps([]) == []


def test_known_noise_and_other_series_make_a_step_harder_to_show() -> None:
    figures = [0.0, 0.01, 0.0, 0.01, 1.0, 1.01, 1.0, 1.01]
    assert [step.index for step in steps(figures)] == [4]
    assert steps(figures, variance=1.0) == []
    (alone,), (among,) = steps(figures), steps(figures, series=100)
    assert among.p == pytest.approx(100 * alone.p)


def test_equal_figures_have_no_step_and_exact_ones_do() -> None:
    assert steps([5.0] * 10) == []
    assert [step.index for step in steps([5.0] * 5 + [6.0] * 5)] == [5]
