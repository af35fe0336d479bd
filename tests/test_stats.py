"""Statistics, checked against values worked out by hand, by numpy and scipy, or in the publication of a formula."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from pipeline import stats
from pipeline.core import Process, to_json
from pipeline.errors import ParityFailed
from tests.builds import process

# -- latency -----------------------------------------------------------------------------------------------------------


def test_latency_is_in_milliseconds_per_inference() -> None:
    found = stats.latency([process(runs=((1, 2_000_000), (1, 4_000_000)))])
    assert (found.p50, found.mean, found.n) == (3.0, 3.0, 2)


def test_a_run_is_divided_by_its_loops() -> None:
    assert stats.median_ms([[10, 5_000_000]] * 3) == 0.5


def test_the_mean_is_over_inferences_and_the_median_over_runs() -> None:
    found = stats.latency([process(runs=((1, 3_000_000), (3, 3_000_000)))])
    assert found.mean == 1.5
    assert found.p50 == 2.0


def test_percentiles_equal_numpys_over_the_runs_of_all_processes() -> None:
    random = np.random.default_rng(0)
    ns = random.integers(1_000_000, 9_000_000, 257)
    runs = [(1, int(n)) for n in ns]
    found = stats.latency([process(runs=tuple(part)) for part in (runs[:50], runs[50:180], runs[180:])])
    assert [found.p50, found.p90, found.p99] == pytest.approx(np.percentile(ns / 1e6, [50, 90, 99]))
    assert (found.n, found.single_runs, found.processes, found.clock_ns) == (257, 257, 3, None)


def test_p90_and_p99_of_short_inferences_are_of_single_runs_without_the_cost_of_the_clock() -> None:
    single = tuple(20_000 + 100 * i for i in range(101))
    one = process(runs=((50, 1_000_000),) * 3, single_runs=single, clock_ns=1_000)
    found = stats.latency([one, one])
    assert (found.p50, found.p90, found.p99) == (0.02, pytest.approx(0.028), pytest.approx(0.0289))
    assert (found.n, found.single_runs, found.clock_ns) == (6, 202, 1_000)


def test_every_percentile_of_one_run_is_that_run() -> None:
    found = stats.latency([process(runs=((1, 500_000),))])
    assert (found.p50, found.p90, found.p99, found.mean, found.n) == (0.5, 0.5, 0.5, 0.5, 1)


@pytest.mark.parametrize("runs", [[], [[0, 100]], [[1, 5], [0, 5]]])
def test_no_runs_and_no_loops_are_refused(runs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        stats.median_ms(runs)


def timed(*medians_us: float, begin: int = 0) -> list[Process]:
    """Processes of one measurement with these medians, a minute apart."""
    return [
        process(runs=((1, round(1000 * us)),), started_at=f"2026-01-01T00:{begin + place:02}:00+00:00")
        for place, us in enumerate(medians_us)
    ]


def test_the_spread_is_the_range_of_the_processes_medians() -> None:
    assert stats.latency(timed(95, 100, 105, 98, 102)).spread == pytest.approx(0.1)
    assert stats.latency(timed(100)).spread is None


def test_the_ratio_of_latencies_pairs_the_processes_of_a_round() -> None:
    drifting = (100.0, 130.0, 180.0, 140.0, 110.0)
    found = stats.latency_ratio(timed(*drifting), timed(*(1.05 * us for us in drifting)))
    assert found is not None
    ratio, (low, high) = found
    assert ratio == pytest.approx(1.05, rel=1e-4)
    assert 1.04 < low <= high < 1.06  # the drift is common to both


def test_the_interval_of_a_ratio_is_wider_at_a_higher_confidence() -> None:
    first, second = timed(100, 104, 98, 101, 99), timed(103, 102, 104, 99, 101)
    narrow, wide = (stats.latency_ratio(first, second, confidence) for confidence in (0.95, 0.99))
    assert narrow is not None and wide is not None
    assert narrow[0] == wide[0]
    assert wide[1][0] < narrow[1][0] < 1 < narrow[1][1] < wide[1][1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (timed(100), timed(200)),
        (timed(100, 100), timed(200, 200, 200)),
        (timed(100, 100, 100), timed(200, 200, 200, begin=30)),
    ],
    ids=["one process each", "another number of processes", "another bench"],
)
def test_without_processes_that_alternated_no_ratio_is_concluded(first: list[Process], second: list[Process]) -> None:
    assert stats.latency_ratio(first, second) is None


def test_equal_files_are_called_different_in_at_most_5_percent_of_comparisons() -> None:
    """The runs of a process have its own median: pooled, they would differ in most comparisons."""
    random = np.random.default_rng(1)

    def measured() -> list[Process]:
        return timed(*(10_000 * np.exp(random.normal(0, 0.05, 5))))

    intervals = [found[1] for _ in range(400) if (found := stats.latency_ratio(measured(), measured()))]
    false = sum(not low <= 1 <= high for low, high in intervals)
    assert len(intervals) == 400
    assert false <= 30  # 20 are expected; 31 or more would come in 1 of 100 seeds


# -- paired differences ------------------------------------------------------------------------------------------------


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Whether reference and compared model are right, with these counts."""
    before = [True] * (both + lost) + [False] * (gained + neither)
    after = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return before, after


