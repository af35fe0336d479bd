"""A part of the evaluation split: of each class its share, always the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import part

SORTED = np.repeat(np.arange(10), 100)  # as class folders are read


@pytest.mark.parametrize("samples", [1, 10, 37, 500, 1000])
def test_every_class_has_its_share(samples: int) -> None:
    chosen = part.indices(SORTED, samples)
    assert len(np.unique(chosen)) == samples and list(chosen) == sorted(chosen)
    counts = np.bincount(SORTED[chosen], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_uneven_classes_keep_their_proportions() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    assert np.bincount(labels[part.indices(labels, 100)]).tolist() == [90, 9, 1]


def test_the_samples_are_the_same_for_ever() -> None:
    assert part.indices(SORTED, 5).tolist() == [298, 553, 672, 859, 993]
    assert set(part.indices(SORTED, 50)) < set(part.indices(SORTED, 60))
