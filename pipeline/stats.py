"""Raw samples → summaries and intervals.

Everything here is a function of its arguments: nothing is read, nothing is kept. An interval goes with every
difference, because a difference smaller than the samples can resolve is not one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, stdev
from typing import TYPE_CHECKING, Any

from pipeline.core import Latency, Parity
from pipeline.errors import ParityFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

EQUAL_DB = 999.0
"""The signal-to-noise ratio written where there is no noise; infinity is not JSON. Its negative: outputs not finite."""

LARGEST_ERROR = 3.4028234663852886e38
"""float32's largest, written as the error of outputs that are NaN or infinite, which JSON cannot say."""


# -- latency -----------------------------------------------------------------------------------------------------------


def latency(runs: Sequence[Sequence[int]]) -> Latency:
    """Summary of raw runs, in milliseconds an inference.

    Args:
        runs: each [loops, ns]: `loops` inferences took `ns` nanoseconds in all.

    Returns:
        Percentiles of ns / loops over the runs, the mean over all inferences, and n, the number of runs. A run of
        many loops is one value, the average of its loops.

    Raises:
        ValueError: there are no runs, or one has no loops.
    """
    if not runs or any(loops < 1 for loops, _ in runs):
        raise ValueError("latency needs at least one run, and at least one loop in each")
    each = sorted(ns / loops / 1e6 for loops, ns in runs)
    mean = sum(ns for _, ns in runs) / sum(loops for loops, _ in runs) / 1e6
    return Latency(percentile(each, 50), percentile(each, 90), percentile(each, 99), mean, len(each))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Percentile of ascending values by linear interpolation between the two nearest.

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
        correct: the same of what is compared with it, in the same order.

    Returns:
        Drop in percentage points (positive is lost, negative gained) and the interval (low, high) around it. The
        interval's centre is drawn towards 0 a little, and it has a width even where no sample differs: n samples
        without a flip do not show that there is none.

    Raises:
        ValueError: the lengths differ, or there are no samples.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
        paired data", Journal of Educational and Behavioral Statistics 37(4), 2012: one is added to each of the two
        discordant counts, and two to n.
    """
    if len(reference_correct) != len(correct) or not len(correct):
        raise ValueError(f"paired samples: {len(reference_correct)} beside {len(correct)}")
    pairs = list(zip(reference_correct, correct, strict=True))
    lost = sum(1 for before, after in pairs if before and not after)
    gained = sum(1 for before, after in pairs if after and not before)
    drop, (low, high) = paired_shift([(1, lost), (-1, gained), (0, len(pairs) - lost - gained)])
    return drop, (max(-100.0, low), min(100.0, high))


def paired_shift(differences: Sequence[tuple[int, int]]) -> tuple[float, tuple[float, float]]:
    """Mean difference of paired samples in points, with its 95 % interval.

    Args:
        differences: (difference of one sample, a whole number; how many samples have it).

    Returns:
        As `paired_drop`, which this is for differences of -1, 0 and 1.

    Raises:
        ValueError: there are no samples.

    Source: as `paired_drop`: one sample is added on each side of 0, so that n samples without a difference do not show
        that there is none; the interval is Wald's for a mean.
    """
    n = sum(count for _, count in differences)
    if not n:
        raise ValueError("paired samples: there are none")
    total = sum(value * count for value, count in differences)
    squares = sum(value**2 * count for value, count in differences) + 2
    centre = total / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((squares / (n + 2) - centre**2) / (n + 2))
    return 100 * total / n, (100 * (centre - half), 100 * (centre + half))


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of second / first over pairs, with its 95 % interval.

    Args:
        first, second: positive figures of the same rounds, in the same order.

    Returns:
        The ratio, and the interval by Student's t on the logarithms; None with fewer than two pairs.

    Raises:
        ValueError: the lengths differ, there are none, or one is not positive.

    Source: Fleming and Wallace, "How not to lie with statistics", CACM 29(3), 1986, for the geometric mean of ratios.
    """
    if len(first) != len(second) or not first or min(*first, *second) <= 0:
        raise ValueError(f"paired ratios: {len(first)} beside {len(second)}, all to be more than 0")
    logs = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    mean = sum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), None
    from scipy.stats import t

    error = stdev(logs) / math.sqrt(len(logs))
    half = float(t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))


def is_resolved(interval: tuple[float, float]) -> bool:
    """Whether a difference with this interval is told apart from none: 0 lies outside."""
    low, high = interval
    return low > 0 or high < 0


