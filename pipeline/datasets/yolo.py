"""Boxes in YOLO's format: --data is a folder or a zip with data.yaml, and images/ and labels/ for each split.

data.yaml has `names` (a list, or a map from numbers), and `train`, `val` and optionally `test`: folders of images. The
boxes of images/a.jpg are in labels/a.txt, a line each: class, centre across, centre down, width and height, as shares
of the image. An image without a file has no boxes. Without `test`, 28 % of all images are the test split.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _boxes, _files, _images
from pipeline.errors import BadData

EMBEDDED = False
IMAGES = True
SUMMARY = "your images with boxes in YOLO's format: --data is a folder or a zip with data.yaml, images/ and labels/"

EXPECTED = "data.yaml with names, train and val, and images/ and labels/"
SETS = {"train": "train", "val": "validation", "test": "test"}


def classes(data: Path | None) -> tuple[str, ...]:
    """`names` of data.yaml.

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
        raise BadData(f"yolo needs --data PATH: a folder or a zip with {EXPECTED}")
    return data


@cache
def _read(data: Path) -> tuple[tuple[str, ...], tuple[_boxes.Annotated, ...]]:
    """The classes, and every image with its boxes."""
    files = dict(_files.read(data, _wanted))
    settings = [name for name in files if PurePosixPath(name).suffix in (".yaml", ".yml")]
    if len(settings) != 1:
        raise BadData(f"{data} has {len(settings)} YAML files: expected {EXPECTED}")
    names, folders = _settings(settings[0], files[settings[0]])
    found = []
    for split, folder in folders.items():
        own = [name for name in files if name.startswith(f"{folder}/") and _images.kind(name) is _images.Kind.IMAGE]
        if not own:
            raise BadData(f"{settings[0]}: {split} is {folder}, which has no images")
        whole = "" if "test" not in folders else SETS[split]
        found += [
            _boxes.Annotated(whole, name, files[name], _of_image(name, files, names), scaled=True) for name in own
        ]
    return names, tuple(found)


def _wanted(name: str) -> bool:
    return PurePosixPath(name).suffix in (".yaml", ".yml", ".txt") or _images.kind(name) is _images.Kind.IMAGE


def _settings(name: str, content: bytes) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names, and the folder of each split."""
    import yaml

    try:
        value: Any = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"{name} is not YAML: {error}") from error
    names = value.get("names") if isinstance(value, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[place] for place in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise BadData(f"{name}: names must be a list of different names, or a map from 0, 1 … to them, not {names!r}")
    base = PurePosixPath(name).parent / str(value.get("path") or "")
    folders = {}
    for split in SETS:
        if value.get(split) is not None:
            folders[split] = _inside(name, base, value[split])
    if "train" not in folders:
        raise BadData(f"{name} has no train: expected {EXPECTED}")
    return tuple(map(str, names)), folders


def _inside(name: str, base: PurePosixPath, folder: Any) -> str:
    """A folder of images as a path in the data. "../train/images", as some tools write it, is beside data.yaml."""
    if not isinstance(folder, str):
        raise BadData(f"{name}: train, val and test must be folders, not {folder!r}")
    found = (base / folder.removeprefix("../")).as_posix()
    if ".." in found.split("/") or found.startswith("/"):
        raise BadData(f"{name}: {folder} is outside the data")
    return found.removesuffix("/")


def _of_image(image: str, files: dict[str, bytes], names: tuple[str, ...]) -> tuple[_boxes.Box, ...]:
    before, _, after = image.rpartition("images/")
    name = f"{before}labels/{after.rpartition('.')[0]}.txt"
    found = []
    for number, line in enumerate(files.get(name, b"").decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            label, across, down, width, height = map(float, line.split())
        except ValueError as error:
            raise BadData(f"{where}: {line!r} is not class, centre across, centre down, width, height") from error
        if label not in range(len(names)):
            raise BadData(f"{where}: class {label:g}, and there are {len(names)} names")
        found.append(
            _boxes.Box(
                names[int(label)], down - height / 2, across - width / 2, down + height / 2, across + width / 2, where
            )
        )
    return tuple(found)
