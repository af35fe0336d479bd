"""Verdicts: a framework is better only if the interval excludes equality."""

from __future__ import annotations

import pytest

from pipeline.framework_comparison.parts import EXACT, MEASURED, PAIRED, Row, Side
from pipeline.framework_comparison.verdicts import SAME, UNRESOLVED, verdict


def side(*rounds: float | tuple[float, ...]) -> Side:
    return Side(tuple(samples if isinstance(samples, tuple) else (samples,) for samples in rounds))


def row(kind: str, torch: Side, keras: Side, better: str = "lower", *differences: tuple[int, int]) -> Row:
    return Row("a table", "a row", "ms", better, kind, {"torch": torch, "keras": keras}, differences)


def test_the_lower_figure_is_better_if_the_interval_of_the_ratio_excludes_1() -> None:
    found = verdict(row(MEASURED, side(10, 11, 10), side(20, 22.5, 20.1)))
    assert (found.torch, found.keras, found.better, found.words) == (10, 20.1, "torch", "PyTorch")
    assert found.ratio == pytest.approx(2.0184, abs=1e-4)
    assert found.interval == pytest.approx((1.9601, 2.0784), abs=1e-4)


def test_the_higher_figure_is_better_in_rows_that_say_so() -> None:
    found = verdict(row(MEASURED, side(10, 11, 10), side(20, 22.5, 20.1), "higher"))
    assert (found.better, found.words) == ("keras", "TensorFlow")


def test_an_interval_that_contains_1_is_not_significant() -> None:
    found = verdict(row(MEASURED, side(10, 14, 9), side(12, 11, 13)))
    assert found.interval is not None and found.interval[0] < 1 < found.interval[1]
    assert (found.better, found.words) == (None, UNRESOLVED)


def test_a_round_counts_with_its_median_so_an_outlier_does_not_matter() -> None:
    calm, jumpy = side((10, 10, 10), (10, 10, 10)), side((10, 10, 900), (10, 10, 800))
    assert verdict(row(MEASURED, calm, jumpy)).ratio == 1


def test_a_machine_that_slows_down_for_both_does_not_change_the_ratio() -> None:
    found = verdict(row(MEASURED, side(10, 20, 40), side(11, 22, 44)))
    assert found.ratio == pytest.approx(1.1) and found.better == "torch"


def test_one_round_has_no_interval_and_is_not_significant() -> None:
    found = verdict(row(MEASURED, side(10), side(90)))
    assert (found.ratio, found.interval, found.words) == (pytest.approx(9), None, UNRESOLVED)


def test_a_figure_of_0_has_no_ratio_and_is_not_significant() -> None:
    found = verdict(row(MEASURED, side(0, 1), side(5, 6), "higher"))
    assert (found.torch, found.ratio, found.words) == (0.5, None, UNRESOLVED)


def test_counts_are_compared_exactly() -> None:
    assert verdict(row(EXACT, side(29), side(25))).words == "TensorFlow"
    assert verdict(row(EXACT, side(29), side(29))).words == SAME
    assert verdict(row(EXACT, side(0), side(3), "higher")).better == "keras"
    assert verdict(row(EXACT, side(3), side(5), "neither")).words == "they differ"


def test_a_paired_difference_is_significant_if_its_interval_excludes_0() -> None:
    same = verdict(row(PAIRED, side(0.5), side(0.5), "lower", (0, 500)))
    assert same.words == UNRESOLVED and same.interval == pytest.approx((-0.552, 0.552), abs=1e-3)
    lost = verdict(row(PAIRED, side(0.0), side(4.0), "lower", (0, 480), (1, 20)))
    assert (lost.ratio, lost.better) == (4.0, "torch")


def test_a_figure_that_only_one_framework_has_is_reported_as_such() -> None:
    nothing = Side(reason="no GPU")
    assert verdict(row(MEASURED, side(1, 2), nothing)).words == "PyTorch only"
    assert verdict(row(MEASURED, nothing, side(1, 2))).words == "TensorFlow only"
    assert verdict(row(MEASURED, nothing, nothing)).words == "neither"
