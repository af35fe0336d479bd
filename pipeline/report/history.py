"""Trends of measurements: a table with sparklines at the terminal, and a section with charts in the report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report import terminal
from pipeline.results.history import ACCURACY, INSTRUCTIONS, LATENCY, SIZE
from pipeline.results.trends import History, Point, Step, Trend

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""A sparkline shows this many of the latest points."""

NAMES = {LATENCY: "latency, ms", INSTRUCTIONS: "instructions", SIZE: "size, kB", ACCURACY: "accuracy, %"}
HEAD = ("recipe", "target", "figure", "trend", "measured", "latest", "change")


def parts(found: History) -> list[RenderableType]:
    """For `terminal.show`: a table for each model and device, then breaks and steps by time."""
    made: list[RenderableType] = []
    for place, group in groupby(found.trends, _place):
        own = list(group)
        lines = [
            (
                *(one.recipe, one.target, NAMES[one.figure], sparkline(one.points), str(len(one.points))),
                *(value(one.figure, one.points[-1].value), change(one.figure, one.change)),
            )
            for one in own
        ]
        made += [*([""] if made else []), place, terminal.table(HEAD, lines, left=4), *events(own)]
    return made or ["no measurements in the history: inv history --add"]


def _place(one: Trend) -> str:
    threads = "" if one.threads == 1 else f", {one.threads} threads"
    return formatting.one_line(f"{one.model} ({one.framework}) on {one.device}{threads}")


def sparkline(points: Sequence[Point]) -> str:
    """The latest values as bars, with | where conditions changed."""
    points = points[-WIDTH:]
    values = [point.value for point in points]
    low, high = min(values), max(values)
    text = ""
    for i, point in enumerate(points):
        text += "|" if i and point.segment != points[i - 1].segment else ""
        text += BARS[round((len(BARS) - 1) * (point.value - low) / (high - low))] if high > low else BARS[3]
    return text


def value(figure: str, number: float) -> str:
    """A value in the unit of NAMES."""
    if figure == ACCURACY:
        return formatting.percent(number)
    if figure == INSTRUCTIONS:
        return f"{number:,.0f}"
    return f"{number / 1000:,.1f}" if figure == SIZE else formatting.figure(number)


def change(figure: str, number: float | None) -> str:
    """A change: +1.2 %, or points of accuracy."""
    if number is None:
        return NONE
    return f"{formatting.points(number)} points" if figure == ACCURACY else f"{100 * (number - 1):+.1f} %"


def events(trends: Sequence[Trend]) -> list[str]:
    """A line for each break and each step, by time. Trends that broke together share a line."""
    breaks: dict[tuple[str, tuple[str, ...]], list[Trend]] = {}
    found = []
    for one in trends:
        for each in one.breaks:
            breaks.setdefault((each.at, each.changed), []).append(one)
        found += [(step.at, f"step: {_name(one)}: {_step(one.figure, step)}") for step in one.steps]
    for (at, changed), own in breaks.items():
        names = formatting.listed(dict.fromkeys(_name(one) for one in own), 3)
        found.append((at, f"new conditions: {'; '.join(changed)}: {names}"))
    return [formatting.one_line(f"{at[:10]} {text}") for at, text in sorted(found)]


def _name(one: Trend) -> str:
    return f"{one.recipe} on {one.target}, {NAMES[one.figure].split(',')[0]}"


def _step(figure: str, step: Step) -> str:
    ends = f"{value(figure, step.before)} → {value(figure, step.after)} {NAMES[figure].partition(', ')[2]}".rstrip()
    interval = ""
    if step.interval[0] < step.interval[1]:
        interval = f" [{change(figure, step.interval[0])}, {change(figure, step.interval[1])}]"
    about = ", ".join(part for part in (step.commit and step.commit[:12], step.note) if part)
    return f"{ends}, {change(figure, step.change)}{interval}" + (f" ({about})" if about else "")
