"""Assigns samples to splits and orders them by content hash, so that the order of files does not matter."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, Split, _images
from pipeline.errors import BadOption
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VALIDATION_SHARE = 0.1
"""Share of the training data used for validation if the source has no validation split."""

TEST_SHARE = 0.28
"""Share of the data used for the test split if the source has no splits and is small."""


class Sample(NamedTuple):
    """One sample.

    Attributes:
        name: its path in the dataset, the same in every format of the dataset.
        sha256: hash of its content.
    """

    name: str
    label: int
    sha256: str


ReadImage = Callable[[Sample, Preprocessing], "NDArray[np.uint8]"]
"""Returns a sample's input: uint8 (height, width, channels), 0–255."""


@dataclass(frozen=True)
class _Reader:
    """Implements Split.read; a class instead of a closure, so that worker processes can receive it."""

    samples: Sequence[Sample]
    read_image: ReadImage
    preprocessing: Preprocessing

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self.read_image(self.samples[index], self.preprocessing)


def check_split(split: str) -> None:
    """Checks the name of a split.

    Raises:
        BadOption: it is not in SPLITS.
    """
    if split not in SPLITS:
        raise BadOption(f"split {split!r} is not one of {', '.join(SPLITS)}")


def divide(samples: Iterable[Sample], share: float, salt: str) -> tuple[list[Sample], list[Sample]]:
    """Divides samples into a share of every class, chosen by content, and the rest.

    Args:
        share: 0–1; rounded to at least one sample per class.
        salt: makes divisions independent of each other.
    """
    groups: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.label].append(sample)
    chosen: list[Sample] = []
    rest: list[Sample] = []
    for _, group in sorted(groups.items()):
        in_order = ranked(group, salt)
        count = max(1, round(share * len(in_order)))
        chosen += in_order[:count]
        rest += in_order[count:]
    return chosen, rest


def make(samples: Iterable[Sample], read_image: ReadImage, preprocessing: Preprocessing) -> Split:
    """A split of these samples in pseudo-random order by content, so that the first N represent the whole."""
    import numpy as np

    ordered = tuple(ranked(samples, "order"))
    content = {
        "samples": [tuple(sample) for sample in ordered], "preprocessing": preprocessing, "decoder": _images.identity()
    }  # fmt: skip
    return Split(
        labels=np.array([sample.label for sample in ordered], dtype=np.int64),
        sha256=digest(content),
        read=_Reader(ordered, read_image, preprocessing),
        contents=tuple(sample.sha256 for sample in ordered),
    )


def ranked(samples: Iterable[Sample], salt: str) -> list[Sample]:
    """Sorts samples by a hash of salt and content; names only break ties between equal contents.

    Every use needs its own salt, because otherwise the samples chosen first for one split would be missing from the
    beginning of the other.
    """
    return sorted(samples, key=lambda s: (hashlib.sha256(f"{salt} {s.sha256}".encode()).digest(), s.label, s.name))
