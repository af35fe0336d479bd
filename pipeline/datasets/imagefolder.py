"""Any pictures in class folders: --data is a folder or a zip.

Either train/ and test/ (and validation/ or val/) hold the class folders; without validation, a tenth of train is kept
for it. Or there are class folders only, which are divided 80/10/10. Divisions go class by class and by content.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core import Preprocessing
from pipeline.datasets import Split, _class_folders
from pipeline.errors import BadData

EMBEDDED = False
SUMMARY = "your pictures in class folders: --data is a folder or a zip"


def classes(data: Path | None) -> tuple[str, ...]:
    """Names of the class folders, sorted.

    Raises:
        BadData: no path is given, or it is missing, corrupt, empty or not of this form.
    """
    return _find(data).names


def load(data: Path | None, split: str, preprocessing: Preprocessing) -> Split:
    """One of SPLITS; pictures are uint8 (crop, crop, channels), 0–255.

    Raises:
        BadData: as `classes`; a picture that cannot be decoded is named when it is read.
        BadOption: there is no such split.
        BadModel: the preprocessing cannot be done.
    """
    found = _find(data)
    return _class_folders.load(found, found.names, split, preprocessing)


def _find(data: Path | None) -> _class_folders.ClassFolders:
    if data is None:
        raise BadData(f"imagefolder needs --data PATH: a folder or a zip with {_class_folders.FORM}")
    return _class_folders.find(data)
