"""Images with boxes, for all formats of annotations: boxes move with the image that the preprocessing fits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _images, _splits
from pipeline.errors import BadData
from pipeline.formatting import listed
from pipeline.system.progress import say
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST = 0.5
"""A box with a shorter side of fewer pixels of the stored image is no box."""


@dataclass(frozen=True)
class Box:
    """A box of an annotation, in pixels of the upright image.

    Attributes:
        where: the file and the place in it, for messages.
        ignored: it is hard to tell, or a crowd: it does not count.
    """

    name: str
    top: float
    left: float
    bottom: float
    right: float
    where: str
    ignored: bool = False


@dataclass(frozen=True)
class Annotated:
    """An image with its boxes.

    Attributes:
        split: "train", "validation" or "test"; "" if the source has no splits.
        size: (width, height) that the annotation is about; None if it does not tell, and then the image's own.
        scaled: whether the boxes are shares of the image's size instead of pixels.
    """

    split: str
    name: str
    image: bytes
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None = None
    scaled: bool = False

    @property
    def sha256(self) -> str:
        found = hashlib.sha256(self.image)
        for box in self.boxes:
            found.update(repr((box.name, box.top, box.left, box.bottom, box.right, box.ignored)).encode())
        return found.hexdigest()


def load(
    samples: Sequence[Annotated], names: Sequence[str], split: str, preprocessing: Preprocessing, source: object
) -> Split:
    """One of SPLITS; images are uint8 (crop, crop, channels), 0–255, and labels as in `Split`.

    Args:
        names: the classes, in their order.
        source: the data's path, for messages.

    Raises:
        BadData: an image cannot be decoded, or has another size than its annotation says.
    """
    import numpy as np

    chosen = _chosen(samples, split)
    rows, dropped = list[list[tuple[float, ...]]](), list[str]()
    for sample in chosen:
        rows.append([])
        size = _size(sample) if sample.boxes or sample.size else (0, 0)
        for box in sample.boxes:
            row = _row(box, size, sample.scaled, names, preprocessing)
            if row is None:
                dropped.append(box.where)
            else:
                rows[-1].append(row)
    if dropped:
        say(f"{source}: boxes without area inside the image are left out: {listed(sorted(set(dropped)))}")
    labels = np.zeros((len(chosen), max(map(len, rows), default=0) or 1, 6), np.float32)
    labels[:, :, 0] = -1
    for place, own in enumerate(rows):
        if own:
            labels[place, : len(own)] = own
    content = {
        "samples": [sample.sha256 for sample in chosen], "preprocessing": preprocessing, "names": list(names),
        "decoder": _images.identity(),
    }  # fmt: skip
    return Split(
        labels=labels,
        sha256=digest(content),
        read=_Reader(tuple(chosen), preprocessing),
        contents=tuple(sample.sha256 for sample in chosen),
    )


@dataclass(frozen=True)
class _Reader:
    """Implements Split.read; a class, so that worker processes can receive it."""

    samples: tuple[Annotated, ...]
    preprocessing: Preprocessing

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return _images.decode(self.samples[index].image, self.samples[index].name, self.preprocessing)


def _row(
    box: Box, size: tuple[int, int], scaled: bool, names: Sequence[str], preprocessing: Preprocessing
) -> tuple[float, ...] | None:
    """A row of labels, as shares of the fitted image; None if nothing of the box is in the image."""
    width, height = size
    scale = size if scaled else (1, 1)
    top, bottom = (min(max(side * scale[1], 0.0), height) for side in (box.top, box.bottom))
    left, right = (min(max(side * scale[0], 0.0), width) for side in (box.left, box.right))
    if not (bottom - top >= SMALLEST and right - left >= SMALLEST):
        return None
    fitted = _images.placed((top, left, bottom, right), size, preprocessing)
    if fitted is None:
        return None
    return names.index(box.name), *fitted, float(box.ignored)


def _size(sample: Annotated) -> tuple[int, int]:
    """(width, height) of the upright image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(sample.image), formats=_images.FORMATS) as image:
            found = _images.upright_size(image)
    except Exception as error:  # decoders raise many types
        raise BadData(f"{sample.name}: cannot be read as an image ({error}); replace or remove the file") from error
    if sample.size not in (None, found):
        raise BadData(f"{sample.name} has {found[0]}×{found[1]} pixels, and its annotation is for {sample.size}")
    return found


def _chosen(samples: Sequence[Annotated], split: str) -> list[Annotated]:
    """The samples of a split, in pseudo-random order by content. Without splits, see `_splits`."""
    _splits.check_split(split)
    by_name = {f"{sample.split}/{sample.name}": sample for sample in samples}
    parts = {name: _splits.Sample(name, 0, sample.sha256) for name, sample in by_name.items()}
    own = [part for name, part in parts.items() if by_name[name].split == split]
    has = {sample.split for sample in samples}
    if has == {""}:
        test, rest = _splits.divide(parts.values(), _splits.TEST_SHARE, "test")
        own = test if split == "test" else _of_training(rest, split)
    elif "validation" not in has and split != "test":
        own = _of_training([part for name, part in parts.items() if by_name[name].split == "train"], split)
    return [by_name[part.name] for part in _splits.ranked(own, "order")]


def _of_training(samples: list[_splits.Sample], split: str) -> list[_splits.Sample]:
    validation, train = _splits.divide(samples, _splits.VALIDATION_SHARE, "validation")
    return {"train": train, "validation": validation}[split]
