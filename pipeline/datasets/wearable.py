"""Activities of older people by a sensor on the chest: --data is the folder or a zip of UCI's dataset 427.

Each file is one trial of one person, one reading a line: seconds, acceleration (frontal, vertical, lateral, in g),
antenna, signal strength (dBm), phase, frequency and activity (1 to 4). A sample is a window of 32 readings with the
activity of the last one; a window begins every 8 readings. Its channels are the three accelerations, the signal
strength and the seconds since the reading before, at most 10. Readings come when an antenna sees the sensor, so they
are irregular.

A trial is in one split only: the test split has 28 % of the samples, and validation a tenth of the rest.

Source: R. Torres, R. Visvanathan and D. Ranasinghe, Activity recognition with healthy older people using a batteryless
wearable sensor, UCI Machine Learning Repository, 2016, doi:10.24432/C5GG6B.
"""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import Standardization
from pipeline.datasets import Split, _arrays, _files, _splits
from pipeline.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = False
SUMMARY = "87 trials of a wearable sensor, 4 activities: --data is UCI's dataset 427"

CLASSES = ("sits on the bed", "sits on a chair", "lies", "walks")
READINGS, STEP, LONGEST_GAP = 32, 8, 10.0
TRIAL = re.compile(r"d\d+p\d+[FM]")
COLUMNS = 9


def classes(data: Path | None) -> tuple[str, ...]:
    """The four activities.

    Raises:
        BadData: no path is given, or it has no trials.
    """
    _source(_given(data))
    return CLASSES


def load(data: Path | None, split: str, preprocessing: Standardization) -> Split:
    """One of SPLITS; inputs are float32 (32, 5).

    Raises:
        BadData: as `classes`.
        BadOption: unknown split.
    """
    _splits.check_split(split)
    arrays, trials = _source(_given(data))
    return _arrays.divided_by_group(arrays, trials, split, _splits.TEST_SHARE)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData("wearable needs --data PATH: the folder or a zip with the trials d1p01M, d1p02F …")
    return data


@cache
def _source(data: Path) -> tuple[_arrays.Arrays, NDArray[np.str_]]:
    """All windows, and the trial of each."""
    import numpy as np

    inputs, labels, trials = [], [], []
    for name, content in _files.read(data, lambda name: TRIAL.fullmatch(name.rpartition("/")[2]) is not None):
        windows, activities = _windows(_readings(content, f"{data}: {name}"))
        inputs.append(windows)
        labels.append(activities)
        trials += [name] * len(windows)
    if not inputs:
        raise BadData(f"{data} has no trials: files with names such as d1p01M")
    return _arrays.Arrays(np.concatenate(inputs), np.concatenate(labels)), np.array(trials)


def _readings(content: bytes, where: str) -> NDArray[np.float64]:
    """The readings of a trial, (N, 9)."""
    import numpy as np

    try:
        found = np.loadtxt(io.BytesIO(content), delimiter=",", ndmin=2)
    except ValueError as error:
        raise BadData(f"{where}: {error}") from error
    if found.shape[1:] != (COLUMNS,) or not np.isfinite(found).all():
        raise BadData(f"{where} has {found.shape[1]} columns, not {COLUMNS}, or values that are no numbers")
    wrong = np.flatnonzero(~np.isin(found[:, 8], (1, 2, 3, 4)))
    if len(wrong):
        raise BadData(f"{where}, line {wrong[0] + 1}: activity {found[wrong[0], 8]:g} is not one of 1 to 4")
    return found


def _windows(readings: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows (N, 32, 5), and the activity at the end of each."""
    import numpy as np

    gaps = np.clip(np.diff(readings[:, 0], prepend=readings[:1, 0]), 0, LONGEST_GAP)
    channels = np.column_stack([readings[:, 1:4], readings[:, 5], gaps]).astype(np.float32)
    ends = np.arange(READINGS, len(readings) + 1, STEP)
    windows = [channels[end - READINGS : end] for end in ends]
    stacked = np.stack(windows) if windows else np.empty((0, READINGS, channels.shape[1]), np.float32)
    return stacked, readings[ends - 1, 8].astype(np.int64) - 1
