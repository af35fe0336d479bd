"""CIFAR-10: 60,000 photographs of ten classes, 32×32 RGB.

--data is the official archive cifar-10-python.tar.gz, its folder cifar-10-batches-py, or the same images as files in
train/<class>/ and test/<class>/, in a folder or a zip. The test split is the source's; validation is a tenth of its
training data, chosen per class by content.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _cifar_batches, _class_folders, _images, _splits
from pipeline.errors import BadData
from pipeline.system import store
from pipeline.system.progress import bar, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = True
SUMMARY = "60,000 photographs, 32×32 RGB, 10 classes; inv data.download --dataset cifar10"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SIZE_BYTES = 170_498_071
MD5 = "c58f30108f718f92721af3b95e74349a"
"""The archive's published checksum."""
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
"""SHA-256 of the same archive; downloads are checked against it, because MD5 is not collision-resistant."""

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class _Pixels:
    """Images, uint8 (N, 32, 32, 3), and the row of each by name."""

    images: NDArray[np.uint8]
    rows: dict[str, int]

    def __call__(self, sample: _splits.Sample, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        return _images.from_pixels(self.images[self.rows[sample.name]], preprocessing)


def classes(data: Path | None) -> tuple[str, ...]:
    """Class names in label order: in official order if they are the official names, otherwise sorted.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or in another format.
    """
    path = _given(data)
    return _cifar_batches.label_names(path) if _cifar_batches.is_batches(path) else _ordered(_found(path))


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; images are uint8 (crop, crop, channels), 0–255.

    Raises:
        BadData: as `classes`. An image file that cannot be decoded raises BadData when it is read.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    path = _given(data)
    if _cifar_batches.is_batches(path):
        return _load_batches(path, split, preprocessing)
    found = _found(path)
    return _class_folders.load(found, _ordered(found), split, preprocessing)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData("cifar10 needs --data PATH: your own copy, or fetch it with inv data.download --dataset cifar10")
    if not data.exists():
        raise BadData(f"{data} does not exist: correct --data, or fetch it with inv data.download --dataset cifar10")
    return data


def _found(data: Path) -> _class_folders.ClassFolders:
    found = _class_folders.find(data)
    if not found.divided:
        raise BadData(f"{data} has class folders, but not in train/ and test/; use --dataset imagefolder")
    return found


def _ordered(found: _class_folders.ClassFolders) -> tuple[str, ...]:
    return CLASSES if set(found.names) == set(CLASSES) else found.names


def _load_batches(data: Path, split: str, preprocessing: Preprocessing) -> Split:
    _splits.check_split(split)
    _images.check(preprocessing)
    names, images, labels = _cifar_batches.read_images(
        data, _cifar_batches.TEST if split == "test" else _cifar_batches.TRAIN
    )
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    samples = [_splits.Sample(n, int(y), h) for n, y, h in zip(names, labels, hashes, strict=True)]
    if split != "test":
        validation, train = _splits.divide(samples, _splits.VALIDATION_SHARE, "validation")
        samples = validation if split == "validation" else train
    rows = {name: row for row, name in enumerate(names)}
    own = images[[rows[sample.name] for sample in samples]]  # a copy, so that the other splits' images can be freed
    pixels = _Pixels(own, {sample.name: row for row, sample in enumerate(samples)})
    return _splits.make(samples, pixels, preprocessing)


# -- download ----------------------------------------------------------------------------------------------------------


def download(to: Path, url: str = URL, sha256: str = SHA256) -> Path:
    """Downloads the official archive unless it already exists.

    Args:
        to: the file to create, or an existing folder for it.

    Returns:
        The file, for --data.

    Raises:
        BadData: the download failed or has the wrong checksum; no partial file is left.
        DiskFull: the disk is full.
    """
    path = to / url.rsplit("/", 1)[-1] if to.is_dir() else to
    if path.is_file() and store.sha256(path) == sha256:
        say(f"{path} already exists")
        return path
    with store.atomic(path) as temporary:
        with temporary.open("wb") as file:
            found = _fetch(url, file)
        if found != sha256:
            size = temporary.stat().st_size
            raise BadData(
                f"{url} returned {size:,} bytes with sha256 {found}, expected {sha256}; try again, or use your own copy"
            )
    return path


def _fetch(url: str, file: IO[bytes]) -> str:
    """Downloads a URL to a file and returns its sha256."""
    sha256 = hashlib.sha256()
    for chunk in _chunks(url):
        sha256.update(chunk)
        file.write(chunk)
    return sha256.hexdigest()


def _chunks(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            length = int(response.headers.get("Content-Length") or 0)
            chunks = iter(lambda: response.read(CHUNK_BYTES), b"")
            yield from bar(chunks, f"fetching {url}", -(-length // CHUNK_BYTES) or None, "MiB")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BadData(f"cannot download {url} ({error}); try again, or use your own copy with --data") from error