def test_the_interval_equals_the_published_one() -> None:
    """Source: Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014, table V: 1 and 7 discordant of 21."""
    drop, (low, high) = stats.paired_drop(*paired(both=1, lost=1, gained=7, neither=12))
    assert drop == pytest.approx(-28.57, abs=0.005)
    assert (low, high) == pytest.approx((-50.8, -1.3), abs=0.05)


def test_the_interval_has_a_width_even_if_no_sample_differs() -> None:
    drop, interval = stats.paired_drop(*paired(both=490, lost=0, gained=0, neither=7))
    assert drop == 0
    assert interval == pytest.approx((-100 * 1.959964 * math.sqrt(2) / 499, 100 * 1.959964 * math.sqrt(2) / 499))


def test_a_drop_is_positive_and_a_gain_is_its_negative() -> None:
    before, after = paired(both=80, lost=9, gained=2, neither=9)
    drop, (low, high) = stats.paired_drop(before, after)
    gain, (gain_low, gain_high) = stats.paired_drop(after, before)
    assert drop == pytest.approx(7.0)
    assert (gain, gain_low, gain_high) == pytest.approx((-drop, -high, -low))


def test_the_interval_covers_the_truth_in_about_95_of_100_cases() -> None:
    """4,000 simulated evaluations of 300 samples with 4 % lost and 2 % gained; z is scipy's."""
    assert norm.ppf(0.975) == pytest.approx(1.959964, abs=1e-6)
    random = np.random.default_rng(0)
    hits = 0
    for lost, gained, rest in random.multinomial(300, [0.04, 0.02, 0.94], size=4000):
        p, q = (lost + 1) / 302, (gained + 1) / 302
        half = norm.ppf(0.975) * math.sqrt((p + q - (p - q) ** 2) / 302)
        hits += abs(p - q - 0.02) <= half
        if rest == 282:
            _, (low, high) = stats.paired_drop(*paired(200, lost, gained, 82))
            assert (low, high) == pytest.approx((100 * (p - q - half), 100 * (p - q + half)))
    assert 0.94 < hits / 4000 < 0.97


def test_the_interval_stays_within_100_points() -> None:
    drop, (_, high) = stats.paired_drop([True] * 3, [False] * 3)
    assert (drop, high) == (100, 100)


def test_arrays_are_accepted_like_lists() -> None:
    before, after = paired(80, 9, 2, 9)
    assert stats.paired_drop(np.array(before), np.array(after)) == stats.paired_drop(before, after)


def test_a_shift_is_the_mean_of_the_differences() -> None:
    shift, (low, high) = stats.paired_shift([(-2, 1), (0, 95), (1, 4)])
    assert shift == 2.0
    deviation = math.sqrt((1 * 4 + 4 + 2) / 102 - (2 / 102) ** 2)
    half = 100 * norm.ppf(0.975) * deviation / math.sqrt(102)
    assert (low, high) == pytest.approx((100 * 2 / 102 - half, 100 * 2 / 102 + half))


