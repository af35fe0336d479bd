"""Datasets: pictures and labels as numpy, whatever framework reads them.

A dataset is a module here with the verbs of `Dataset`. Splits are "train", "validation" and "test"; validation is
part of what the source calls training data and chooses the best checkpoint, so that test is never looked at before
the end. Splits depend on content alone, not on the order of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.core import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """One split; pictures are decoded when they are asked for.

    Attributes:
        labels: int64 (N,), index into the dataset's classes.
        sha256: hash of the split's content: which pictures, in which order, with which labels and preprocessing.
        read: the i-th picture, decoded, resized and cropped: uint8 (height, width, channels), 0–255.
    """

    labels: NDArray[np.int64]
    sha256: str
    read: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures of these indices, uint8 (len(indices), height, width, channels)."""
        import numpy as np

        return np.stack([self.read(int(i)) for i in indices])


class Dataset(Protocol):
    """The verbs of a module in this folder.

    Attributes:
        EMBEDDED: the data comes with a package, so --data is not needed (and an error).
        SUMMARY: one line for people.
    """

    EMBEDDED: bool
    SUMMARY: str

    def classes(self, data: Path | None) -> tuple[str, ...]:
        """Class names in label order.

        Raises:
            BadData: `data` is missing, empty or not of this form.
        """

    def load(self, data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
        """One of SPLITS.

        Raises:
            BadData: as `classes`; a picture that cannot be read is named when it is read.
        """
