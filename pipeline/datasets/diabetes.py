"""Progression of diabetes, ten measurements of 442 patients, from scikit-learn: no download.

The truth is a measure of progression one year later, 25 to 346. Inputs are the raw values: age, sex (1 or 2), body
mass index, blood pressure and six blood serum measurements. The source has no splits: the test split is 28 % and
validation a tenth of the rest, chosen by content.

Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least Angle Regression, Annals of Statistics 32(2), 2004;
shipped as sklearn.datasets.load_diabetes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.core import Standardization
from pipeline.datasets import Split, _arrays, _splits
from pipeline.errors import BadData

EMBEDDED = True
IMAGES = False
SUMMARY = "442 patients, 10 measurements, progression of diabetes; embedded"


def classes(data: Path | None) -> tuple[str, ...]:
    """None: the truth is a number.

    Raises:
        BadData: a path is given.
    """
    if data is not None:
        raise BadData(f"diabetes is embedded and reads no files: omit --data {data}, or choose another dataset")
    return ()


def load(data: Path | None, split: str, preprocessing: Standardization) -> Split:
    """One of SPLITS; inputs are float32 (10,), and labels float32 (N, 1).

    Raises:
        BadData: a path is given.
        BadOption: unknown split.
    """
    classes(data)
    _splits.check_split(split)
    return _arrays.divided(_source(), split, _splits.TEST_SHARE)


@cache
def _source() -> _arrays.Arrays:
    import numpy as np
    from sklearn.datasets import load_diabetes

    source = load_diabetes(scaled=False)
    return _arrays.Arrays(source.data.astype(np.float32), source.target.astype(np.float32)[:, None])
