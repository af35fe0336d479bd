"""The assignment of samples to splits, and their order."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Preprocessing
from pipeline.datasets import _images
from pipeline.datasets._splits import Sample, divide, make
from tests.datasets.synthetic import RGB


def samples(counts: dict[int, int]) -> list[Sample]:
    return [
        Sample(f"{label}/{i}", label, hashlib.sha256(f"{label} {i}".encode()).hexdigest())
        for label, count in counts.items()
        for i in range(count)
    ]


def nothing(sample: Sample, preprocessing: Preprocessing) -> np.ndarray:
    return np.zeros((1, 1, 1), np.uint8)


@pytest.mark.parametrize(("share", "expected"), [(0.1, {0: 10, 1: 3, 2: 1}), (0.5, {0: 50, 1: 15, 2: 1})])
def test_every_class_is_divided_by_the_share(share: float, expected: dict[int, int]) -> None:
    everything = samples({0: 100, 1: 30, 2: 2})
    chosen, rest = divide(everything, share, "validation")
    assert Counter(sample.label for sample in chosen) == expected
    assert sorted(chosen + rest) == sorted(everything)


def test_neither_order_nor_names_of_files_matter() -> None:
    everything = samples({0: 50, 1: 50})
    renamed = [sample._replace(name=f"other {i}") for i, sample in enumerate(reversed(everything))]
    one, two = divide(everything, 0.2, "test")[0], divide(renamed, 0.2, "test")[0]
    assert [s.sha256 for s in one] == [s.sha256 for s in two]
    assert make(everything, nothing, RGB).sha256 == make(everything[::-1], nothing, RGB).sha256


def test_divisions_with_different_salts_are_independent() -> None:
    everything = samples({0: 1000})
    chosen = {salt: set(divide(everything, 0.5, salt)[0]) for salt in ("test", "validation")}
    assert 200 < len(chosen["test"] & chosen["validation"]) < 300


@pytest.mark.parametrize("first", [100, 500])
def test_the_first_samples_represent_the_whole(first: int) -> None:
    _, rest = divide(samples(dict.fromkeys(range(10), 200)), 0.1, "validation")
    counts = np.bincount(make(rest, nothing, RGB).labels[:first], minlength=10)
    assert counts.min() > 0 and abs(counts - first / 10).max() < 4 * (first / 10) ** 0.5


def test_the_hash_covers_names_labels_contents_and_preprocessing() -> None:
    one = samples({0: 3, 1: 3})
    first, others = one[0], one[1:]
    changed = [first._replace(name="new"), first._replace(label=1), first._replace(sha256="0" * 64)]
    hashes = {make([sample, *others], nothing, RGB).sha256 for sample in [first, *changed]}
    hashes.add(make(one, nothing, Preprocessing("RGB", 32, 32, (1.0,) * 3, (255.0,) * 3)).sha256)
    hashes.add(make(others, nothing, RGB).sha256)
    assert len(hashes) == 6


def test_the_hash_covers_the_code_that_decodes_and_pillows_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(samples({0: 3}), nothing, RGB).sha256
    assert make(samples({0: 3}), nothing, RGB).sha256 == before
    versions = registry.versions
    monkeypatch.setattr(registry, "versions", lambda names: {**versions(names), "pillow": "99.0"})
    _images.identity.cache_clear()
    other = make(samples({0: 3}), nothing, RGB).sha256
    monkeypatch.undo()
    monkeypatch.setattr(registry, "code_hash", lambda *modules: "other code")
    _images.identity.cache_clear()
    assert len({before, other, make(samples({0: 3}), nothing, RGB).sha256}) == 3
    _images.identity.cache_clear()
