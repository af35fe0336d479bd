"""Your own images in class folders: --data is a folder or a zip.

Either train/ and test/ (and optionally validation/) contain the class folders; without validation, a tenth of train is
used for it, and without test/, validation/ is the test split. Or there are only class folders, whose images are split
80/10/10. Splits are made per class, by content. docs/own-model.md has other names of these folders.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _class_folders
from pipeline.errors import BadData

EMBEDDED = False
IMAGES = True
SUMMARY = "your images in class folders: --data is a folder or a zip"


def classes(data: Path | None) -> tuple[str, ...]:
    """Names of the class folders, sorted.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or in another format.
    """
    return _find(data).names


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; images are uint8 (crop, crop, channels), 0–255.

    Raises:
        BadData: as `classes`. An image that cannot be decoded raises BadData when it is read.
        BadOption: unknown split.
        BadModel: the preprocessing is invalid.
    """
    found = _find(data)
    return _class_folders.load(found, found.names, split, preprocessing)


def _find(data: Path | None) -> _class_folders.ClassFolders:
    if data is None:
        raise BadData(f"imagefolder needs --data PATH: a folder or a zip with {_class_folders.EXPECTED}")
    return _class_folders.find(data)
