"""Boxes in COCO's format: --data is a folder or a zip with JSON files of images, annotations and categories.

A file's split is in its path: train, val or valid, test, as in annotations/instances_train2017.json or
valid/_annotations.coco.json. Without validation a tenth of the training split is used for it, and one file without such
a word is divided by content. The image of an entry lies where `file_name` says, beside its JSON file or in a folder of
its own. A crowd does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _boxes, _files, _images
from pipeline.errors import BadData

EMBEDDED = False
IMAGES = True
SUMMARY = "your images with boxes in COCO's format: --data is a folder or a zip with JSON files and images"

EXPECTED = "JSON files with images, annotations and categories, and the images"
SETS = {"train": "train", "valid": "validation", "val": "validation", "test": "test"}


def classes(data: Path | None) -> tuple[str, ...]:
    """The names of the categories, in the order of their ids.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or in another format.
    """
    return _read(_given(data))[0]


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; see `_boxes.load`.

    Raises:
        BadData: as `classes`, or an image cannot be decoded.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    _images.check(preprocessing)
    names, samples = _read(_given(data))
    return _boxes.load(samples, names, split, preprocessing, data)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"coco needs --data PATH: a folder or a zip with {EXPECTED}")
    return data


@cache
def _read(data: Path) -> tuple[tuple[str, ...], tuple[_boxes.Annotated, ...]]:
    """The classes, and every image with its boxes."""
    images: dict[str, bytes] = {}
    found: dict[str, Mapping[str, Any]] = {}
    for name, content in _files.read(data, _wanted):
        if not name.endswith(".json"):
            images[name] = content
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{name} is not JSON: {error}") from error
        if isinstance(value, dict) and {"images", "annotations", "categories"} <= set(value):
            found[name] = value
    if not found:
        raise BadData(f"{data} has no annotations: expected {EXPECTED}")
    names: dict[Any, str] = {}
    samples: list[_boxes.Annotated] = []
    for name, value in found.items():
        own = {_field(f"{name}, categories", each, "id", int): each for each in value["categories"]}
        for key, each in own.items():
            if names.setdefault(key, _field(f"{name}, categories", each, "name", str)) != each["name"]:
                raise BadData(f"{name}: category {key} is {each['name']!r}, and {names[key]!r} in another file")
        samples += _samples(name, value, own, images)
    used = {box.name for sample in samples for box in sample.boxes}
    return tuple(names[key] for key in sorted(names) if names[key] in used), tuple(samples)


def _wanted(name: str) -> bool:
    return name.endswith(".json") or _images.kind(name) is _images.Kind.IMAGE


def _samples(
    name: str, value: Mapping[str, Any], categories: Mapping[int, Mapping[str, Any]], images: Mapping[str, bytes]
) -> list[_boxes.Annotated]:
    boxes: dict[int, list[_boxes.Box]] = {}
    for place, each in enumerate(value["annotations"]):
        where = f"{name}, annotation {place}"
        category = _field(where, each, "category_id", int)
        if category not in categories:
            raise BadData(f"{where} is of category {category}, which the file does not have")
        sides = _field(where, each, "bbox", list)
        if len(sides) != 4 or not all(isinstance(side, int | float) for side in sides):
            raise BadData(f"{where}: bbox must be [left, top, width, height], not {sides!r}")
        left, top, width, height = map(float, sides)
        box = _boxes.Box(
            categories[category]["name"], top, left, top + height, left + width, where, bool(each.get("iscrowd"))
        )
        boxes.setdefault(_field(where, each, "image_id", int), []).append(box)
    found = []
    for place, each in enumerate(value["images"]):
        where = f"{name}, image {place}"
        file = _image(where, PurePosixPath(name).parent, _field(where, each, "file_name", str), images)
        size = (each["width"], each["height"]) if each.get("width") and each.get("height") else None
        own = tuple(boxes.pop(_field(where, each, "id", int), ()))
        found.append(_boxes.Annotated(_split(name), file, images[file], own, size))
    if boxes:
        raise BadData(f"{name} has boxes of image {min(boxes)}, which it does not list")
    return found


def _split(name: str) -> str:
    """The split that a file's path names; "" if it names none."""
    return next((split for word, split in SETS.items() if word in name.lower()), "")


def _image(where: str, folder: PurePosixPath, name: str, images: Mapping[str, bytes]) -> str:
    """The path of an entry's image: beside the JSON file, or the only one that ends with its name."""
    beside = (folder / name).as_posix()
    if beside in images:
        return beside
    found = [path for path in images if path == name or path.endswith(f"/{name}")]
    if len(found) != 1:
        raise BadData(f"{where}: {name!r} is {'no file' if not found else f'one of {len(found)} files'} of the data")
    return found[0]


def _field(where: str, value: Any, name: str, kind: type) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise BadData(f"{where}: {name} must be of type {kind.__name__}, not {found!r}")
    return found
