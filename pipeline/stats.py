"""Summaries and intervals of raw samples.

All functions are pure. Every difference has an interval, which tells whether it is significant.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from statistics import NormalDist, median, stdev
from typing import TYPE_CHECKING, Any

from pipeline.core import Latency, Parity, Process
from pipeline.errors import ParityFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

EQUAL_DB = 999.0
"""The signal-to-noise ratio of equal outputs, because JSON has no infinity. Negated: of outputs that are not finite."""

LARGEST_ERROR = 3.4028234663852886e38
"""The largest float32: the error of outputs that are NaN or infinite, because JSON has neither."""


# -- latency -----------------------------------------------------------------------------------------------------------


def latency(processes: Sequence[Process]) -> Latency:
    """Summary of the runs of all processes, in milliseconds per inference.

    Raises:
        ValueError: a process has no runs, or a run has no loops.
    """
    medians = [median_ms(process.runs) for process in processes]
    runs = [run for process in processes for run in process.runs]
    single = single_runs_ms(processes)
    clocks = sorted(process.clock_ns for process in processes if process.single_runs)
    return Latency(
        p50=median_ms(runs),
        p90=percentile(single, 90),
        p99=percentile(single, 99),
        mean=sum(ns for _, ns in runs) / sum(loops for loops, _ in runs) / 1e6,
        n=len(runs),
        single_runs=len(single),
        processes=len(processes),
        spread=(max(medians) - min(medians)) / median(medians) if len(medians) > 1 and min(medians) > 0 else None,
        clock_ns=clocks[len(clocks) // 2] if clocks else None,
    )


def median_ms(runs: Sequence[Sequence[int]]) -> float:
    """The median of raw runs, in milliseconds per inference.

    Args:
        runs: each [loops, ns]: `loops` inferences took `ns` nanoseconds in total. A run of several loops counts as one
            value, the average of its loops.

    Raises:
        ValueError: there are no runs, or one has no loops.
    """
    if not runs or any(loops < 1 for loops, _ in runs):
        raise ValueError("latency needs at least one run, and at least one loop in each")
    return median(ns / loops / 1e6 for loops, ns in runs)


def single_runs_ms(processes: Sequence[Process]) -> list[float]:
    """Milliseconds of inferences that were timed one by one, ascending, without the cost of reading the clock.

    Where a process timed single runs apart, the others are averages of loops and do not count.
    """
    return sorted(
        ns / 1e6
        for process in processes
        for ns in (
            [max(0, ns - process.clock_ns) for ns in process.single_runs]
            if process.single_runs
            else [ns / loops for loops, ns in process.runs]
        )
    )


def latency_ratio(
    first: Sequence[Process], second: Sequence[Process], confidence: float = 0.95
) -> tuple[float, tuple[float, float]] | None:
    """How many times as long an inference of the second measurement takes, with the interval of that ratio.

    A sample is the median of a process. The processes of a bench alternate, so the pairs of a round had the same
    conditions, and what changes from process to process (addresses, pages, the scheduler) is within the interval. The
    runs of one process are not independent samples: a test of pooled runs finds differences between equal files.

    Returns:
        The geometric mean over the rounds, and its interval; None if nothing can be concluded: fewer than two
        processes, another number of them, or measurements that did not alternate.
    """
    apart = max(first[0].started_at, second[0].started_at) > min(first[-1].started_at, second[-1].started_at)
    if len(first) != len(second) or len(first) < 2 or apart:
        return None
    medians = [[median_ms(process.runs) for process in processes] for processes in (first, second)]
    if min(map(min, medians)) <= 0:
        return None
    ratio, interval = paired_ratio(medians[0], medians[1], confidence)
    return None if interval is None else (ratio, interval)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Percentile of ascending values, interpolated linearly between the two nearest.

    Source: Hyndman and Fan, "Sample quantiles in statistical packages", 1996, definition 7 (numpy's default).
    """
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


