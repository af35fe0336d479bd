"""Which groups go to float first, and the search for how many must."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose

import pytest

from pipeline import stats
from pipeline.core import LayerGroup, Noise, Sensitivity
from pipeline.results import noise, tuning
from pipeline.results.tuning import CANNOT_TELL, MET, NOT_MET, Trial

THREE = Sensitivity(
    groups=(LayerGroup("stem", 1, 100, 1000), LayerGroup("body", 4, 900, 8000), LayerGroup("head", 1, 1000, 1000)),
    noises=(Noise(("stem",), 1e-4), Noise(("body", "stem"), 6e-4), Noise(("body",), 1e-4), Noise(("head",), 2e-4)),
    power=1e-3,
    samples=64,
)


def test_the_noise_with_groups_in_float_is_the_sum_of_the_others() -> None:
    assert isclose(THREE.predicted(), 1e-3)
    assert isclose(THREE.predicted(["stem"]), 9e-4), "the tensor between stem and body stays quantized"
    assert isclose(THREE.predicted(["stem", "body"]), 2e-4)


def test_the_shares_of_the_groups_add_up_to_the_noise() -> None:
    shares = {group.name: THREE.share(group.name) for group in THREE.groups}
    assert isclose(sum(shares.values()), THREE.predicted())
    assert isclose(shares["stem"], 4e-4) and isclose(THREE.share("body", ["stem"]), 7e-4)


def test_rows_have_the_noisiest_group_first_and_its_cost_in_float() -> None:
    first, second, third = noise.groups(THREE, noise.Time("pi4", "tflite", 3.0, 1.0))
    assert [first.name, second.name, third.name] == ["body", "stem", "head"] or first.share == second.share
    head = next(row for row in (first, second, third) if row.name == "head")
    assert (head.bytes_more, head.multiply_adds) == (3000, 0.1)
    assert head.ms_more is not None and isclose(head.ms_more, 0.2)
    assert isclose(head.snr_db, 10 * 3.0969, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("minimize", "first"), [("latency", ["stem", "head", "body"]), ("size", ["stem", "body", "head"])]
)
def test_the_most_noise_for_its_cost_goes_to_float_first(minimize: str, first: list[str]) -> None:
    assert tuning.order(THREE, minimize) == first


def test_what_would_make_the_file_too_large_stays_quantized() -> None:
    assert tuning.order(THREE, "size", max_bytes_more=300) == ["stem"]
    assert tuning.order(THREE, "size", max_bytes_more=0) == []


def losing(samples: int, lost: Callable[[int], int], seen: list[int]) -> Callable[[int], Trial]:
    """An evaluation in which `lost(count)` of the samples are lost with `count` groups in float."""

    def evaluate(count: int) -> Trial:
        seen.append(count)
        before = [True] * samples
        after = [False] * lost(count) + [True] * (samples - lost(count))
        drop, interval = stats.paired_drop(before, after)
        groups = tuple(f"g{i}" for i in range(count))
        return Trial(
            groups, False, samples, lost(count), 0, drop, interval, 20.0, 10 * count, count / 20, 1.0, str(count)
        )

    return evaluate


@pytest.mark.parametrize("enough", range(20))
def test_the_search_finds_the_fewest_groups_in_at_most_six_evaluations(enough: int) -> None:
    seen: list[int] = []
    trials, chosen, outcome = tuning.search(losing(5000, lambda n: 0 if n >= enough else 100, seen), 20, 0.5)
    assert (len(trials[chosen].in_float), outcome) == (enough, MET)
    assert len(seen) == len(set(seen)) <= 6


def test_a_budget_that_no_trial_meets_gives_the_best_one() -> None:
    trials, chosen, outcome = tuning.search(losing(5000, lambda n: 200 - n, []), 8, 0.5)
    assert outcome == NOT_MET and trials[chosen].drop_points == min(trial.drop_points for trial in trials)


def test_with_too_few_samples_the_drop_itself_decides_and_nothing_is_shown() -> None:
    seen: list[int] = []
    trials, chosen, outcome = tuning.search(losing(100, lambda n: 0, seen), 8, 0.5)
    assert (seen, chosen, outcome) == ([0], 0, CANNOT_TELL)
    assert stats.samples_needed(trials[0].lost, trials[0].gained, 100, 0.5) == 791
    trials, chosen, outcome = tuning.search(losing(100, lambda n: 20 if n < 3 else 0, []), 8, 0.5)
    assert (len(trials[chosen].in_float), outcome) == (3, CANNOT_TELL)


def test_the_pareto_front_has_no_trial_that_another_beats_in_both() -> None:
    evaluate = losing(1000, lambda n: {0: 50, 1: 60, 2: 10, 3: 10}[n], [])
    assert [len(trial.in_float) for trial in tuning.pareto([evaluate(n) for n in range(4)])] == [0, 2]
