"""Boxes in Pascal VOC's format: --data is a folder or a zip with Annotations/*.xml, JPEGImages/ and ImageSets/Main/.

ImageSets/Main/train.txt, val.txt and test.txt are the splits; without val.txt a tenth of train.txt is used for
validation, and without these files 28 % of the images are the test split. A box that the annotation calls difficult
does not count.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _boxes, _files, _images
from pipeline.errors import BadData

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EMBEDDED = False
IMAGES = True
SUMMARY = "your images with boxes in Pascal VOC's format: --data is a folder or a zip with Annotations/"

EXPECTED = "Annotations/*.xml, JPEGImages/ and optionally ImageSets/Main/train.txt, val.txt and test.txt"
SETS = {"train": "train", "val": "validation", "test": "test"}


def classes(data: Path | None) -> tuple[str, ...]:
    """The names in the annotations, sorted.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or in another format.
    """
    return tuple(sorted({box.name for sample in _samples(_given(data)) for box in sample.boxes}))


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; see `_boxes.load`.

    Raises:
        BadData: as `classes`, or an image cannot be decoded.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    _images.check(preprocessing)
    return _boxes.load(_samples(_given(data)), classes(data), split, preprocessing, data)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"voc needs --data PATH: a folder or a zip with {EXPECTED}")
    return data


@cache
def _samples(data: Path) -> tuple[_boxes.Annotated, ...]:
    images: dict[str, tuple[str, bytes]] = {}
    annotations: dict[str, tuple[str, bytes]] = {}
    sets: dict[str, str] = {}
    for name, content in _files.read(data, _wanted):
        path = PurePosixPath(name)
        if path.parent.name == "Annotations":
            annotations[path.stem] = name, content
        elif path.parent.name == "JPEGImages":
            images[path.stem] = name, content
        else:
            sets |= dict.fromkeys(_text(name, content).split(), SETS[path.stem])
    if not annotations:
        raise BadData(f"{data} has no annotations: expected {EXPECTED}")
    found = []
    for stem in sorted(annotations):
        if sets and stem not in sets:
            continue
        if stem not in images:
            raise BadData(f"{data}: {annotations[stem][0]} has no image of its name in JPEGImages/")
        size, boxes = _parsed(*annotations[stem])
        found.append(_boxes.Annotated(sets.get(stem, ""), images[stem][0], images[stem][1], boxes, size))
    missing = sorted(set(sets) - set(annotations))
    if missing:
        raise BadData(f"{data}: ImageSets/Main/ lists {missing[0]}, which has no file in Annotations/")
    return tuple(found)


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    folder = path.parent.name
    if folder == "Main":
        return path.suffix == ".txt" and path.stem in SETS
    return (folder == "Annotations" and path.suffix == ".xml") or (
        folder == "JPEGImages" and _images.kind(name) is _images.Kind.IMAGE
    )


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadData(f"{name} is not UTF-8: {error}") from error


def _parsed(name: str, content: bytes) -> tuple[tuple[int, int] | None, tuple[_boxes.Box, ...]]:
    """(width, height) of the image, if the annotation tells it, and the boxes."""
    from xml.etree import ElementTree

    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise BadData(f"{name} declares entities, which an annotation does not need")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise BadData(f"{name} is not XML: {error}") from error
    width, height = (_number(name, root, f"size/{side}", "0") for side in ("width", "height"))
    boxes = []
    for place, each in enumerate(root.iter("object"), 1):
        where = f"{name}, object {place}"
        label = (each.findtext("name") or "").strip()
        if not label:
            raise BadData(f"{where} has no name")
        left, top, right, bottom = (_number(where, each, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        ignored = _number(where, each, "difficult", "0") != 0
        boxes.append(_boxes.Box(label, top, left, bottom, right, where, ignored))
    return (int(width), int(height)) if width and height else None, tuple(boxes)


def _number(where: str, element: Element, path: str, default: str | None = None) -> float:
    text = element.findtext(path, default)
    try:
        return float(text if text is not None else "")
    except ValueError as error:
        raise BadData(f"{where}: {path} must be a number, not {text!r}") from error