# -- accuracy ----------------------------------------------------------------------------------------------------------


def paired_drop(
    reference_correct: Sequence[bool] | Array, correct: Sequence[bool] | Array
) -> tuple[float, tuple[float, float]]:
    """Accuracy lost against the reference on the same samples, with its 95 % interval.

    Args:
        reference_correct: for each sample, whether the reference is right.
        correct: the same for the compared model, in the same order.

    Returns:
        The drop in percentage points (positive is a loss, negative a gain) and its interval (low, high). The
        interval's centre is slightly closer to 0 than the drop. The interval has a width even if no sample differs:
        n equal samples do not prove that the models never differ.

    Raises:
        ValueError: the lengths differ, or there are no samples.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data", Journal of Educational and Behavioral Statistics 37(4), 2012: one is added to each of the two
        discordant counts, and two to n.
    """
    lost, gained = discordant(reference_correct, correct)
    drop, (low, high) = paired_shift([(1, lost), (-1, gained), (0, len(correct) - lost - gained)])
    return drop, (max(-100.0, low), min(100.0, high))


def discordant(reference_correct: Sequence[bool] | Array, correct: Sequence[bool] | Array) -> tuple[int, int]:
    """How many samples only the reference, and how many only the compared model classifies correctly.

    Raises:
        ValueError: the lengths differ, or there are no samples.
    """
    if len(reference_correct) != len(correct) or not len(correct):
        raise ValueError(f"paired samples: {len(reference_correct)} and {len(correct)}")
    pairs = list(zip(reference_correct, correct, strict=True))
    lost = sum(1 for before, after in pairs if before and not after)
    return lost, sum(1 for before, after in pairs if after and not before)


def paired_shift(differences: Sequence[tuple[int, int]]) -> tuple[float, tuple[float, float]]:
    """Mean difference of paired samples in points, with its 95 % interval.

    Args:
        differences: pairs (difference of one sample, a whole number; number of samples with it).

    Returns:
        As `paired_drop`, which is this function for differences of -1, 0 and 1.

    Raises:
        ValueError: there are no samples.

    Source: as `paired_drop`. One sample is added on each side of 0, so that n samples without a difference still give
        an interval with a width; the interval is Wald's for a mean.
    """
    n = sum(count for _, count in differences)
    if not n:
        raise ValueError("paired samples: none")
    total = sum(value * count for value, count in differences)
    squares = sum(value**2 * count for value, count in differences) + 2
    centre = total / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((squares / (n + 2) - centre**2) / (n + 2))
    return 100 * total / n, (100 * (centre - half), 100 * (centre + half))


def mean_drop(
    reference_scores: Sequence[float] | Array, scores: Sequence[float] | Array
) -> tuple[float, tuple[float, float]]:
    """How much lower the mean of a score is than a reference's, with its 95 % interval, paired sample by sample.

    Scores of 0 and 1 only are compared as `paired_drop` does.

    Args:
        reference_scores, scores: a score for each sample, in the same order.

    Returns:
        The drop in points, hundredths of the score, and its interval by Student's t. Where all samples have the same
        difference, the interval has no width.

    Raises:
        ValueError: the lengths differ, or there are no samples.
    """
    import numpy as np

    before, after = (np.asarray(each, np.float64) for each in (reference_scores, scores))
    if before.shape != after.shape or not len(after):
        raise ValueError(f"paired samples: {len(before)} and {len(after)}")
    if np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        return paired_drop(before > 0, after > 0)
    differences = 100 * (before - after)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, (-math.inf, math.inf)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences)))
    return mean, (mean - half, mean + half)


BETTER, NO_WORSE, WORSE, CANNOT_TELL = "better", "no worse", "worse", "cannot tell"
"""Verdicts on an accuracy drop; see `verdict`."""

POWER = 0.8
"""The probability with which `samples_needed` samples give a verdict."""

MOST_SAMPLES = 10**9
"""`samples_needed` returns no larger number."""


