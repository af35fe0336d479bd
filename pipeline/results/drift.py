"""Where a difference starts: every layer's values in the float graph, the quantized graph, the file and on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.core import SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT, GRAPH, HOST, DEVICE = "float", "graph", "host", "device"
PLACES = (FLOAT, GRAPH, HOST, DEVICE)
"""Where a layer's values are computed, in order: float graph, quantized graph, file on this machine, file on the
device."""
BELOW = 20.0
"""A layer whose signal-to-noise ratio is below this many dB is where a difference starts. int8 leaves 25 to 45 dB."""
BINS = 40
MOST_HISTOGRAMS = 4


@dataclass(frozen=True)
class Histogram:
    """A layer's values: how many there are in each of `BINS` equal bins between `low` and `high`, by place."""

    low: float
    high: float
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: its path in the model.
        operators: what it computes, in order: an activation belongs to the layer before it.
        snr_db: by place: signal-to-noise ratio to the place before it; -999 if a value is NaN or infinite in only one
            of them.
        not_finite: by place: the number of values that are NaN or infinite.
        not_mapped: by place: why the layer's values are not known there.
        histogram: of a layer worth looking at.
    """

    name: str
    operators: tuple[str, ...]
    snr_db: Mapping[str, float]
    not_finite: Mapping[str, int]
    not_mapped: Mapping[str, str]
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Start:
    """Where something starts: the layer and the place."""

    layer: str
    place: str


@dataclass(frozen=True)
class Drift:
    """Every layer of one cell.

    Attributes:
        places: the places that were compared, and for people what ran there.
        below: the threshold of `first`, in dB.
        first: the first layer whose ratio is below the threshold, and at which place; None if there is none.
        first_not_finite: the first layer with NaN or infinity; None if every value is finite.
        file: what ran on host and device: the exported file with more outputs, or one that the converter made from the
            same graph because the format has no room for more outputs in a finished file.
        file_snr_db: its output against the exported file's; None if there is no exported file.
        problems: what is missing here and why.
    """

    model: str
    framework: str
    recipe: str
    target: str
    device: str | None
    samples: int
    below: float
    places: Mapping[str, str]
    layers: tuple[Layer, ...]
    first: Start | None
    first_not_finite: Start | None
    file: str
    file_snr_db: float | None
    problems: tuple[str, ...]
    schema: int = SCHEMA


Values = Mapping[str, "NDArray[Any]"]
"""A layer's values by place, (samples, …) each."""


def layer(name: str, operators: Sequence[str], values: Values, not_mapped: Mapping[str, str]) -> Layer:
    """Compares a layer's values at each place with those of the place before."""
    import numpy as np

    known = [place for place in PLACES if place in values]
    snr, why = {}, dict(not_mapped)
    for before, place in pairwise(known):
        if values[before].size != values[place].size:
            shapes = f"{values[before].shape[1:]} in {before}, {values[place].shape[1:]} in {place}"
            why[place] = f"another number of values: {shapes}"
            continue
        snr[place] = snr_db(
            values[before].reshape(len(values[before]), -1), values[place].reshape(len(values[place]), -1)
        )
    broken = {place: int((~np.isfinite(values[place])).sum()) for place in known}
    return Layer(name, tuple(operators), snr, broken, why)


def snr_db(reference: NDArray[Any], values: NDArray[Any]) -> float:
    """The signal-to-noise ratio. Values that are NaN or infinite must be the same in both, and are left out then."""
    import numpy as np

    finite = np.isfinite(reference)
    if not np.array_equal(reference[~finite], values[~finite], equal_nan=True):
        return -stats.EQUAL_DB
    if not finite.any():
        return stats.EQUAL_DB
    one, other = (np.where(finite, each, 0) for each in (reference, values))
    return stats.parity("place before", [one], [other], [None]).snr_db


def first_below(layers: Sequence[Layer], below: float) -> Start | None:
    """The first layer, in the order of the graph, with a ratio below the threshold at any place."""
    for one in layers:
        for place in PLACES:
            if one.snr_db.get(place, below) < below:
                return Start(one.name, place)
    return None


def first_not_finite(layers: Sequence[Layer]) -> Start | None:
    """Where NaN or infinity begins: the first place that has any, and its first layer."""
    for place in PLACES:
        for one in layers:
            if one.not_finite.get(place):
                return Start(one.name, place)
    return None


def worth_looking_at(layers: Sequence[Layer], below: float) -> list[int]:
    """Indices of the layers to show as histograms: the first below the threshold, the first that is not finite and
    those that lose most against the layer before them."""
    chosen = [i for i, one in enumerate(layers) if any(one.not_finite.values())][:1]
    chosen += [i for i, one in enumerate(layers) if any(value < below for value in one.snr_db.values())][:1]
    losses = []
    for place in PLACES:
        known = [(i, one.snr_db[place]) for i, one in enumerate(layers) if place in one.snr_db]
        losses += [(after - before, i) for (_, before), (i, after) in pairwise(known)]
    chosen += [i for loss, i in sorted(losses) if loss < 0]
    return list(dict.fromkeys(chosen))[:MOST_HISTOGRAMS]


def histogram(values: Values) -> Histogram | None:
    """The values at every place in the same bins; None if none is finite."""
    import numpy as np

    finite = {place: array[np.isfinite(array)] for place, array in values.items()}
    known = [array for array in finite.values() if array.size]
    if not known:
        return None
    low, high = float(min(a.min() for a in known)), float(max(a.max() for a in known))
    counts = {
        place: np.histogram(array, BINS, (low, high if high > low else low + 1))[0] for place, array in finite.items()
    }
    return Histogram(low, high, {place: tuple(int(n) for n in each) for place, each in counts.items()})
