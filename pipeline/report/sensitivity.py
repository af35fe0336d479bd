"""The sensitivity of a model's layer groups: a table at the terminal, and a page with a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline import formatting
from pipeline.core import Sensitivity
from pipeline.report import figures, terminal
from pipeline.report.page import Block, Section, Table, numbers, texts, web_page
from pipeline.results import noise
from pipeline.results.noise import GroupNoise, Time
from pipeline.stats import decibels

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("group", "layers", "noise", "dB without it", "kB more", "multiply-adds")


def parts(model: str, recipe: str, found: Sensitivity, time: Time | None = None) -> list[RenderableType]:
    """For `terminal.show`."""
    head, lines = _table(noise.groups(found, time), time)
    return [f"{model} {recipe}: {_summary(found)}", terminal.table(head, lines, left=1), _note(time)]


def page(model: str, recipe: str, found: Sensitivity, time: Time | None = None) -> str:
    """A self-contained HTML page."""
    rows = noise.groups(found, time)
    head, lines = _table(rows, time)
    table = Table((*texts(head[0]), *numbers(*head[1:])), tuple(lines))
    block = Block(chart=figures.html(_chart(rows), "sensitivity"), table=table, caption=_note(time))
    title = f"Sensitivity of {model} under {recipe}"
    return web_page([Section("sensitivity", "Noise of each group of layers", _summary(found), (block,))], title)


def _summary(found: Sensitivity) -> str:
    return (
        f"{decibels(1, found.power):.1f} dB measured with everything quantized, "
        f"{decibels(1, found.predicted()):.1f} dB predicted as the sum of the groups, on {found.samples} calibration "
        "samples"
    )


def _note(time: Time | None) -> str:
    note = (
        "noise: the group's share. Half the noise of a tensor between two groups counts for each; the tensor stays "
        "quantized until both are in float. dB without it: predicted with this group alone in float."
    )
    if time is None:
        return note
    return (
        f"{note} ms more: an estimate, the group's share of the multiply-adds times the difference between fp32 "
        f"({time.float_ms:.4g} ms) and int8 ({time.int8_ms:.4g} ms) of {time.target} on {time.device}."
    )


def _table(rows: Sequence[GroupNoise], time: Time | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    lines = [
        (
            row.name,
            str(row.layers),
            f"{row.share:.1%}",
            f"{row.snr_db:.1f}",
            f"{row.bytes_more / 1000:,.1f}",
            f"{row.multiply_adds:.1%}",
            *((formatting.figure(row.ms_more or 0),) if time else ()),
        )
        for row in rows
    ]
    return (*HEAD, *(("ms more",) if time else ())), lines


def _chart(rows: Sequence[GroupNoise]) -> Any:
    """Bars: each group's share of the noise, of the multiply-adds and of the weights."""
    from plotly.subplots import make_subplots

    titles = ("share of the noise, %", "share of the multiply-adds, %", "kB more in float")
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.03)
    names = [figures.safe(row.name) for row in rows]
    for column, values in enumerate(
        (
            [100 * row.share for row in rows],
            [100 * row.multiply_adds for row in rows],
            [row.bytes_more / 1000 for row in rows],
        ),
        start=1,
    ):
        figure.add_bar(
            x=values, y=names, orientation="h", marker_color=figures.COLORS[column - 1], showlegend=False,
            hovertemplate="%{y}: %{x:,.1f}<extra></extra>", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(title=titles[column - 1], row=1, col=column)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    figure.update_layout(height=110 + 22 * len(rows), margin={"b": 50})
    return figure
