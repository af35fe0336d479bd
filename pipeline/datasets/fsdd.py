"""Spoken digits of six speakers: --data is the folder or a zip of the Free Spoken Digit Dataset.

3,000 WAV files of 8 kHz, named digit_speaker_index.wav. The test split is the source's: indices 0 to 4. Validation is a
tenth of the rest, of each digit, by content. All speakers are in all splits.

Source: github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pipeline.core import Audio
from pipeline.datasets import Split, _audio, _files, _splits
from pipeline.errors import BadData

EMBEDDED = False
IMAGES = False
SUMMARY = "spoken digits of six speakers: --data is the Free Spoken Digit Dataset"

CLASSES = tuple("0123456789")
RECORDING = re.compile(r"([0-9])_[^_/]+_([0-9]+)\.wav")
TEST_INDICES = range(5)


def classes(data: Path | None) -> tuple[str, ...]:
    """The digits' names, "0" to "9".

    Raises:
        BadData: no path is given, or it has no recordings.
    """
    _sounds(_given(data))
    return CLASSES


def load(data: Path | None, split: str, preprocessing: Audio) -> Split:
    """One of SPLITS; inputs are float32 (samples,).

    Raises:
        BadData: as `classes`.
        BadOption: unknown split.
    """
    _splits.check_split(split)
    test: list[_audio.Sound] = []
    rest: list[_audio.Sound] = []
    for sound, index in _sounds(_given(data)):
        (test if index in TEST_INDICES else rest).append(sound)
    return _audio.split(test if split == "test" else _audio.training(rest, split), preprocessing)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData("fsdd needs --data PATH: the folder or a zip with the recordings 0_george_0.wav …")
    return data


@cache
def _sounds(data: Path) -> tuple[tuple[_audio.Sound, int], ...]:
    """Every recording with its index."""
    found = []
    for name, content in _files.read(data, lambda name: RECORDING.fullmatch(name.rpartition("/")[2]) is not None):
        match = RECORDING.fullmatch(name.rpartition("/")[2])
        assert match is not None
        found.append((_audio.Sound(name, int(match[1]), content), int(match[2])))
    if not found:
        raise BadData(f"{data} has no recordings: files with names such as 0_george_0.wav")
    return tuple(found)
