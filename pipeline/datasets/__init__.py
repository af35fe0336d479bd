"""Datasets: images and labels as NumPy arrays, for every framework.

A dataset is a module in this folder with the functions of `Dataset`. Splits are "train", "validation" and "test".
Validation is taken from the source's training data and selects the best checkpoint, so the test split is used only for
the final evaluation. Splits depend on the files' content, not on their order.
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
    """One split; images are decoded on demand.

    Attributes:
        labels: int64 (N,), indices into the dataset's classes.
        sha256: hash of the split's content: its images, their order and labels, the preprocessing, and the code that
            decodes them.
        read: returns the i-th image, decoded, resized and cropped: uint8 (height, width, channels), 0–255.
    """

    labels: NDArray[np.int64]
    sha256: str
    read: Callable[[int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """The images at these indices, uint8 (len(indices), height, width, channels)."""
        import numpy as np

        return np.stack([self.read(int(i)) for i in indices])


class Dataset(Protocol):
    """The interface of a module in this folder.

    Attributes:
        EMBEDDED: whether a Python package contains the data; then --data is an error, otherwise it is required.
        SUMMARY: one line for listings.
    """

    EMBEDDED: bool
    SUMMARY: str

    def classes(self, data: Path | None) -> tuple[str, ...]:
        """Class names in label order.

        Raises:
            BadData: `data` is missing, empty or in another format.
        """

    def load(self, data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
        """One of SPLITS.

        Raises:
            BadData: as `classes`. An image that cannot be decoded raises BadData when it is read.
        """
