"""Datasets in class folders: the folder of an image is its label. Shared by imagefolder and cifar10."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, Split, _images, _splits
from pipeline.datasets._image_files import Files, open_files
from pipeline.datasets._splits import Sample
from pipeline.errors import BadData
from pipeline.formatting import listed
from pipeline.system.progress import bar, say_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPECTED = "class folders with images, or train/ and test/ (and validation/ or val/) with class folders"

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Split → names of its folder, in lower case."""

Groups = Mapping[str, Sequence[str]]
"""Class → names of its images."""


@dataclass(frozen=True)
class ClassFolders:
    """The images of a dataset in class folders.

    Attributes:
        groups: by split, for every split with a folder of its own; under "" if there are only class folders.
        folders: the folder of each split in `groups`, with a slash; "" for the whole.
        notes: what a user should know about how the files are used, one line each.
    """

    files: Files
    groups: Mapping[str, Groups]
    folders: Mapping[str, str]
    notes: tuple[str, ...] = ()

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

    Prints how files are used that a user might expect elsewhere.

    Raises:
        BadData: the path is missing, corrupt, empty or in another format; a class has too few images, or is missing
            from a split; a folder beside those of the splits has images.
    """
    whole = files = open_files(data)
    top = ""
    while len(tops := _children(files.folders)) == 1 and not _splits_of(tops):
        inner = files.below(min(tops))
        if not inner.folders:
            break
        files, top = inner, f"{top}{min(tops)}/"
    if not files.images:
        other = f"; {_count(files.unread)} of formats that are not read" if files.unread else ""
        raise BadData(f"{data} has no images{other}: expected {EXPECTED}")
    found = _found(files)
    _check(found)
    for note in (*found.notes, *_unused(whole, top, found)):
        say_once(note)
    return found


def _children(folders: Iterable[str]) -> set[str]:
    return {name for name in folders if "/" not in name}


def _splits_of(tops: set[str]) -> dict[str, list[str]]:
    """Split → its folders among these; none if they are class folders."""
    found = {split: sorted(top for top in tops if top.lower() in names) for split, names in NAMES.items()}
    if not found["train"] and not found["test"] and len(found["validation"]) < 2:  # "valid" may be a class
        return {}
    return {split: folders for split, folders in found.items() if folders}


def _found(files: Files) -> ClassFolders:
    where, tops = files.where(), _children(files.folders)
    splits = _splits_of(tops)
    if not splits:
        return ClassFolders(files, {"": _groups(files)}, {"": ""})
    for split, folders in splits.items():
        if len(folders) > 1:
            both = " and ".join(f"{folder}/" for folder in folders)
            raise BadData(f"{where} has both {both}, which are names of the {split} split: keep one of them")
    named = {split: folders[0] for split, folders in splits.items()}
    used = {name.partition("/")[0] for name in (*files.images, *files.unread) if "/" in name}
    others = sorted(used - set(named.values()))
    if others:
        known = ", ".join(f"{name}/" for names in NAMES.values() for name in names)
        raise BadData(
            f"{where}: {listed(f'{other}/' for other in others)} with images beside "
            f"{', '.join(f'{name}/' for name in named.values())} is not the folder of a split ({known}): "
            "rename it, or move it out of the dataset"
        )
    if "train" not in named:
        have = " and ".join(f"{name}/" for name in named.values())
        raise BadData(f"{where} has {have} but no train/: expected {EXPECTED}")
    train = named["train"]
    if len(named) == 1:
        note = f"{where} has only {train}/: its images are split 80/10/10 into training, validation and test"
        return ClassFolders(files, {"": _groups(files, f"{train}/")}, {"": f"{train}/"}, (note,))
    notes: tuple[str, ...] = ()
    if "test" not in named:
        named["test"] = named.pop("validation")
        share = f"{_splits.VALIDATION_SHARE:.0%}"
        notes = (f"{where} has no test/: {named['test']}/ is the test split, and validation is {share} of {train}/",)
    order: dict[str, str] = {split: f"{named[split]}/" for split in ("train", "test", "validation") if split in named}
    groups = {split: _groups(files, folder) for split, folder in order.items()}
    return ClassFolders(files, groups, order, notes)


def _groups(files: Files, folder: str = "") -> Groups:
    """The images by class folder, of one of the folders (with a slash). Images outside of class folders have no label.

    Class names are in Unicode's composed form, because macOS stores others than Linux.

    Raises:
        BadData: a class name cannot be printed.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(_children(files.below(folder[:-1]).folders if folder else files.folders)):
        if not name.isprintable():
            raise BadData(f"{files.where(folder)}: the class folder {name!r} has characters that cannot be printed")
        groups[unicodedata.normalize("NFC", name)] = []
    for name in files.images:
        label, slash, _ = name.removeprefix(folder).partition("/")
        if slash and name.startswith(folder):
            groups[unicodedata.normalize("NFC", label)].append(name)
    return groups


def _check(found: ClassFolders) -> None:
    where, names = found.files.where, set(found.names)
    for split, groups in found.groups.items():
        folder = found.folders[split]
        if not groups:
            raise BadData(f"{where(folder)} has no class folders: expected {EXPECTED}")
        if len(groups) < 2:
            raise BadData(f"{where(folder)} has only one class folder, {min(groups)!r}: expected at least two")
        only, missing = sorted(set(groups) - names), sorted(names - set(groups))
        if only or missing:
            differences = [f"only {folder} has {listed(map(repr, only))}"] if only else []
            differences += [f"{folder} lacks {listed(map(repr, missing))}"] if missing else []
            raise BadData(
                f"{where()}: {folder} and {found.folders['train']} need the same class folders, but "
                + " and ".join(differences)
            )
        for label, members in groups.items():
            need = _needed(found, split)
            if len(members) < need:
                count = f"{len(members)} image{'' if len(members) == 1 else 's'}" if members else "no image"
                unread = [name for name in found.files.unread if name.startswith(f"{folder}{label}/")]
                other = f" and {_count(unread)} of formats that are not read" if unread else ""
                raise BadData(f"{where(folder + label)}: the class folder has {count}{other}; expected at least {need}")


def _unused(whole: Files, top: str, found: ClassFolders) -> Iterator[str]:
    """A line for each kind of images that are not used as a user might expect.

    Args:
        top: the folder in `whole` where the class folders were found, with a slash.
    """
    if whole.unread:
        first = whole.where(whole.unread[0])
        yield f"{whole.where()}: {_count(whole.unread)} of formats that are not read, first {first}; convert them"
    used = {top + name for groups in found.groups.values() for names in groups.values() for name in names}
    if len(used) < len(whole.images):
        outside = [name for name in whole.images if name not in used]
        first = whole.where(outside[0])
        yield f"{whole.where()}: {_count(outside)} outside of class folders are not used, first {first}"
    deep = [
        name
        for split, groups in found.groups.items()
        for names in groups.values()
        for name in names
        if "/" in name.removeprefix(found.folders[split]).partition("/")[2]
    ]
    if deep:
        first = found.files.where(deep[0])
        yield f"{whole.where()}: {_count(deep)} in sub-folders belong to the class of the outer folder, first {first}"


def _count(names: Sequence[str]) -> str:
    """The number of images, and of each suffix: "3 images (2 .heic, 1 .psd)"."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in names)
    of_each = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return f"{len(names):,} image{'' if len(names) == 1 else 's'} ({of_each})"


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
