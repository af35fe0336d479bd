"""Class folders: what labels pictures by the folder they are in. Shared by the datasets that come in this form."""

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

FORM = "class folders with pictures, or train/ and test/ (and validation/ or val/) with class folders"

Groups = Mapping[str, Sequence[str]]
"""Class → names of its pictures."""


@dataclass(frozen=True)
class ClassFolders:
    """What was found.

    Attributes:
        groups: by split, for those splits that have a folder of their own; by "" where there are only class folders.
    """

    files: Files
    groups: Mapping[str, Groups]

    @property
    def divided(self) -> bool:
        """Whether the source says what is train and what is test."""
        return "" not in self.groups

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted(next(iter(self.groups.values()))))


@dataclass(frozen=True)
class _Picture:
    files: Files

    def __call__(self, sample: Sample, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        return _images.decode(self.files.read(sample.name), self.files.where(sample.name), preprocessing)


# -- finding -----------------------------------------------------------------------------------------------------------


def find(data: Path) -> ClassFolders:
    """The class folders in a folder or zip, which may all be in one folder more; no picture is read.

    Raises:
        BadData: the path is missing, corrupt, empty or not of this form; a class has too few pictures, or is not in
            every split.
    """
    files = open_files(data)
    tops = _children(files.folders)
    if len(tops) == 1 and not {"train", "test"} & tops and _children(files.below(min(tops)).folders):
        files = files.below(min(tops))
        tops = _children(files.folders)
    if not files.pictures:
        raise BadData(f"{data} has no pictures ({', '.join(_images.SUFFIXES)}): expected {FORM}")
    found = ClassFolders(files, _divided(files, tops) if {"train", "test"} & tops else {"": _groups(files)})
    _check(found)
    return found


def _children(folders: Iterable[str]) -> set[str]:
    return {name for name in folders if "/" not in name}


def _groups(files: Files) -> Groups:
    """The pictures by class folder; a picture beside the class folders has no label and is passed over."""
    groups: dict[str, list[str]] = {name: [] for name in sorted(_children(files.folders))}
    for name in files.pictures:
        folder, slash, _ = name.partition("/")
        if slash:
            groups[folder].append(name)
    return groups


def _divided(files: Files, tops: set[str]) -> dict[str, Groups]:
    if not {"train", "test"} <= tops:
        there, missing = ("train", "test") if "train" in tops else ("test", "train")
        raise BadData(f"{files.where()} has {there}/ but no {missing}/: expected {FORM}")
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
            raise BadData(f"{where(folder)} has no class folders: expected {FORM}")
        if len(groups) < 2:
            raise BadData(f"{where(folder)} has one class folder only, {min(groups)!r}: expected at least two classes")
        odd = sorted(set(groups) ^ set(found.names))
        if odd:
            raise BadData(f"{where(folder)}: class {odd[0]!r} is not in every split; expected the same classes in each")
        for label, names in groups.items():
            need = _needed(found, split)
            if len(names) < need:
                count = f"{len(names)} picture{'' if len(names) == 1 else 's'}" if names else "no picture"
                raise BadData(f"{where(folder + label)}: the class folder has {count}; expected at least {need}")


def _needed(found: ClassFolders, split: str) -> int:
    """How many pictures of a class a folder must have for one to be in each split that is made of it."""
    if not split:
        return len(SPLITS)
    return 2 if split == "train" and "validation" not in found.groups else 1


# -- loading -----------------------------------------------------------------------------------------------------------


def load(found: ClassFolders, classes: Sequence[str], split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS, its labels as indices into `classes`. Hashes the files, and decodes none.

    Raises:
        BadData: a file cannot be read.
        BadOption: there is no such split.
        BadModel: the preprocessing cannot be done.
    """
    _splits.check_split(split)
    _images.check(preprocessing)
    samples = _members(found, {name: label for label, name in enumerate(classes)}, split)
    return _splits.make(samples, _Picture(found.files), preprocessing)


def _members(found: ClassFolders, labels: Mapping[str, int], split: str) -> list[Sample]:
    """The samples of a split: the source's own, or those divided from train, or from all."""
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
