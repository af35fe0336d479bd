"""Images with masks: --data is a folder or a zip with images/, and masks/ or instances/ with files of the same names.

A mask is an image of one channel with the class of each pixel: 0 is the background, then 1, 2 …. In instances/, 0 is
the background, and every other number one object of the only other class. A mask is resized and cropped as its image
is, without mixing pixels. Where there are train/, test/ and optionally validation/ around these folders, they are the
splits; otherwise 28 % of the images are the test split and a tenth of the rest is used for validation, chosen by
content.
"""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, Split, _files, _images, _splits
from pipeline.errors import BadData
from pipeline.system import cpus
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = True
SUMMARY = "your images with masks: --data is a folder or a zip with images/ and masks/"

EXPECTED = "images/, and masks/ or instances/ with files of the same names"
BACKGROUND, OBJECT = "background", "object"


@dataclass(frozen=True)
class Pair:
    """An image with its mask.

    Attributes:
        instances: whether the mask has objects instead of classes.
    """

    split: str
    name: str
    image: bytes
    mask: bytes
    instances: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.image + self.mask).hexdigest()


def classes(data: Path | None) -> tuple[str, ...]:
    """ "background" and "object", or "background", "1", "2" … as far as the masks have classes.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or in another format.
    """
    pairs = _pairs(_given(data))
    if pairs[0].instances:
        return BACKGROUND, OBJECT
    with ThreadPoolExecutor(cpus.count()) as pool:
        largest = max(pool.map(_largest, pairs))
    return (BACKGROUND, OBJECT) if largest <= 1 else (BACKGROUND, *map(str, range(1, largest + 1)))


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; images are uint8 (crop, crop, channels), 0–255, and labels uint8 (N, crop, crop).

    Raises:
        BadData: as `classes`; or a mask cannot be decoded, or has another size than its image.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    import numpy as np

    _splits.check_split(split)
    _images.check(preprocessing)
    chosen = _chosen(_given(data), split)
    with ThreadPoolExecutor(cpus.count()) as pool:
        masks = list(pool.map(lambda pair: _mask(pair, preprocessing), chosen))
    content = {
        "samples": [pair.sha256 for pair in chosen], "preprocessing": preprocessing, "decoder": _images.identity()
    }  # fmt: skip
    shape = (0, preprocessing.crop, preprocessing.crop)
    return Split(
        labels=np.stack(masks) if masks else np.zeros(shape, np.uint8),
        sha256=digest(content),
        read=_Reader(tuple(chosen), preprocessing),
        contents=tuple(pair.sha256 for pair in chosen),
    )


@dataclass(frozen=True)
class _Reader:
    """Implements Split.read; a class, so that worker processes can receive it."""

    pairs: tuple[Pair, ...]
    preprocessing: Preprocessing

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return _images.decode(self.pairs[index].image, self.pairs[index].name, self.preprocessing)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"maskfolder needs --data PATH: a folder or a zip with {EXPECTED}")
    return data


@cache
def _pairs(data: Path) -> tuple[Pair, ...]:
    """Every image with its mask, by name."""
    parts: dict[tuple[str, str], dict[str, bytes]] = {}
    for name, content in _files.read(data, lambda name: _images.kind(name) is _images.Kind.IMAGE):
        folders, stem = name.split("/")[:-1], name.rpartition("/")[2].rpartition(".")[0]
        if folders and folders[-1] in ("images", "masks", "instances"):
            split = folders[-2] if len(folders) > 1 and folders[-2] in SPLITS else ""
            parts.setdefault((split, stem), {})[folders[-1]] = content
    found = []
    for (split, stem), own in sorted(parts.items()):
        masks = [kind for kind in ("masks", "instances") if kind in own]
        if "images" not in own or len(masks) != 1:
            has = ", ".join(f"{kind}/" for kind in own)
            raise BadData(f"{data}: {stem} is only in {has}; an image needs one mask: {EXPECTED}")
        found.append(Pair(split, stem, own["images"], own[masks[0]], masks[0] == "instances"))
    if not found:
        raise BadData(f"{data} has no images with masks: expected {EXPECTED}")
    if len({pair.instances for pair in found}) > 1:
        raise BadData(f"{data} has masks/ and instances/: use one of them for all images")
    return tuple(found)


def _chosen(data: Path, split: str) -> list[Pair]:
    """The pairs of a split, in pseudo-random order by content."""
    by_name = {f"{pair.split}/{pair.name}": pair for pair in _pairs(data)}
    samples = {name: _splits.Sample(name, 0, pair.sha256) for name, pair in by_name.items()}
    own = [sample for name, sample in samples.items() if by_name[name].split == split]
    if not any(pair.split for pair in by_name.values()):
        test, rest = _splits.divide(samples.values(), _splits.TEST_SHARE, "test")
        own = test if split == "test" else _of_training(rest, split)
    elif not any(pair.split == "validation" for pair in by_name.values()) and split != "test":
        own = _of_training([sample for name, sample in samples.items() if by_name[name].split == "train"], split)
    return [by_name[sample.name] for sample in _splits.ranked(own, "order")]


def _of_training(samples: list[_splits.Sample], split: str) -> list[_splits.Sample]:
    validation, train = _splits.divide(samples, _splits.VALIDATION_SHARE, "validation")
    return {"train": train, "validation": validation}[split]


def _decoded(pair: Pair) -> NDArray[np.int64]:
    """The numbers in a mask's file, (height, width)."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(pair.mask), formats=_images.FORMATS) as image:
            found = np.array(image)
    except Exception as error:  # decoders raise many types
        raise BadData(f"the mask of {pair.name} cannot be read: {error}") from error
    if found.ndim != 2 or found.dtype.kind not in "uib":
        raise BadData(f"the mask of {pair.name} has shape {found.shape}; it must have one channel of whole numbers")
    return found.astype(np.int64)


def _largest(pair: Pair) -> int:
    return int(_decoded(pair).max())


def _mask(pair: Pair, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The mask resized and cropped as `_images.fit` does it, with the nearest pixel: uint8 (crop, crop)."""
    import numpy as np
    from PIL import Image

    found = _decoded(pair)
    with Image.open(io.BytesIO(pair.image), formats=_images.FORMATS) as image:
        size = image.size
    if size != found.shape[::-1]:
        raise BadData(f"the mask of {pair.name} is {found.shape[::-1]} and its image {size}: they must be the same")
    if pair.instances:
        found = (found > 0).astype(np.int64)
    if found.max() > 255:
        raise BadData(f"the mask of {pair.name} has class {found.max()}; at most 255 are known")
    mask = Image.fromarray(found.astype(np.uint8))
    shorter, crop = min(size), preprocessing.crop
    if shorter != preprocessing.resize:
        width, height = (int(preprocessing.resize * side / shorter) for side in size)
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
    left, top = ((side - crop) // 2 for side in mask.size)
    return np.array(mask.crop((left, top, left + crop, top + crop)), np.uint8)
