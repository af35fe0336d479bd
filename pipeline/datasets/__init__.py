"""Datasets: inputs and labels as NumPy arrays, for every framework.

A dataset is a module in this folder with the functions of `Dataset`. Splits are "train", "validation" and "test".
Validation is the source's own, or taken from its training data. It selects the best checkpoint, so the test split is
used only for the final evaluation. Splits depend on the files' content, not on their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import tasks
from pipeline.core import ModelSpec, Tokens
from pipeline.errors import BadData, BadModel
from pipeline.formatting import listed
from pipeline.system.store import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = {("i", 1): "classes", ("f", 2): "numbers to predict", ("u", 3): "masks", ("f", 3): "boxes"}
"""What labels are, by their kind of dtype and their number of axes."""
NEEDED = {"class": "classes", "anomaly": "classes", "numbers": "numbers to predict", "mask": "masks", "boxes": "boxes"}
"""What the kinds of `Truth` are called."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """One split; samples are decoded on demand.

    Attributes:
        labels: the truth. Of classes int64 (N,), indices into the dataset's classes, or into a model's labels after
            `load`; of numbers to predict float32 (N, numbers); of masks uint8 (N, height, width); of boxes float32
            (N, most boxes of a sample, 6): class, top, left, bottom and right as shares of the input's height and
            width, and 1 for a box that does not count (it is hard to tell, or a crowd), else 0. Rows without a box
            have class -1.
        sha256: hash of the split's content: its samples, their order and labels, the preprocessing, and the code that
            decodes them.
        read: returns the i-th input in the spec's shape. Images are decoded, resized and cropped: uint8 (height, width,
            channels), 0–255. Token ids are int32, and everything else is float32.
        contents: hash of every sample as the source stores it, to find the same one in two splits; empty if unknown.
    """

    labels: NDArray[Any]
    sha256: str
    read: Callable[[int], NDArray[Any]]
    contents: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: Sequence[int]) -> NDArray[Any]:
        """The inputs at these indices, (len(indices), …); see `read`."""
        import numpy as np

        return np.stack([self.read(int(i)) for i in indices])


class Dataset(Protocol):
    """The interface of a module in this folder.

    Attributes:
        EMBEDDED: whether a Python package contains the data; then --data is an error, otherwise it is required.
        IMAGES: whether the samples are images; then a spec's preprocessing is `Preprocessing`, and otherwise
            `Standardization`, or of sounds `Audio` and of texts `Tokens`.
        SUMMARY: one line for listings.
    """

    EMBEDDED: bool
    IMAGES: bool
    SUMMARY: str

    def classes(self, data: Path | None) -> tuple[str, ...]:
        """Class names in label order; none where the truth is a number.

        Raises:
            BadData: `data` is missing, empty or in another format.
        """

    def load(self, data: Path | None, split: str, preprocessing: Any) -> Split:
        """One of SPLITS.

        Args:
            preprocessing: the spec's; the tokenizer of `Tokens` is a path.

        Raises:
            BadData: as `classes`. An image that cannot be decoded raises BadData when it is read.
        """


def load(dataset: Dataset, data: Path | None, split: str, spec: ModelSpec, folder: Path) -> Split:
    """One of SPLITS, with labels as indices into the model's labels: classes are matched by name.

    Args:
        folder: the model's, which has the tokenizer of a model of texts.

    Raises:
        BadData: as `Dataset.load`; or the dataset's samples, classes or numbers are not those of the model.
    """
    import numpy as np

    names = dataset.classes(data)
    preprocessing = spec.preprocessing
    if isinstance(preprocessing, Tokens):
        preprocessing = replace(preprocessing, tokenizer=str(folder / preprocessing.tokenizer))
        _check_vocabulary(spec, preprocessing)
    loaded = dataset.load(data, split, preprocessing)
    _check_samples(loaded, spec, split, data)
    if names == spec.labels:
        return loaded
    check_labels(spec, names)
    order = np.array([*map(spec.labels.index, names), -1], dtype=np.int64)  # -1 of a row without a box stays -1
    labels = loaded.labels.copy()
    if labels.ndim == 3 and labels.dtype.kind == "f":
        labels[:, :, 0] = order[labels[:, :, 0].astype(np.int64)]
    else:
        labels = order[labels]
    return replace(loaded, labels=labels, sha256=digest([loaded.sha256, spec.labels]))


def _check_vocabulary(spec: ModelSpec, tokens: Tokens) -> None:
    """
    Raises:
        BadModel: the tokenizer has ids that the input does not take.
    """
    from pipeline.datasets import _text

    found, (_, largest) = _text.vocabulary(tokens), spec.inputs[0].value_range or (0, 0)
    if found > largest + 1:
        raise BadModel(f"{tokens.tokenizer} has {found} tokens, and {spec.name} takes ids from 0 to {largest:g}")


def _check_samples(split: Split, spec: ModelSpec, name: str, data: Path | None) -> None:
    """
    Raises:
        BadData: the samples have another shape than the model's input, or the truth is of another kind or number.
    """
    if not len(split):
        return
    where, wanted = f"the {name} split of {data or spec.dataset}", tasks.of(spec).truth(spec)
    (tensor,) = spec.inputs
    if not spec.image:  # images are made to fit
        first = split.read(0)
        if first.shape != tensor.shape or str(first.dtype) != tensor.dtype:
            found, takes = f"{first.dtype} {first.shape}", f"{tensor.dtype} {tensor.shape}"
            raise BadData(f"{where} has samples of shape {found}, and {spec.name} takes {takes}")
    has, needs = KINDS[split.labels.dtype.kind, split.labels.ndim], NEEDED[wanted.kind]
    if has != needs:
        raise BadData(f"{where} has {has}, and {spec.task} needs {needs}")
    own = split.labels.shape[1:]
    if any(size not in (None, found) for size, found in zip(wanted.shape, own, strict=True)):
        raise BadData(f"{where} has labels of shape {own}, and {spec.name} needs {wanted.shape}")


def order_note(names: Sequence[str]) -> str | None:
    """A line for the user if the sorted class names have another order by number, as "10" and "2"; otherwise None."""
    by_number = sorted(names, key=_natural)
    if list(names) != sorted(names) or list(names) == by_number:
        return None
    first = next(i for i, (one, other) in enumerate(zip(names, by_number, strict=True)) if one != other)
    return (
        f"classes are sorted as text: output {first} is {names[first]!r}; by number without case, as in timm, it is "
        f"{by_number[first]!r}. For weights trained elsewhere, write their order into SPEC.labels"
    )


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def check_labels(spec: ModelSpec, names: Sequence[str]) -> None:
    """Checks that a dataset's classes are a model's labels, in any order.

    Raises:
        BadData: they are not; the message names the differences.
    """
    differences = {
        "SPEC.labels": sorted(set(spec.labels) - set(names)),
        "the data": sorted(set(names) - set(spec.labels)),
    }
    lists = [f"only {where} has {listed(map(repr, own))}" for where, own in differences.items() if own]
    if lists:
        raise BadData(
            f"{spec.name} has {len(spec.labels)} labels and the data {len(names)} classes, with different names: "
            f"{'; '.join(lists)}. Rename the class folders, or change SPEC.labels"
        )