def test_a_ratio_is_the_paired_geometric_mean_with_students_interval() -> None:
    ratio, interval = stats.paired_ratio([1, 2, 4], [2, 4, 16])
    assert ratio == pytest.approx(2 ** (4 / 3))
    half = student.ppf(0.975, 2) * math.log(2) / 3  # the standard error of logarithms ln 2, ln 2 and 2 ln 2
    assert interval == pytest.approx((ratio * math.exp(-half), ratio * math.exp(half)))
    assert stats.paired_ratio([1], [3]) == (pytest.approx(3), None)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([], []), ([1.0, 0.0], [1.0, 1.0])])
def test_unpaired_or_nonpositive_ratios_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="paired ratios"):
        stats.paired_ratio(first, second)


def test_the_interval_of_a_ratio_covers_the_truth_in_about_95_of_100_cases() -> None:
    random = np.random.default_rng(0)
    logs = random.normal(0.3, 0.2, (2000, 5))
    intervals = [stats.paired_ratio([1.0] * 5, np.exp(each).tolist())[1] or (0, 0) for each in logs]
    assert 0.935 < np.mean([low < math.exp(0.3) < high for low, high in intervals]) < 0.965


@pytest.mark.parametrize(("before", "after"), [([True], [True, False]), ([], [])])
def test_unpaired_samples_are_refused(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(ValueError, match="paired samples"):
        stats.paired_drop(before, after)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-3.0, -0.1), "better"),
        ((-3.0, 0.0), "no worse"),
        ((-0.5, 0.9), "no worse"),
        ((0.1, 0.9), "no worse"),
        ((-0.5, 1.0), "cannot tell"),
        ((0.1, 1.5), "cannot tell"),
        ((1.0, 1.5), "cannot tell"),
        ((-9.0, 29.0), "cannot tell"),
        ((1.1, 1.5), "worse"),
    ],
)
def test_the_verdict_depends_on_the_whole_interval(interval: tuple[float, float], verdict: str) -> None:
    assert stats.verdict(interval, margin=1.0) == verdict


def test_twenty_samples_do_not_show_that_a_drop_is_small() -> None:
    """2 of 20 samples lost, none gained: not significant, and far from no worse."""
    _, interval = stats.paired_drop(*paired(both=16, lost=2, gained=0, neither=2))
    assert not stats.is_significant(interval)
    assert stats.verdict(interval, margin=1.0) == "cannot tell"


def verdicts(lost: float, gained: float, samples: int, margin: float, seed: int) -> dict[str, float]:
    """The share of each verdict over simulated evaluations with these rates of discordant samples."""
    draws = np.random.default_rng(seed).multinomial(samples, [lost, gained, 1 - lost - gained], 4000)
    found = []
    for one, other, _ in draws.tolist():
        _, (low, high) = stats.paired_shift([(1, one), (-1, other), (0, samples - one - other)])
        found.append(stats.verdict((low, high), margin))
    return {name: found.count(name) / len(found) for name in ("better", "no worse", "worse", "cannot tell")}


