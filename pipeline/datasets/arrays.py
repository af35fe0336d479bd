"""Your own numbers in NumPy files: --data is a folder with train.npz and test.npz, and optionally validation.npz.

Each file has two arrays: `inputs` (N, …), vectors or series of numbers, and `labels`: class names or whole numbers
(N,), or for a regression floats (N,) or (N, numbers). Without validation.npz, a tenth of the training samples is used
for validation, chosen by content. Without test.npz, 28 % of the samples in train.npz are the test split.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import Standardization
from pipeline.datasets import Split, _arrays, _splits
from pipeline.errors import BadData

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = False
SUMMARY = "your vectors or series in NumPy files: --data is a folder with train.npz and test.npz"

EXPECTED = "a folder with train.npz and optionally test.npz and validation.npz, each with the arrays inputs and labels"


def classes(data: Path | None) -> tuple[str, ...]:
    """The different labels in train.npz, sorted, if they are names or whole numbers; none if they are fractions.

    Raises:
        BadData: no path is given, or a file is missing, corrupt, empty or has other arrays.
    """
    return _names(_raw(data, "train")[1])


def load(data: Path | None, split: str, preprocessing: Standardization) -> Split:
    """One of SPLITS; inputs are float32, and labels int64 (N,) or float32 (N, numbers).

    Raises:
        BadData: as `classes`; or a file has classes that train.npz has not, or samples of another shape.
        BadOption: unknown split.
    """
    _splits.check_split(split)
    names = classes(data)
    if split != "train" and _file(data, split).is_file():
        return _arrays.whole(_read(data, split, names))
    arrays = _read(data, "train", names)
    if not _file(data, "test").is_file():
        return _arrays.divided(arrays, split, _splits.TEST_SHARE)
    if _file(data, "validation").is_file():
        return _arrays.whole(arrays)
    return _arrays.training(arrays, split)


def _file(data: Path | None, split: str) -> Path:
    if data is None:
        raise BadData(f"arrays needs --data PATH: {EXPECTED}")
    return data / f"{split}.npz"


def _names(labels: NDArray[Any]) -> tuple[str, ...]:
    import numpy as np

    return () if labels.dtype.kind == "f" else tuple(str(name) for name in np.unique(labels))


def _read(data: Path | None, split: str, names: tuple[str, ...]) -> _arrays.Arrays:
    """The samples of a file; labels are indices into `names`, or numbers where there are none."""
    import numpy as np

    inputs, labels = _raw(data, split)
    if not names:
        numbers = labels.astype(np.float32).reshape(len(labels), -1)
        if not np.isfinite(numbers).all():
            raise BadData(f"{_file(data, split)}: the labels contain NaN or infinity")
        return _arrays.Arrays(inputs, numbers)
    places = {name: i for i, name in enumerate(names)}
    unknown = sorted({str(label) for label in labels} - set(names))
    if unknown:
        raise BadData(f"{_file(data, split)}: label {unknown[0]!r} does not occur in train.npz")
    return _arrays.Arrays(inputs, np.array([places[str(label)] for label in labels], dtype=np.int64))


def _raw(data: Path | None, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    path = _file(data, split)
    try:
        modified = path.stat().st_mtime_ns
    except OSError as error:
        raise BadData(f"{path}: {error.strerror}; --data is {EXPECTED}") from error
    return _loaded(path, modified)


@cache
def _loaded(path: Path, modified: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs, float32 (N, …), and labels as they are. Args: modified: so that a changed file is read again."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("inputs", "labels")}
    except KeyError as error:
        raise BadData(f"{path} has no array {error}: it needs inputs and labels") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is not an .npz file of arrays of numbers: {error}") from error
    inputs, labels = found["inputs"], found["labels"]
    if inputs.dtype.kind not in "fiub" or inputs.ndim not in (2, 3) or not len(inputs):
        raise BadData(
            f"{path}: inputs are {inputs.dtype} {inputs.shape}, not numbers (N, values) or (N, time, channels)"
        )
    if labels.dtype.kind not in "fiuUb" or labels.ndim not in ((1, 2) if labels.dtype.kind == "f" else (1,)):
        raise BadData(f"{path}: labels are {labels.dtype} {labels.shape}, not one label or number for each sample")
    if len(labels) != len(inputs):
        raise BadData(f"{path} has {len(inputs)} inputs and {len(labels)} labels")
    inputs = inputs.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))
    if len(broken):
        raise BadData(f"{path}: inputs[{broken[0]}] contains NaN or infinity")
    return inputs, labels