def jackknife(value: float, without: Array) -> NDArray[np.float64]:
    """A score for each sample whose mean is a figure over all samples: how much the figure owes to the sample.

    The standard error of the mean of these scores, or of their differences between two models, is the jackknife's
    estimate for the figure. Source: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3.

    Args:
        value: the figure.
        without: (N,) the figure without each sample.
    """
    import numpy as np

    values = np.asarray(without, np.float64)
    return np.asarray(value + (len(values) - 1) * (values.mean() - values))


def verdict(interval: tuple[float, float], margin: float) -> str:
    """What the 95 % interval of an accuracy drop shows, for a margin in points.

    Returns:
        BETTER: the interval lies below 0. NO_WORSE: it ends below the margin. WORSE: it begins above the margin.
        CANNOT_TELL: it contains the margin.

    The test of NO_WORSE uses the upper end of the two-sided 95 % interval, so it is one-sided at 2.5 %: a file whose
    drop equals the margin passes in 1 of 40 cases.

    Sources: ICH E9, "Statistical principles for clinical trials", 1998, section 3.3.2, for that level; Piaggio et al.,
        "Reporting of noninferiority and equivalence randomized trials", JAMA 308(24), 2012, figure 1, for the verdicts.
    """
    low, high = interval
    if high < 0:
        return BETTER
    if high < margin:
        return NO_WORSE
    return WORSE if low > margin else CANNOT_TELL


def samples_needed(lost: int, gained: int, samples: int, margin: float) -> int | None:
    """How many samples give a verdict other than CANNOT_TELL in 80 % of cases, if the rates of discordant samples are
    those seen: the smallest n with (1.96 + 0.84) standard errors < the distance between drop and margin.

    Args:
        lost, gained: discordant samples; see `discordant`.
        samples: of how many.
        margin: in points.

    Returns:
        None if the drop equals the margin, or for more than 10^9 samples.

    Source: Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43,
        1987, and with a margin: Liu, Hsueh, Hsieh and Chen, "Tests for equivalence or non-inferiority for paired binary
        data", Statistics in Medicine 21, 2002; with the standard error of `paired_shift`.
    """
    discordance, drop = (lost + gained) / samples, (lost - gained) / samples
    errors = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(POWER)

    def is_enough(n: int) -> bool:
        centre = n * drop / (n + 2)
        variance = (n * discordance + 2) / (n + 2) - centre**2
        return errors * math.sqrt(variance / (n + 2)) < abs(margin / 100 - centre)

    found = bisect.bisect_left(range(samples, MOST_SAMPLES), True, key=is_enough) + samples
    return found if found < MOST_SAMPLES else None


def samples_needed_of_mean(drop: float, interval: tuple[float, float], samples: int, margin: float) -> int | None:
    """As `samples_needed`, for a drop of `mean_drop`: the standard error falls with the root of the samples.

    Args:
        drop, interval: in points, over `samples` samples.
    """
    distance = abs(margin - drop)
    error = (interval[1] - interval[0]) / 2 / NormalDist().inv_cdf(0.975)
    power = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(POWER)
    if not distance or not math.isfinite(error):
        return None
    found = math.ceil(samples * (power * error / distance) ** 2)
    return max(found, samples) if found < MOST_SAMPLES else None


