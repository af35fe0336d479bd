"""Your own sounds in class folders: --data is a folder or a zip.

Either train/ and test/ (and optionally validation/) contain the class folders; without validation, a tenth of train is
used for it. Or there are only class folders, whose sounds are split by content: 28 % are the test split, and a tenth of
the rest is used for validation. Splits are made per class. WAV, FLAC, OGG, MP3 and AIFF files are read.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.core import Audio
from pipeline.datasets import SPLITS, Split, _audio, _files, _splits
from pipeline.errors import BadData

EMBEDDED = False
IMAGES = False
SUMMARY = "your sounds in class folders: --data is a folder or a zip"

EXPECTED = "class folders of sounds, or train/ and test/ with class folders"


def classes(data: Path | None) -> tuple[str, ...]:
    """Names of the class folders, sorted.

    Raises:
        BadData: no path is given, or it is missing or has no class folders, or fewer than two.
    """
    names = tuple(sorted({label for _, label, _ in _members(_given(data))}))
    if len(names) < 2:
        raise BadData(f"{data} has {len(names)} class folders with sounds; it needs at least two: {EXPECTED}")
    return names


def load(data: Path | None, split: str, preprocessing: Audio) -> Split:
    """One of SPLITS; inputs are float32 (samples,).

    Raises:
        BadData: as `classes`. A sound that cannot be decoded raises BadData when it is read.
        BadOption: unknown split.
    """
    _splits.check_split(split)
    names = classes(data)
    by_split: dict[str, list[_audio.Sound]] = {}
    for place, label, (name, content) in _members(_given(data)):
        by_split.setdefault(place, []).append(_audio.Sound(name, names.index(label), content))
    if set(by_split) == {""}:
        return _audio.split(_audio.divided(by_split[""], split), preprocessing)
    missing = [name for name in ("train", "test") if name not in by_split]
    if missing or "" in by_split:
        raise BadData(f"{data} has {', '.join(sorted(filter(None, by_split)))}: expected {EXPECTED}")
    if "validation" in by_split or split == "test":
        return _audio.split(by_split[split], preprocessing)
    return _audio.split(_audio.training(by_split["train"], split), preprocessing)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"audiofolder needs --data PATH: a folder or a zip with {EXPECTED}")
    return data


@cache
def _members(data: Path) -> tuple[tuple[str, str, tuple[str, bytes]], ...]:
    """(split or "", class, (name, content)) of every sound; a folder around everything is left out."""
    files = list(_files.read(data, lambda name: name.lower().endswith(_audio.SUFFIXES)))
    tops = {name.partition("/")[0] for name, _ in files}
    around = len(tops) == 1 and all(name.count("/") >= 2 for name, _ in files) and not tops & set(SPLITS)
    found = []
    for name, content in files:
        parts = name.split("/")[1 if around else 0 : -1]
        place = parts.pop(0) if parts and parts[0] in SPLITS else ""
        if not parts:
            raise BadData(f"{data}: {name} is in no class folder: expected {EXPECTED}")
        found.append((place, parts[0], (name, content)))
    return tuple(found)