def class_drops(
    labels: Array, reference_top1: Array, top1: Array, classes: int
) -> list[tuple[int, float | None, tuple[float, float] | None]]:
    """`paired_drop` for the samples of each class.

    Args:
        labels, reference_top1, top1: (N,) class indices: the truth, the reference's and the compared answers.

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


# -- outputs beside outputs --------------------------------------------------------------------------------------------


def top1(outputs: Array) -> NDArray[np.int64]:
    """Index of each sample's largest output; -1, which is no class, where one of them is NaN or infinite.

    Args:
        outputs: (N, …), any dtype; what follows the first axis counts as one row.
    """
    import numpy as np

    rows = _rows(outputs)
    best: NDArray[np.int64] = np.argmax(rows, axis=1).astype(np.int64)
    best[~np.isfinite(rows).all(axis=1)] = -1
    return best


def agreement(a: Array, b: Array) -> float:
    """Share of samples for which both have the same largest output; outputs that are not finite agree with nothing.

    Raises:
        ParityFailed: the shapes differ, or there are no samples.
    """
    _check([a], [b])
    return float((_same_top1(a, b)).mean())


def equal_count(a: Sequence[Array], b: Sequence[Array]) -> int:
    """Number of samples whose outputs, all of them, are equal bit for bit; those not finite are equal to nothing.

    Args:
        a, b: one array per output, first axis the samples.

    Raises:
        ParityFailed: number, shape or dtype of the outputs differ, or there are no samples.
    """
    _check(a, b)
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.dtype != other.dtype:
            raise ParityFailed(f"output {place} is {one.dtype} beside {other.dtype}: there are no bits to compare")
    return int(_equal(a, b).sum())


def parity(
    against: str, reference: Sequence[Array], outputs: Sequence[Array], scales: Sequence[float | None]
) -> Parity:
    """How far outputs are from those of the graph they were made from, over all samples and all outputs.

    Args:
        against: what the reference is: "float model" or "quantized graph".
        reference, outputs: one array per output, first axis the samples, real values (quantized outputs as
            (stored - zero_point) * scale).
        scales: each output's quantization step; None for a float output.

    Returns:
        The worst output's figures. NaN or infinite values give the figures of a failure: -999 dB, cosine 0,
        the largest error a float32 can say, and no agreement for their samples.

    Raises:
        ParityFailed: number or shape of the outputs differ, or there are no samples.
    """
    _check(reference, outputs)
    if len(scales) != len(outputs):
        raise ParityFailed(f"{len(outputs)} outputs with {len(scales)} scales")
    worst = [_distance(a, b) for a, b in zip(reference, outputs, strict=True)]
    steps = [min(error / scale, LARGEST_ERROR) for (_, _, error), scale in zip(worst, scales, strict=True) if scale]
    agree = _all([_same_top1(a, b) for a, b in zip(reference, outputs, strict=True)])
    return Parity(
        against=against,
        samples=len(outputs[0]),
        snr_db=min(snr for snr, _, _ in worst),
        cosine=min(cosine for _, cosine, _ in worst),
        max_error=max(error for _, _, error in worst),
        max_steps=max(steps, default=None),
        top1_agreement=float(agree.mean()),
        equal=float(_equal(reference, outputs).mean()),
    )


def _distance(reference: Array, output: Array) -> tuple[float, float, float]:
    """Signal-to-noise ratio in dB, cosine and largest absolute difference of one output."""
    import numpy as np

    a, b = reference.astype(np.float64).ravel(), output.astype(np.float64).ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return -EQUAL_DB, 0.0, LARGEST_ERROR
    signal, noise = float(a @ a), float((a - b) @ (a - b))
    return _decibels(signal, noise), _cosine(signal, float(b @ b), float(a @ b)), float(np.abs(a - b).max(initial=0.0))


def _decibels(signal: float, noise: float) -> float:
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
    """For each sample whether all outputs have the same bits and are finite."""
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
        raise ParityFailed(f"{len(b)} outputs beside {len(a)} of the reference")
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        if one.shape != other.shape:
            raise ParityFailed(f"output {place} has shape {other.shape}, the reference's is {one.shape}")
        if not one.ndim or len(one) != len(a[0]) or not one.size:
            raise ParityFailed(f"output {place} has shape {one.shape}: there are no samples to compare")


# -- subsets of a split ------------------------------------------------------------------------------------------------

SUBSET_SEED = 0


def stratified(labels: NDArray[Any], samples: int) -> NDArray[Any]:
    """Indices of a stratified subset: each class keeps its share, and every call gives the same samples.

    A larger subset contains every smaller one.

    Args:
        labels: (N,) labels of the whole split.
        samples: from 1 to N.

    Returns:
        int64 (samples,), ascending.
    """
    import numpy as np

    # RandomState's numbers are frozen for ever, those of newer generators are not. Source: NEP 19.
    order = np.random.RandomState(SUBSET_SEED).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(place[order], kind="stable")[:samples]])