@pytest.mark.parametrize(
    ("lost", "gained", "margin", "verdict"),
    [
        (10, 10, 1.0, "no worse"),  # of 1,000 samples
        (40, 36, 1.0, "no worse"),
        (60, 30, 1.0, "worse"),
        (200, 150, 10.0, "no worse"),
    ],
)
def test_so_many_samples_give_the_verdict_in_80_percent_of_cases(
    lost: int, gained: int, margin: float, verdict: str
) -> None:
    needed = stats.samples_needed(lost, gained, 1000, margin)
    assert needed is not None and needed > 1000
    share = verdicts(lost / 1000, gained / 1000, needed, margin, seed=needed)[verdict]
    assert 0.76 < share < 0.90, (needed, share)
    half = verdicts(lost / 1000, gained / 1000, needed // 4, margin, seed=needed)[verdict]
    assert half < 0.5, half


@pytest.mark.parametrize(("lost", "gained"), [(0.03, 0.02), (0.06, 0.05), (0.2, 0.19)])
@pytest.mark.parametrize("samples", [500, 5000])
def test_a_file_at_the_margin_is_rarely_recommended(lost: float, gained: float, samples: int) -> None:
    """The test is one-sided at 2.5 %; 0.5 points more for the normal approximation and the simulation."""
    found = verdicts(lost, gained, samples, margin=1.0, seed=samples)
    assert found["no worse"] + found["better"] < 0.03 and found["worse"] < 0.035


def test_more_samples_are_needed_for_a_smaller_margin_and_for_more_discordant_samples() -> None:
    needed = [stats.samples_needed(5, 5, 100, margin) for margin in (4.0, 2.0, 1.0, 0.5)]
    assert all(n is not None for n in needed) and needed == sorted(needed, key=lambda n: n or 0)
    fewer, more = stats.samples_needed(2, 2, 100, 1.0), stats.samples_needed(20, 20, 100, 1.0)
    assert fewer is not None and more is not None and 100 < fewer < more


def test_no_number_of_samples_tells_a_drop_from_itself() -> None:
    assert stats.samples_needed(1, 0, 100, margin=1.0) is None


@pytest.mark.parametrize(
    ("interval", "significant"),
    [((-0.4, 0.4), False), ((0.0, 1.0), False), ((0.1, 0.9), True), ((-0.9, -0.1), True)],
)
def test_a_difference_is_significant_if_0_lies_outside(interval: tuple[float, float], significant: bool) -> None:
    assert stats.is_significant(interval) is significant


def test_the_drop_of_a_class_counts_only_its_samples() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2])
    before, after = np.array([0, 0, 0, 0, 2, 1]), np.array([0, 0, 1, 2, 2, 2])
    first, none, last = stats.class_drops(labels, before, after, 3)
    assert first[:2] == (4, 50.0)
    assert none == (0, None, None)
    assert last[:2] == (2, -50.0)


# -- comparing outputs -------------------------------------------------------------------------------------------------


def outputs(samples: int = 50, classes: int = 4) -> Any:
    return np.random.default_rng(0).normal(size=(samples, classes)).astype(np.float32)


def test_agreement_is_the_share_with_the_same_largest_output() -> None:
    a = np.array([[1, 2], [2, 1], [1, 2], [1, 2]], dtype=np.float32)
    b = np.array([[0, 9], [0, 9], [1, 2], [5, 6]], dtype=np.float32)
    assert stats.agreement(a, b) == 0.75


def test_nonfinite_outputs_agree_with_nothing_not_even_themselves() -> None:
    a = np.array([[np.nan, 1], [np.inf, 0], [2, 1]], dtype=np.float32)
    assert stats.agreement(a, a) == pytest.approx(1 / 3)
    assert stats.top1(a).tolist() == [-1, -1, 0]


def test_a_sample_is_equal_if_all_its_outputs_are() -> None:
    a, b = [outputs(), outputs(classes=2)], [outputs(), outputs(classes=2)]
    b[0][3, 1] += 1
    b[1][3, 0] += 1
    b[1][7, 0] = np.nextafter(b[1][7, 0], np.float32(9))
    assert stats.equal_count(a, b) == 48


def test_equality_compares_bits_and_not_values() -> None:
    assert stats.equal_count([np.array([[0.0]])], [np.array([[-0.0]])]) == 0


def test_nan_is_equal_to_nothing() -> None:
    a = np.array([[np.nan], [1.0]])
    assert stats.equal_count([a], [a]) == 1


def test_bits_of_different_types_are_not_compared() -> None:
    with pytest.raises(ParityFailed, match="float32 and float64"):
        stats.equal_count([outputs()], [outputs().astype(np.float64)])


def test_parity_of_equal_outputs() -> None:
    found = stats.parity("float model", [outputs()], [outputs()], [None])
    assert (found.snr_db, found.max_error, found.max_steps, found.top1_agreement, found.equal) == (999, 0, None, 1, 1)
    assert found.cosine == pytest.approx(1)
    assert (found.against, found.samples) == ("float model", 50)


def test_parity_by_hand() -> None:
    reference, found = np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([[3.0, 4.5], [0.0, 5.0]])
    parity = stats.parity("quantized graph", [reference], [found], [0.25])
    assert parity.snr_db == pytest.approx(10 * math.log10(50 / 0.25))
    assert parity.cosine == pytest.approx(52 / math.sqrt(50 * 54.25))
    assert (parity.max_error, parity.max_steps) == (0.5, 2.0)
    assert (parity.top1_agreement, parity.equal) == (1.0, 0.5)


