"""Who is in which split, and in which order: decided by content hashes, so that no order of files matters."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, Split
from pipeline.errors import BadOption
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VALIDATION_SHARE = 0.1
"""Of the training data, where the source has no validation split of its own."""


class Sample(NamedTuple):
    """One picture.

    Attributes:
        name: where it is in the dataset, the same in every form the dataset comes in.
        sha256: its content.
    """

    name: str
    label: int
    sha256: str


Picture = Callable[[Sample, Preprocessing], "NDArray[np.uint8]"]
"""Gives a sample's input: uint8 (height, width, channels), 0–255."""


@dataclass(frozen=True)
class _Reader:
    """Split.read; an object and not a closure, so that it can be sent to worker processes."""

    samples: Sequence[Sample]
    picture: Picture
    preprocessing: Preprocessing

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self.picture(self.samples[index], self.preprocessing)


def check_split(split: str) -> None:
    """Refuses what is not one of SPLITS.

    Raises:
        BadOption: it is not.
    """
    if split not in SPLITS:
        raise BadOption(f"split {split!r} is not one of {', '.join(SPLITS)}")


def divide(samples: Iterable[Sample], share: float, salt: str) -> tuple[list[Sample], list[Sample]]:
    """A share of every class, chosen by content, and the rest.

    Args:
        share: 0–1; rounded to whole samples class by class, and never fewer than one.
        salt: makes one division independent of another one.
    """
    groups: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.label].append(sample)
    chosen: list[Sample] = []
    rest: list[Sample] = []
    for _, group in sorted(groups.items()):
        ranked = _ranked(group, salt)
        count = max(1, round(share * len(ranked)))
        chosen += ranked[:count]
        rest += ranked[count:]
    return chosen, rest


def make(samples: Iterable[Sample], picture: Picture, preprocessing: Preprocessing) -> Split:
    """A split of these samples, in an order by content in which any first N represent the whole."""
    import numpy as np

    ordered = tuple(_ranked(samples, "order"))
    content = {"samples": [tuple(sample) for sample in ordered], "preprocessing": preprocessing}
    return Split(
        labels=np.array([sample.label for sample in ordered], dtype=np.int64),
        sha256=digest(content),
        read=_Reader(ordered, picture, preprocessing),
    )


def _ranked(samples: Iterable[Sample], salt: str) -> list[Sample]:
    """In an order that content and salt decide; names only decide between equal contents.

    Every purpose has its own salt: samples chosen by the bare hash would leave its low end to the other split.
    """
    return sorted(samples, key=lambda s: (hashlib.sha256(f"{salt} {s.sha256}".encode()).digest(), s.label, s.name))
