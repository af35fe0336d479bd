"""Trends of a history: each figure of a file on a device over time, broken where conditions changed, with its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median, variance

from pipeline import formatting
from pipeline.errors import UnknownName
from pipeline.results.history import ACCURACY, INSTRUCTIONS, LATENCY, SIZE, Entry, LeftOut, read
from pipeline.results.steps import FEWEST, steps

CONDITIONS = {
    LATENCY: ("hardware", "runtime", "method"),
    INSTRUCTIONS: ("hardware", "runtime", "method"),
    SIZE: (),
    ACCURACY: ("hardware", "runtime", "metric", "samples", "dataset_sha256"),
}
"""Each figure, and the fields of `Entry` that break its trend where they change."""

SERIES = ("model", "framework", "recipe", "target", "device", "threads")
"""The fields of `Entry` that tell trends apart."""

LEAST = 0.01
"""Smaller steps are not reported, as a share. Accuracy has no such limit."""


@dataclass(frozen=True)
class Point:
    """One value of a trend.

    Attributes:
        value: of latency and instructions, the median over the processes.
        segment: points with the same number were measured under the same conditions.
        variance: of the logarithm of a latency, as far as the spread of the processes shows it; of an accuracy, the
            largest one that these samples can have.
        throttled: such a latency is shown but not tested.
    """

    at: str
    value: float
    segment: int
    artifact_sha256: str
    variance: float
    throttled: bool
    commit: str | None
    note: str


@dataclass(frozen=True)
class Break:
    """Where conditions changed, so that figures before and after are not compared.

    Attributes:
        changed: for example "runtime: litert 2.2.0 → litert 2.3.0".
    """

    at: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A change of a figure under the same conditions.

    Attributes:
        at, commit, note: of the first measurement after it.
        before, after: typical values between this step and the adjacent ones.
        change: after / before; of accuracy, after - before in points.
        interval: of the change, 95 %; no width for figures without noise.
        p: adjusted p-value; 0 for figures without noise.
    """

    at: str
    before: float
    after: float
    change: float
    interval: tuple[float, float]
    p: float
    commit: str | None
    note: str


@dataclass(frozen=True)
class Trend:
    """A figure of one file on one device over time."""

    model: str
    framework: str
    recipe: str
    target: str
    device: str
    threads: int
    figure: str
    points: tuple[Point, ...]
    breaks: tuple[Break, ...]
    steps: tuple[Step, ...] = ()

    @property
    def change(self) -> float | None:
        """Of the latest value against the one before: the ratio; of accuracy the points. None across a break."""
        if len(self.points) == 1 or self.points[-2].segment != self.points[-1].segment:
            return None
        before, latest = self.points[-2:]
        return _change(self.figure, before.value, latest.value)


@dataclass(frozen=True)
class History:
    """The trends of a folder, and the files that are not part of them."""

    trends: tuple[Trend, ...]
    left_out: tuple[LeftOut, ...] = ()


def history(folder: Path, chosen: Mapping[str, Sequence[str]] | None = None) -> History:
    """The trends of a folder.

    Args:
        chosen: for names of fields of `Entry`, the values to show.

    Raises:
        BadOption: there is no such folder.
        UnknownName: no entry has one of these values.
    """
    entries, left_out = read(folder)
    for field, names in (chosen or {}).items():
        known = {getattr(one, field) for one in entries}
        for name in names:
            if name not in known:
                raise UnknownName(f"{field} in the history", name, known)
        entries = [one for one in entries if getattr(one, field) in names]
    return History(tuple(trends(entries)), tuple(left_out))


def trends(entries: Sequence[Entry]) -> list[Trend]:
    """The trends of entries that are sorted by time, with their steps. All are tested together."""

    def series(one: Entry) -> tuple[str | int, ...]:
        return tuple(getattr(one, name) for name in SERIES)

    groups = [list(group) for _, group in groupby(sorted(entries, key=series), series)]
    found = [trend for group in groups for figure in CONDITIONS if (trend := _trend(group, figure)).points]
    tests = sum(len(part) >= FEWEST for trend in found if _noisy(trend.figure) for part in _parts(trend))
    return [replace(trend, steps=tuple(_steps(trend, max(1, tests)))) for trend in found]


