"""Datasets in class folders: the folder of an image is its label. Shared by imagefolder and cifar10."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, Split, _images, _splits
from pipeline.datasets._image_files import Files, open_files
from pipeline.datasets._splits import Sample
from pipeline.errors import BadData
from pipeline.system.progress import bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPECTED = "class folders with images, or train/ and test/ (and validation/ or val/) with class folders"

Groups = Mapping[str, Sequence[str]]
"""Class → names of its images."""


@dataclass(frozen=True)
class ClassFolders:
    """The images of a dataset in class folders.

    Attributes:
        groups: by split, for every split with a folder of its own; under "" if there are only class folders.
    """

    files: Files
    groups: Mapping[str, Groups]

    @property
    def divided(self) -> bool:
        """Whether the source has separate folders for train and test."""
        return "" not in self.groups

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted(next(iter(self.groups.values()))))


@dataclass(frozen=True)
class _ImageReader:
    files: Files

    def __call__(self, sample: Sample, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        return _images.decode(self.files.read(sample.name), self.files.where(sample.name), preprocessing)


# -- finding -----------------------------------------------------------------------------------------------------------


def find(data: Path) -> ClassFolders:
    """Finds the class folders in a folder or zip, directly or in a single top folder; reads no image.

    Raises:
        BadData: the path is missing, corrupt, empty or in another format; a class has too few images, or is missing
            from a split.
    """
    files = open_files(data)
    tops = _children(files.folders)
    if len(tops) == 1 and not {"train", "test"} & tops and _children(files.below(min(tops)).folders):
        files = files.below(min(tops))
        tops = _children(files.folders)
    if not files.images:
        raise BadData(f"{data} has no images ({', '.join(_images.SUFFIXES)}): expected {EXPECTED}")
    found = ClassFolders(files, _divided(files, tops) if {"train", "test"} & tops else {"": _groups(files)})
    _check(found)
    return found


def _children(folders: Iterable[str]) -> set[str]:
    return {name for name in folders if "/" not in name}


def _groups(files: Files) -> Groups:
    """The images by class folder; images outside of class folders have no label and are ignored."""
    groups: dict[str, list[str]] = {name: [] for name in sorted(_children(files.folders))}
    for name in files.images:
        folder, slash, _ = name.partition("/")
        if slash:
            groups[folder].append(name)
    return groups


def _divided(files: Files, tops: set[str]) -> dict[str, Groups]:
    if not {"train", "test"} <= tops:
        found, missing = ("train", "test") if "train" in tops else ("test", "train")
        raise BadData(f"{files.where()} has {found}/ but no {missing}/: expected {EXPECTED}")
    validation = sorted({"val", "validation"} & tops)
    if len(validation) > 1:
        raise BadData(f"{files.where()} has both val/ and validation/: keep one of them")
    folders = {"train": "train", "test": "test"} | ({"validation": validation[0]} if validation else {})
    return {
        split: {label: [f"{folder}/{name}" for name in names] for label, names in _groups(files.below(folder)).items()}
        for split, folder in folders.items()
    }


def _check(found: ClassFolders) -> None:
    where = found.files.where
    for split, groups in found.groups.items():
        folder = f"{split}/" if split else ""
        if not groups:
            raise BadData(f"{where(folder)} has no class folders: expected {EXPECTED}")
        if len(groups) < 2:
            raise BadData(f"{where(folder)} has only one class folder, {min(groups)!r}: expected at least two")
        unmatched = sorted(set(groups) ^ set(found.names))
        if unmatched:
            raise BadData(f"{where(folder)}: class {unmatched[0]!r} is not in every split; all need the same classes")
        for label, names in groups.items():
            need = _needed(found, split)
            if len(names) < need:
                count = f"{len(names)} image{'' if len(names) == 1 else 's'}" if names else "no image"
                raise BadData(f"{where(folder + label)}: the class folder has {count}; expected at least {need}")


def _needed(found: ClassFolders, split: str) -> int:
    """How many images per class a folder needs so that every split made from it gets at least one."""
    if not split:
        return len(SPLITS)
    return 2 if split == "train" and "validation" not in found.groups else 1


# -- loading -----------------------------------------------------------------------------------------------------------


def load(found: ClassFolders, classes: Sequence[str], split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS, with labels as indices into `classes`. Hashes the files without decoding them.

    Raises:
        BadData: a file cannot be read.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    _splits.check_split(split)
    _images.check(preprocessing)
    samples = _members(found, {name: label for label, name in enumerate(classes)}, split)
    return _splits.make(samples, _ImageReader(found.files), preprocessing)


def _members(found: ClassFolders, labels: Mapping[str, int], split: str) -> list[Sample]:
    """The samples of a split: the source's own split, or a part of its train split, or of all samples."""
    share = _splits.VALIDATION_SHARE
    if not found.divided:
        test, rest = _splits.divide(_samples(found.files, found.groups[""], labels), share, "test")
        validation, train = _splits.divide(rest, share / (1 - share), "validation")
        return {"train": train, "validation": validation, "test": test}[split]
    if split == "test" or "validation" in found.groups:
        return _samples(found.files, found.groups[split], labels)
    validation, train = _splits.divide(_samples(found.files, found.groups["train"], labels), share, "validation")
    return validation if split == "validation" else train


def _samples(files: Files, groups: Groups, labels: Mapping[str, int]) -> list[Sample]:
    names = [(name, labels[label]) for label, members in groups.items() for name in members]
    hashed = bar(names, f"hashing {files.where()}", len(names), "file")
    return [Sample(name, label, files.sha256(name)) for name, label in hashed]
