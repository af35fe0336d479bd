"""Trends of measurements: a table with sparklines at the terminal, and a section with charts in the report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report import figures, terminal
from pipeline.report.page import Block, Section, Table, numbers, texts
from pipeline.results.history import ACCURACY, INSTRUCTIONS, LATENCY, SIZE
from pipeline.results.trends import History, Point, Step, Trend

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""A sparkline shows this many of the latest points."""

NAMES = {LATENCY: "latency, ms", INSTRUCTIONS: "instructions", SIZE: "size, kB", ACCURACY: "accuracy, %"}
CAPTION = (
    "Medians over the processes of each measurement. A dotted line marks where hardware, runtime or method changed; "
    "figures on its two sides are not compared. A star marks a step that is told from noise."
)
HEAD = ("recipe", "target", "figure", "trend", "measured", "latest", "change")


def parts(found: History) -> list[RenderableType]:
    """For `terminal.show`: a table for each model and device, then breaks and steps by time."""
    made: list[RenderableType] = []
    for place, own in _places(found):
        made += [*([""] if made else []), place, terminal.table(HEAD, _lines(own), left=4), *events(own)]
    return made or ["no measurements in the history: inv history --add"]


def section(found: History) -> Section:
    """The trends as a section of the report: a chart, a table, and the breaks and steps of each model and device."""
    blocks = []
    for number, (place, own) in enumerate(_places(found)):
        chart = figures.html(_chart(own), f"history-{number}")
        table = Table((*texts(*HEAD[:4]), *numbers(*HEAD[4:])), tuple(_lines(own)))
        blocks += [Block(place, chart=chart, table=table, caption=CAPTION), Block(points=tuple(events(own)))]
    left = tuple(f"{one.file} is not shown: {one.reason}" for one in found.left_out)
    shown = [block for block in (*blocks, Block(points=left)) if block.chart or block.points]
    return Section("history", "History", blocks=tuple(shown), nothing="The history has no measurements.")


def _places(found: History) -> list[tuple[str, list[Trend]]]:
    """The trends of each model on each device."""
    ordered = sorted(found.trends, key=_place)
    return [(place, list(group)) for place, group in groupby(ordered, _place)]


def _lines(own: Sequence[Trend]) -> list[tuple[str, ...]]:
    return [
        (
            *(one.recipe, one.target, NAMES[one.figure], sparkline(one.points), str(len(one.points))),
            *(value(one.figure, one.points[-1].value), change(one.figure, one.change)),
        )
        for one in own
    ]


def _chart(own: Sequence[Trend]) -> Any:
    """Each figure over time, one line per file. A line ends where conditions change, and a star marks a step."""
    from plotly.subplots import make_subplots

    shown = [figure for figure in NAMES if any(one.figure == figure for one in own)]
    files = list(dict.fromkeys(_file(one) for one in own))
    chart = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    named = set[str]()
    for one in own:
        place, row = files.index(_file(one)), shown.index(one.figure) + 1
        color = figures.COLORS[place % len(figures.COLORS)]
        name = figures.safe(formatting.one_line(_file(one)))
        times, values = _line(one)
        chart.add_scatter(
            x=times,
            y=values,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            line={"color": color, "width": 1.5},
            marker={"symbol": figures.SYMBOLS[place // len(figures.COLORS) % len(figures.SYMBOLS)], "size": 6},
            row=row,
            col=1,
        )
        named.add(name)
        if one.steps:
            at = {point.at: point.value for point in one.points}
            chart.add_scatter(
                x=[step.at for step in one.steps],
                y=[_scaled(one.figure, at[step.at]) for step in one.steps],
                mode="markers",
                name="step",
                legendgroup=name,
                showlegend=False,
                marker={"symbol": "star", "size": 14, "color": color, "line": {"color": figures.SOFT, "width": 1}},
                text=[figures.safe(formatting.one_line(_step(one.figure, step))) for step in one.steps],
                hovertemplate="%{text}<extra></extra>",
                row=row,
                col=1,
            )
    for row, figure in enumerate(shown, 1):
        chart.update_yaxes(title=NAMES[figure], row=row, col=1)
        for time in sorted({gap.at for one in own if one.figure == figure for gap in one.breaks}):
            chart.add_vline(x=time, line_width=1, line_dash="dot", line_color=figures.SOFT, row=row, col=1)
    chart.update_layout(height=120 + 190 * len(shown))
    return chart


def _file(one: Trend) -> str:
    return f"{one.recipe} on {one.target}"


def _line(one: Trend) -> tuple[list[str], list[float | None]]:
    """The points of a trend, with a gap before each new segment."""
    times, values = list[str](), list[float | None]()
    for i, point in enumerate(one.points):
        if i and point.segment != one.points[i - 1].segment:
            times.append(point.at)
            values.append(None)
        times.append(point.at)
        values.append(_scaled(one.figure, point.value))
    return times, values


def _scaled(figure: str, number: float) -> float:
    """A value in the unit of NAMES, for an axis."""
    return 100 * number if figure == ACCURACY else number / 1000 if figure == SIZE else number


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
    if figure == SIZE:
        return f"{number / 1000:,.1f}"
    return f"{number:.3g}" if number < 1 else formatting.figure(number)


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
        names = formatting.listed(dict.fromkeys(_file(one) for one in own), 3)
        found.append((at, f"new conditions: {'; '.join(changed)}: {names}"))
    return [formatting.one_line(f"{at[:10]} {text}") for at, text in sorted(found)]


def _name(one: Trend) -> str:
    return f"{_file(one)}, {NAMES[one.figure].split(',')[0]}"


def _step(figure: str, step: Step) -> str:
    ends = f"{value(figure, step.before)} → {value(figure, step.after)} {NAMES[figure].partition(', ')[2]}".rstrip()
    interval = ""
    if step.interval[0] < step.interval[1]:
        interval = f" [{change(figure, step.interval[0])}, {change(figure, step.interval[1])}]"
    about = ", ".join(part for part in (step.commit and step.commit[:12], step.note) if part)
    return f"{ends}, {change(figure, step.change)}{interval}" + (f" ({about})" if about else "")
