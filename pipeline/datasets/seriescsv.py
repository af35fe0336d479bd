"""Series of numbers with labelled anomalies, in the format of the Numenta Anomaly Benchmark (NAB): --data is a folder
or a zip.

Each series is a CSV file with a header: a timestamp (ISO 8601) and one value or several. One JSON file, whose name ends
with windows.json, has the anomalies: for each CSV file, by the end of its path, a list of [first, last] timestamps.

A sample is a window of 64 readings, (64, values); it is an anomaly if a labelled period touches it. Each series is
divided in time: the first 64.8 % are for training, the last 28 % are the test split, and validation lies between. No
reading is in two windows, except in training, where a window begins every 16 readings. A window that an earlier split
also has, as a series without noise may, is left out.

Each value is in standard deviations from the mean of its series' first 15 %, which NAB gives every detector to get used
to a series, and is cut at 10 deviations. An app does the same with its sensor.

Source: A. Lavin and S. Ahmad, Evaluating Real-Time Anomaly Detection Algorithms, 2015 (arXiv:1510.03336).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import Standardization
from pipeline.datasets import SPLITS, Split, _arrays, _files, _splits
from pipeline.errors import BadData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = False
SUMMARY = "series in CSV files with labelled anomalies, as NAB: --data is a folder or a zip"

CLASSES = ("normal", "anomaly")
WINDOW, STEP = 64, 16
PROBATION, LARGEST = 0.15, 10.0
WINDOWS = "windows.json"

Periods = Sequence[tuple[datetime, datetime]]


def classes(data: Path | None) -> tuple[str, ...]:
    """Normal and anomaly.

    Raises:
        BadData: no path is given, or it has no series, or a file that cannot be read.
    """
    _source(_given(data))
    return CLASSES


def load(data: Path | None, split: str, preprocessing: Standardization) -> Split:
    """One of SPLITS; inputs are float32 (WINDOW, values).

    Raises:
        BadData: as `classes`.
        BadOption: unknown split.
    """
    _splits.check_split(split)
    arrays, places = _source(_given(data))
    return _arrays.divided_by_place(arrays, places, split)


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"seriescsv needs --data PATH: a folder or a zip with CSV files and a file *{WINDOWS}")
    return data


@cache
def _source(data: Path) -> tuple[_arrays.Arrays, NDArray[np.str_]]:
    """All windows, and the split of each."""
    import numpy as np

    files = dict(_files.read(data, lambda name: name.endswith((".csv", WINDOWS))))
    series = [name for name in files if name.endswith(".csv")]
    if not series:
        raise BadData(f"{data} has no CSV files")
    periods = _periods(data, files, series)
    inputs, labels, places = [], [], []
    width = None
    for name in series:
        times, values = _readings(files[name].decode("utf-8", "replace"), f"{data}: {name}")
        width = width or values.shape[1]
        if values.shape[1] != width:
            raise BadData(f"{data}: {name} has {values.shape[1]} values in a row, and {series[0]} has {width}")
        anomalous = np.zeros(len(times), bool)
        for first, last in periods[name]:
            anomalous |= _within(times, first, last, f"{data}: {name}")
        scaled = _scaled(values)
        for split, start in _starts(len(times)):
            inputs.append(scaled[start : start + WINDOW])
            labels.append(int(anomalous[start : start + WINDOW].any()))
            places.append(split)
    if not inputs:
        raise BadData(f"{data}: no series is long enough for a window of {WINDOW} readings")
    kept = _first_of_equal(inputs, places)
    arrays = _arrays.Arrays(np.stack(inputs)[kept], np.array(labels, np.int64)[kept])
    return arrays, np.array(places)[kept]


def _starts(readings: int) -> list[tuple[str, int]]:
    """The split and the first reading of each window of a series."""
    test = 1 - _splits.TEST_SHARE
    ends = [round(readings * share) for share in (0, test * (1 - _splits.VALIDATION_SHARE), test, 1)]
    return [
        (split, start)
        for split, begin, end in zip(SPLITS, ends, ends[1:], strict=False)
        for start in range(begin, end - WINDOW + 1, STEP if split == "train" else WINDOW)
    ]


def _first_of_equal(inputs: Sequence[NDArray[np.float32]], places: Sequence[str]) -> list[int]:
    """The windows that no earlier split has."""
    first: dict[bytes, int] = {}
    contents = [values.tobytes() for values in inputs]
    for content, place in zip(contents, places, strict=True):
        first[content] = min(first.get(content, len(SPLITS)), SPLITS.index(place))
    return [i for i, content in enumerate(contents) if first[content] == SPLITS.index(places[i])]


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """In standard deviations of the first readings; a value that hardly varies there in thousandths of its size."""
    import numpy as np

    known = values[: max(1, int(PROBATION * len(values)))]
    mean = known.mean(axis=0)
    unit = np.maximum(known.std(axis=0), 1e-3 * np.abs(mean))
    return np.asarray(np.clip((values - mean) / np.where(unit > 0, unit, 1.0), -LARGEST, LARGEST), np.float32)


def _readings(text: str, where: str) -> tuple[list[datetime], NDArray[np.float64]]:
    """The timestamps of a series, and its values (N, values)."""
    import numpy as np

    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    if len(header) < 2 or header[0].strip().lower() != "timestamp":
        raise BadData(f"{where}, line 1: expected a header as timestamp,value, not {','.join(header)!r}")
    times, values = [], []
    try:
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields, and the header has {len(header)}")
            times.append(datetime.fromisoformat(row[0].strip()))
            values.append([float(value) for value in row[1:]])
            if not all(map(math.isfinite, values[-1])):
                raise ValueError(f"{','.join(row[1:])!r} is not finite")
    except (ValueError, csv.Error) as error:
        raise BadData(f"{where}, line {rows.line_num}: {error}") from error
    return times, np.array(values, np.float64).reshape(-1, len(header) - 1)


def _within(times: Sequence[datetime], first: datetime, last: datetime, where: str) -> NDArray[np.bool_]:
    import numpy as np

    try:
        return np.array([first <= time <= last for time in times])
    except TypeError as error:
        raise BadData(f"{where}: some timestamps have a time zone, and others of it or its anomalies none") from error


def _periods(data: Path, files: dict[str, bytes], series: list[str]) -> dict[str, Periods]:
    """The anomalies of each series."""
    found = [name for name in files if name.endswith(WINDOWS)]
    if len(found) != 1:
        raise BadData(f"{data} needs one file *{WINDOWS} with the anomalies, and has {len(found)}: {found}")
    where = f"{data}: {found[0]}"
    try:
        content: Any = json.loads(files[found[0]])
    except ValueError as error:
        raise BadData(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadData(f"{where}: expected an object with a list for each CSV file")
    periods: dict[str, Periods] = dict.fromkeys(series, ())
    for key, value in content.items():
        names = [name for name in series if name == key or name.endswith(f"/{key}")]
        if len(names) != 1:
            raise BadData(f"{where}: {key!r} is the name of {len(names)} CSV files, not of one")
        try:
            periods[names[0]] = [(datetime.fromisoformat(first), datetime.fromisoformat(last)) for first, last in value]
        except (TypeError, ValueError) as error:
            raise BadData(f"{where}: {key!r} needs a list of [first, last] timestamps: {error}") from error
    return periods