def test_the_worst_output_counts() -> None:
    good, bad = outputs(), outputs() + 1
    parity = stats.parity("float model", [good, good], [good, bad], [None, 0.5])
    alone = stats.parity("float model", [good], [bad], [0.5])
    assert parity == alone


def test_small_outputs_with_large_relative_errors_do_not_pass() -> None:
    tiny = outputs() * 1e-7
    assert stats.parity("float model", [tiny], [np.roll(tiny, 1, axis=0)], [None]).snr_db < 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_outputs_give_finite_figures_of_a_failure(value: float) -> None:
    broken = outputs()
    broken[4, 2] = value
    parity = stats.parity("float model", [outputs()], [broken], [0.1])
    assert (parity.snr_db, parity.cosine, parity.top1_agreement, parity.equal) == (-999, 0, 0.98, 0.98)
    assert parity.max_error > 1e38
    assert json.loads(json.dumps(to_json(parity), allow_nan=False)) == to_json(parity)


def test_parity_with_all_zeros_on_one_side() -> None:
    nothing = np.zeros((3, 2))
    assert stats.parity("float model", [nothing], [nothing + 1], [None]).snr_db == -999
    assert stats.parity("float model", [nothing + 1], [nothing], [None]).snr_db == 0
    assert stats.parity("float model", [nothing], [nothing], [None]).cosine == 1


@pytest.mark.parametrize(
    ("reference", "found", "scales", "message"),
    [
        ([outputs()], [outputs(), outputs()], [None, None], "2 outputs; .* 1"),
        ([], [], [], "0 outputs; .* 0"),
        ([outputs()], [outputs(49)], [None], r"output 0 .*\(49, 4\); .*\(50, 4\)"),
        ([outputs()], [outputs().reshape(50, 2, 2)], [None], "shape"),
        ([outputs(), outputs(40)], [outputs(), outputs(40)], [None, None], "output 1"),
        ([outputs(0)], [outputs(0)], [None], "no samples"),
        ([outputs()], [outputs()], [], "1 outputs with 0 scales"),
    ],
)
def test_outputs_that_do_not_match_are_refused(reference: Any, found: Any, scales: Any, message: str) -> None:
    with pytest.raises(ParityFailed, match=message):
        stats.parity("float model", reference, found, scales)


# -- stratified subsets

SORTED = np.repeat(np.arange(10), 100)  # as class folders are read


@pytest.mark.parametrize("samples", [1, 10, 37, 500, 1000])
def test_every_class_keeps_its_share(samples: int) -> None:
    chosen = stats.stratified(SORTED, samples)
    assert len(np.unique(chosen)) == samples and list(chosen) == sorted(chosen)
    counts = np.bincount(SORTED[chosen], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_uneven_classes_keep_their_proportions() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    assert np.bincount(labels[stats.stratified(labels, 100)]).tolist() == [90, 9, 1]


def test_the_subset_never_changes() -> None:
    assert stats.stratified(SORTED, 5).tolist() == [298, 553, 672, 859, 993]
    assert set(stats.stratified(SORTED, 50)) < set(stats.stratified(SORTED, 60))


VECTORS = json.loads((Path(__file__).parent / "vectors" / "timing.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["percentiles"])
def test_percentiles_are_those_of_the_golden_vectors(vector: dict[str, Any]) -> None:
    assert stats.percentile(sorted(vector["values"]), vector["percent"]) == pytest.approx(vector["expected"])


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 1), (1, 5), (8, 8), (30, 12), (400, 300)])
def test_mcnemars_exact_test_equals_scipys_binomial_test(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert stats.mcnemar(lost, gained) == pytest.approx(expected)


def test_holm_adjusts_p_values_in_their_order_and_keeps_them_monotone() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_keeps_the_probability_of_any_false_alarm() -> None:
    random = np.random.default_rng(7)
    alarms = sum(min(stats.holm(random.uniform(size=12).tolist())) <= 0.05 for _ in range(2000))
    assert alarms / 2000 < 0.065
