"""The embedded digits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, digits
from pipeline.errors import BadData
from tests.datasets import synthetic


def test_the_splits_contain_all_1797_images_once() -> None:
    splits = [digits.load(None, split, synthetic.GREY) for split in SPLITS]
    assert [len(split) for split in splits] == [1164, 129, 504]
    assert len({content for split in splits for content in synthetic.contents(split)}) == 1797


def test_the_values_0_to_16_are_scaled_to_0_to_255() -> None:
    everything = {c for split in SPLITS for c in synthetic.contents(digits.load(None, split, synthetic.GREY))}
    for image in load_digits().images[:50]:
        expected = np.array([[round(value * 255 / 16) for value in row] for row in image], dtype=np.uint8)
        assert expected.tobytes() in everything


def test_labels_match_their_images() -> None:
    truth = {
        np.round(image * 255 / 16).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    split = digits.load(None, "validation", synthetic.GREY)
    assert [truth[content] for content in synthetic.contents(split)] == split.labels.tolist()


def test_every_split_has_the_class_distribution_of_the_source() -> None:
    assert digits.classes(None) == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    for split, low, high in (("train", 113, 119), ("validation", 12, 14), ("test", 49, 51)):
        counts = Counter(digits.load(None, split, synthetic.GREY).labels.tolist())
        assert low <= min(counts.values()) and max(counts.values()) <= high


def test_the_order_is_the_same_on_every_machine() -> None:
    assert digits.load(None, "train", synthetic.GREY).labels[:12].tolist() == [4, 8, 7, 8, 2, 2, 8, 8, 8, 1, 1, 2]
    assert digits.load(None, "test", synthetic.GREY).labels[:12].tolist() == [9, 6, 9, 3, 4, 0, 3, 2, 0, 2, 2, 2]


def test_images_are_resized_and_converted_to_rgb() -> None:
    grey = digits.load(None, "test", synthetic.GREY).read(0)
    color = digits.load(None, "test", Preprocessing("RGB", 16, 16, (0.0,), (1.0,))).read(0)
    assert np.array_equal(color[..., 0], color[..., 2]) and color.shape == (16, 16, 3)
    halved = color[..., 0].reshape(8, 2, 8, 2).mean(axis=(1, 3))
    assert np.corrcoef(halved.ravel(), grey.ravel())[0, 1] > 0.95


def test_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="embedded"):
        digits.load(tmp_path, "test", synthetic.GREY)
