"""Splits of samples that are in memory as arrays, instead of in image files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.datasets import Split, _splits
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Arrays:
    """Samples in the order of their source.

    Attributes:
        inputs: float32 (N, …).
        labels: see `Split`.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[Any]


def whole(arrays: Arrays) -> Split:
    """All samples as one split, in pseudo-random order by content."""
    return _split(arrays, _samples(arrays))


def divided(arrays: Arrays, split: str, test_share: float) -> Split:
    """One of SPLITS of samples that the source does not divide; the shares are chosen by content, and of each class."""
    test, rest = _splits.divide(_samples(arrays), test_share, "test")
    return _split(arrays, test) if split == "test" else _of_training(arrays, rest, split)


def divided_by_group(arrays: Arrays, groups: NDArray[Any], split: str, test_share: float) -> Split:
    """One of SPLITS, so that no group (a person, a recording) is in two of them: the first of the groups in
    pseudo-random order by name, until they have the share of the samples.

    Args:
        groups: (N,) the name of each sample's group.
    """
    import numpy as np

    found, counts = np.unique(groups, return_counts=True)
    order = sorted(range(len(found)), key=lambda i: hashlib.sha256(f"group {found[i]}".encode()).digest())
    total, passed, places = int(counts.sum()), 0, {}
    for i in order:
        share = passed / total
        validation = test_share + (1 - test_share) * _splits.VALIDATION_SHARE
        places[found[i]] = "test" if share < test_share else "validation" if share < validation else "train"
        passed += int(counts[i])
    return divided_by_place(arrays, np.array([places[group] for group in groups]), split)


def divided_by_place(arrays: Arrays, places: NDArray[Any], split: str) -> Split:
    """One of SPLITS.

    Args:
        places: (N,) the split of each sample.
    """
    return _split(arrays, [sample for sample, place in zip(_samples(arrays), places, strict=True) if place == split])


def training(arrays: Arrays, split: str) -> Split:
    """The train or validation split of samples that the source uses for training."""
    return _of_training(arrays, _samples(arrays), split)


def _of_training(arrays: Arrays, samples: list[_splits.Sample], split: str) -> Split:
    validation, train = _splits.divide(samples, _splits.VALIDATION_SHARE, "validation")
    return _split(arrays, {"train": train, "validation": validation}[split])


def _samples(arrays: Arrays) -> list[_splits.Sample]:
    """Every sample, named by its index. The truth is part of the content: equal inputs may have different truths."""
    classes = arrays.labels.dtype.kind == "i"
    return [
        _splits.Sample(
            f"{i:08}", int(label) if classes else 0, hashlib.sha256(values.tobytes() + label.tobytes()).hexdigest()
        )
        for i, (values, label) in enumerate(zip(arrays.inputs, arrays.labels, strict=True))
    ]


def _split(arrays: Arrays, samples: list[_splits.Sample]) -> Split:
    import numpy as np

    ordered = _splits.ranked(samples, "order")
    chosen = np.array([int(sample.name) for sample in ordered], dtype=np.int64)
    inputs = arrays.inputs[chosen]
    return Split(
        labels=arrays.labels[chosen],
        sha256=digest([tuple(sample[1:]) for sample in ordered]),
        read=inputs.__getitem__,
        contents=tuple(sample.sha256 for sample in ordered),
    )