def _noisy(figure: str) -> bool:
    return figure in (LATENCY, ACCURACY)


def _trend(entries: Sequence[Entry], figure: str) -> Trend:
    points, breaks = list[Point](), list[Break]()
    last: Entry | None = None
    for one in entries:
        if figure in (LATENCY, INSTRUCTIONS) and (one.figure != figure or not one.medians):
            continue
        changed = tuple(_changed(last, one, CONDITIONS[figure])) if last else ()
        if changed:
            breaks.append(Break(one.at, changed))
        points.append(_point(one, figure, len(breaks)))
        last = one
    first = {name: getattr(entries[0], name) for name in SERIES}
    return Trend(**first, figure=figure, points=tuple(points), breaks=tuple(breaks))


def _changed(last: Entry, one: Entry, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        old, new = (formatting.one_line(str(getattr(each, name))) for each in (last, one))
        if old != new:
            short = slice(8) if name.endswith("sha256") else slice(200)
            yield f"{name}: {old[short]} → {new[short]}"


def _point(one: Entry, figure: str, segment: int) -> Point:
    value, known = float(getattr(one, figure, 0.0)), 0.0
    if figure in (LATENCY, INSTRUCTIONS):
        value = float(median(one.medians))
        if len(one.medians) > 1:  # the variance of a median is π/2 times that of a mean of normal values
            known = math.pi / 2 * variance(map(math.log, one.medians)) / len(one.medians)
    elif figure == ACCURACY:
        known = max(0.0, value * (1 - value)) / one.samples
    return Point(one.at, value, segment, one.artifact_sha256, known, one.throttled, one.commit, one.note)


def _parts(trend: Trend) -> list[list[Point]]:
    """The points to test, by segment. The accuracy of one file does not change, so each file counts once."""
    parts = [list(group) for _, group in groupby(trend.points, key=lambda point: point.segment)]
    if trend.figure == ACCURACY:
        return [[next(same) for _, same in groupby(part, lambda point: point.artifact_sha256)] for part in parts]
    return [[point for point in part if not (point.throttled and trend.figure == LATENCY)] for part in parts]


def _change(figure: str, before: float, after: float) -> float:
    return 100 * (after - before) if figure == ACCURACY else after / before


def _steps(trend: Trend, tests: int) -> Iterator[Step]:
    for part in _parts(trend):
        yield from _noisy_steps(trend.figure, part, tests) if _noisy(trend.figure) else _exact_steps(trend.figure, part)


def _exact_steps(figure: str, part: Sequence[Point]) -> Iterator[Step]:
    """Where a figure left the value that it had after the last step."""
    before = part[0]
    for point in part[1:]:
        change = _change(figure, before.value, point.value)
        if abs(change - 1) >= LEAST:
            yield Step(point.at, before.value, point.value, change, (change, change), 0.0, point.commit, point.note)
            before = point


def _noisy_steps(figure: str, part: Sequence[Point], tests: int) -> Iterator[Step]:
    if len(part) < FEWEST:
        return
    logarithms = figure == LATENCY
    values = [math.log(point.value) if logarithms else point.value for point in part]
    for found in steps(values, sum(point.variance for point in part) / len(part), tests):
        point, (low, high) = part[found.index], found.interval
        ends = (math.exp(found.before), math.exp(found.after)) if logarithms else (found.before, found.after)
        change, interval = _change(figure, *ends), (100 * low, 100 * high)
        if logarithms:
            interval = math.exp(low), math.exp(high)
        if not logarithms or abs(change - 1) >= LEAST:
            yield Step(point.at, *ends, change, interval, found.p, point.commit, point.note)
