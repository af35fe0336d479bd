"""Which groups of layers stay in float so that a budget is met: the order in which they are tried, and the search.

Pure functions and nouns; `pipeline.stages.tune` evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline import stats
from pipeline.core import SCHEMA, Recipe, Sensitivity
from pipeline.results import noise

MINIMIZE = ("latency", "size")
MET, NOT_MET, CANNOT_TELL = "met", "not met", "cannot tell"


@dataclass(frozen=True)
class Trial:
    """One evaluation on the tuning split.

    Attributes:
        in_float: the groups that stay in float.
        trained: whether the graph was trained on simulated quantization.
        lost, gained: samples that only the float model, or only this graph, classifies correctly; None without
            classes.
        drop_points, interval: accuracy lost against the float model; see `stats.mean_drop`.
        predicted_db: signal-to-noise ratio as the sensitivity predicts it; None for a trained graph.
        bytes_more: file size, compared with int8.
        multiply_adds: share of the multiply-adds in float.
    """

    in_float: tuple[str, ...]
    trained: bool
    samples: int
    lost: int | None
    gained: int | None
    drop_points: float
    interval: tuple[float, float]
    predicted_db: float | None
    bytes_more: int
    multiply_adds: float
    seconds: float
    key: str
    schema: int = SCHEMA


@dataclass(frozen=True)
class Test:
    """The result on the test split, which the search has not seen."""

    samples: int
    drop_points: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        max_drop: the budget, in points.
        order: the groups in the order in which they go to float.
        trials: in the order of their evaluation.
        chosen: place of the chosen trial.
        outcome: MET, NOT_MET or CANNOT_TELL.
        reason: the outcome as a sentence.
        recipe: the chosen recipe.
        file: its file; None if it is the recipe that the search began with.
        seconds: of the whole search; the trials have their own.
    """

    model: str
    framework: str
    base: str
    split: str
    max_drop: float
    minimize: str
    max_bytes_more: int | None
    order: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: int
    outcome: str
    reason: str
    recipe: Recipe
    file: str | None
    test: Test
    seconds: float
    schema: int = SCHEMA


def order(found: Sensitivity, minimize: str, max_bytes_more: int | None = None) -> list[str]:
    """The groups in the order in which they go to float: each next one has the most noise for its cost.

    Cost is time by the multiply-adds, or size by the weights.

    Args:
        minimize: one of MINIMIZE.
        max_bytes_more: the order ends before the file grows by more than this.
    """
    left = {group.name: group for group in found.groups}
    total = max(1, sum(group.multiply_adds if minimize == "latency" else group.weights for group in found.groups))
    chosen: list[str] = []
    grown = 0
    while left:
        best, value = None, 0.0
        for name, group in left.items():
            if max_bytes_more is not None and grown + noise.bytes_more(group) > max_bytes_more:
                continue
            cost = (group.multiply_adds if minimize == "latency" else group.weights) / total
            gain = found.share(name, chosen) / (cost + 1e-4)  # a group without layers is not free
            if gain > value:
                best, value = name, gain
        if best is None:
            return chosen
        chosen.append(best)
        grown += noise.bytes_more(left.pop(best))
    return chosen


def search(evaluate: Callable[[int], Trial], groups: int, max_drop: float) -> tuple[list[Trial], int, str]:
    """Finds how many groups must stay in float, by bisection: more groups in float lose no more accuracy.

    Args:
        evaluate: of a number of groups, the first of the order.
        groups: how many there are.
        max_drop: the budget, in points: the upper end of the drop's interval must be below it.

    Returns:
        The trials, the place of the best one, and MET, NOT_MET or CANNOT_TELL. If there are too few samples to show
        that any trial meets the budget, the best is the first whose drop itself does, and the outcome CANNOT_TELL. Of
        trials that do not meet it, the best has the smallest upper end.
    """
    trials = [evaluate(0)]
    met = CANNOT_TELL
    if resolvable(trials[0].samples, max_drop):
        enough, met = within, MET
    else:
        enough = _seems_within
    if enough(trials[0], max_drop):
        return trials, 0, met
    found: int | None = None
    low, high = 0, groups + 1
    while high - low > 1:
        middle = (low + high) // 2
        trials.append(evaluate(middle))
        if enough(trials[-1], max_drop):
            high, found = middle, len(trials) - 1
        else:
            low = middle
    if found is not None:
        return trials, found, met
    best = min(range(len(trials)), key=lambda place: trials[place].interval[1])
    verdict = stats.verdict(trials[best].interval, max_drop)
    return trials, best, CANNOT_TELL if verdict == stats.CANNOT_TELL else NOT_MET


def with_training(trials: Sequence[Trial], chosen: int, outcome: str, max_drop: float) -> tuple[int, str]:
    """The place and the outcome when the last trial is a trained graph, which has no group in float.

    It is chosen if it meets the budget; if nothing meets it, by the smaller upper end of the drop.
    """
    last = len(trials) - 1
    if within(trials[last], max_drop):
        return last, MET
    if outcome != MET and trials[last].interval[1] < trials[chosen].interval[1]:
        verdict = stats.verdict(trials[last].interval, max_drop)
        return last, CANNOT_TELL if verdict == stats.CANNOT_TELL else NOT_MET
    return chosen, outcome


def enough(trial: Trial, outcome: str, max_drop: float) -> bool:
    """Whether layers in float are enough: the budget is met, or there are only too few samples to show it."""
    shown = resolvable(trial.samples, max_drop)
    return outcome == MET or (not shown and _seems_within(trial, max_drop))


def within(trial: Trial, max_drop: float) -> bool:
    """Whether a trial meets the budget: the upper end of its interval is below it."""
    return trial.interval[1] < max_drop


def _seems_within(trial: Trial, max_drop: float) -> bool:
    return trial.drop_points < max_drop


def resolvable(samples: int, max_drop: float) -> bool:
    """Whether so many samples could meet the budget if no prediction changed."""
    _, (_, high) = stats.paired_shift([(0, samples)])
    return high < max_drop


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of which no other has both a smaller drop and fewer multiply-adds in float."""
    return [
        trial
        for trial in trials
        if not any(
            other.drop_points <= trial.drop_points
            and other.multiply_adds <= trial.multiply_adds
            and (other.drop_points, other.multiply_adds) != (trial.drop_points, trial.multiply_adds)
            for other in trials
        )
    ]
