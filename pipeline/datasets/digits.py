"""Handwritten digits, 8×8 grey, from scikit-learn: no download.

1,797 images of ten classes; scikit-learn's values 0–16 are scaled to 0–255. The source has no splits: the test split is
28 % and validation a tenth of the rest, chosen per class by content.

Source: the test part of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49; shipped as sklearn.datasets.load_digits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _images, _splits
from pipeline.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = True
IMAGES = True
SUMMARY = "1,797 handwritten digits, 8×8 grey, 10 classes; embedded"

CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class _Pixels:
    """The images in scikit-learn's order, uint8 (N, 8, 8, 1), 0–255; a sample's name is its index."""

    images: NDArray[np.uint8]

    def __call__(self, sample: _splits.Sample, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        return _images.from_pixels(self.images[int(sample.name)], preprocessing)


def classes(data: Path | None) -> tuple[str, ...]:
    """The digits' names, "0" to "9".

    Raises:
        BadData: a path is given.
    """
    if data is not None:
        raise BadData(f"digits is embedded and reads no files: omit --data {data}, or choose another dataset")
    return CLASSES


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; images are uint8 (crop, crop, channels), 0–255, and grey is repeated for "RGB".

    Raises:
        BadData: a path is given.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    classes(data)
    _splits.check_split(split)
    _images.check(preprocessing)
    images, labels = _arrays()
    samples = [
        _splits.Sample(f"{i:04}", int(label), hashlib.sha256(image.tobytes()).hexdigest())
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    test, rest = _splits.divide(samples, _splits.TEST_SHARE, "test")
    validation, train = _splits.divide(rest, _splits.VALIDATION_SHARE, "validation")
    chosen = {"train": train, "validation": validation, "test": test}[split]
    return _splits.make(chosen, _Pixels(images), preprocessing)


@cache
def _arrays() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, uint8 (1797, 8, 8, 1), 0–255, and labels, int64 (1797,), in scikit-learn's order."""
    import numpy as np
    from sklearn.datasets import load_digits

    source = load_digits()
    return np.round(source.images * (255 / 16)).astype(np.uint8)[..., None], source.target.astype(np.int64)