def paired_ratio(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of second / first over pairs, with its interval.

    Args:
        first, second: positive figures of the same rounds, in the same order.

    Returns:
        The ratio, and its interval by Student's t on the logarithms; None for fewer than two pairs.

    Raises:
        ValueError: the lengths differ, there are no pairs, or a figure is not positive.

    Source: Fleming and Wallace, "How not to lie with statistics", CACM 29(3), 1986, for the geometric mean of ratios.
    """
    if len(first) != len(second) or not first or min(*first, *second) <= 0:
        raise ValueError(f"paired ratios: {len(first)} and {len(second)} figures; all must be above 0")
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), None
    from scipy.stats import t

    error = stdev(logs) / math.sqrt(len(logs))
    half = float(t.ppf((1 + confidence) / 2, len(logs) - 1)) * error
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p-value of equal accuracy, from the samples that only one of two models classifies correctly.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 12, 1947; the exact test is the binomial test of the smaller count in all of them at 1/2.
    """
    n = lost + gained
    return min(1.0, float(2 * sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n))


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the same order: with these below alpha rejected, the probability of any
    false rejection is at most alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def is_significant(interval: tuple[float, float]) -> bool:
    """Whether a difference with this interval is significant: the interval excludes 0."""
    low, high = interval
    return low > 0 or high < 0


def class_drops(
    labels: Array, reference_top1: Array, top1: Array, classes: int
) -> list[tuple[int, float | None, tuple[float, float] | None]]:
    """`paired_drop` for the samples of each class.

    Args:
        labels, reference_top1, top1: (N,) class indices: the truth, and the predictions of the reference and of the
            compared model.

    Returns:
        For each class its number of samples, the drop in points and the interval; None for a class without samples.
    """
    found: list[tuple[int, float | None, tuple[float, float] | None]] = []
    for label in range(classes):
        mine = labels == label
        count = int(mine.sum())
        if not count:
            found.append((0, None, None))
            continue
        drop, interval = paired_drop(reference_top1[mine] == label, top1[mine] == label)
        found.append((count, drop, interval))
    return found


# -- comparing outputs -------------------------------------------------------------------------------------------------


def top1(outputs: Array) -> NDArray[np.int64]:
    """Index of each sample's largest output; -1, which is no class, if any of its outputs is NaN or infinite.

    Args:
        outputs: (N, …), any dtype; all axes after the first count as one.
    """
    import numpy as np

    rows = _rows(outputs)
    best: NDArray[np.int64] = np.argmax(rows, axis=1).astype(np.int64)
    best[~np.isfinite(rows).all(axis=1)] = -1
    return best


def agreement(a: Array, b: Array) -> float:
    """Share of samples with the same top-1. Outputs that are not finite agree with nothing.

    Raises:
        ParityFailed: the shapes differ, or there are no samples.
    """
    _check([a], [b])
    return float((_same_top1(a, b)).mean())


def equal_count(a: Sequence[Array], b: Sequence[Array]) -> int:
    """Number of samples whose outputs are all bit-equal. Outputs that are not finite are equal to nothing.

    Args:
        a, b: one array per output, first axis the samples.

    Raises:
        ParityFailed: number, shape or dtype of the outputs differ, or there are no samples.
    """
    _check(a, b)
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.dtype != other.dtype:
            raise ParityFailed(f"output {place}: the bits of {one.dtype} and {other.dtype} cannot be compared")
    return int(_equal(a, b).sum())


def parity(
    against: str, reference: Sequence[Array], outputs: Sequence[Array], scales: Sequence[float | None],
    classes: bool = True,
) -> Parity:  # fmt: skip
    """How far outputs are from those of a reference, over all samples and all outputs.

    Args:
        against: the name of the reference: "float model" or "quantized graph".
        reference, outputs: one array per output, first axis the samples, real values (quantized outputs as
            (stored - zero_point) * scale).
        scales: each output's quantization step; None for a float output.
        classes: whether an output has one value for each class, so that the largest is a prediction.

    Returns:
        The figures of the worst output. NaN or infinite values give -999 dB, cosine 0, the largest float32 as the
        error, and no agreement for their samples.

    Raises:
        ParityFailed: number or shape of the outputs differ, or there are no samples.
    """
    _check(reference, outputs)
    if len(scales) != len(outputs):
        raise ParityFailed(f"{len(outputs)} outputs with {len(scales)} scales")
    worst = [_distance(a, b) for a, b in zip(reference, outputs, strict=True)]
    steps = [min(error / scale, LARGEST_ERROR) for (_, _, error), scale in zip(worst, scales, strict=True) if scale]
    agree = _all([_same_top1(a, b) for a, b in zip(reference, outputs, strict=True)]) if classes else None
    return Parity(
        against=against,
        samples=len(outputs[0]),
        snr_db=min(snr for snr, _, _ in worst),
        cosine=min(cosine for _, cosine, _ in worst),
        max_error=max(error for _, _, error in worst),
        max_steps=max(steps, default=None),
        top1_agreement=None if agree is None else float(agree.mean()),
        equal=float(_equal(reference, outputs).mean()),
    )


def _distance(reference: Array, output: Array) -> tuple[float, float, float]:
    """Signal-to-noise ratio in dB, cosine and largest absolute difference of one output."""
    import numpy as np

    a, b = reference.astype(np.float64).ravel(), output.astype(np.float64).ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return -EQUAL_DB, 0.0, LARGEST_ERROR
    signal, noise = float(a @ a), float((a - b) @ (a - b))
    return decibels(signal, noise), _cosine(signal, float(b @ b), float(a @ b)), float(np.abs(a - b).max(initial=0.0))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), of powers; at most EQUAL_DB, for outputs that are equal."""
    if noise == 0:
        return EQUAL_DB
    if signal == 0:
        return -EQUAL_DB
    return max(-EQUAL_DB, min(EQUAL_DB, 10 * math.log10(signal / noise)))


def _cosine(aa: float, bb: float, ab: float) -> float:
    if aa == 0 or bb == 0:
        return 1.0 if aa == bb else 0.0
    return max(-1.0, min(1.0, ab / math.sqrt(aa) / math.sqrt(bb)))


def _same_top1(a: Array, b: Array) -> NDArray[np.bool_]:
    import numpy as np

    one, other = top1(a), top1(b)
    return np.asarray((one == other) & (one >= 0))


def _equal(a: Sequence[Array], b: Sequence[Array]) -> NDArray[np.bool_]:
    """For each sample, whether all outputs have the same bits and are finite."""
    import numpy as np

    return _all(
        [
            (_bits(one) == _bits(other.astype(one.dtype))).all(axis=1) & np.isfinite(_rows(one)).all(axis=1)
            for one, other in zip(a, b, strict=True)
        ]
    )


def _bits(outputs: Array) -> Array:
    import numpy as np

    return np.ascontiguousarray(_rows(outputs)).view(np.uint8)


def _rows(outputs: Array) -> Array:
    return outputs.reshape(len(outputs), -1)


def _all(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    import numpy as np

    return np.asarray(np.logical_and.reduce(masks))


def _check(a: Sequence[Array], b: Sequence[Array]) -> None:
    if len(a) != len(b) or not len(a):
        raise ParityFailed(f"{len(b)} outputs; the reference has {len(a)}")
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.shape != other.shape:
            raise ParityFailed(f"output {place} has shape {other.shape}; the reference has {one.shape}")
        if not one.ndim or len(one) != len(a[0]) or not one.size:
            raise ParityFailed(f"output {place} has shape {one.shape}: there are no samples to compare")


# -- subsets of a split ------------------------------------------------------------------------------------------------

SUBSET_SEED = 0


def stratified(labels: NDArray[Any], samples: int) -> NDArray[Any]:
    """Indices of a stratified subset, the same in every call. Each class keeps its share; numbers and masks are one.

    A larger subset contains every smaller one.

    Args:
        labels: (N, …) labels of the entire split.
        samples: from 1 to N.

    Returns:
        int64 (samples,), ascending.
    """
    import numpy as np

    # The numbers of RandomState never change; those of newer generators may. Source: NEP 19.
    order = np.random.RandomState(SUBSET_SEED).permutation(len(labels))
    place = np.empty(len(labels))
    classes = labels if labels.dtype.kind in "iu" and labels.ndim == 1 else np.zeros(len(labels), np.int64)
    for label in np.unique(classes):
        own = order[classes[order] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(place[order], kind="stable")[:samples]])
