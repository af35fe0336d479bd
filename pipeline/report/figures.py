"""The report's Plotly figures, and how a figure becomes HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from typing import Any

from pipeline import formatting
from pipeline.formatting import Unit
from pipeline.report.summary import verdict
from pipeline.results.rows import Row

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""A palette for all kinds of colour vision. Source: Okabe and Ito, "Color Universal Design", 2008."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
PATTERNS = ("", "/", ".", "x", "-", "|")

SOFT = "#888"
"""A line colour that is visible on light and dark backgrounds."""


def trade_off(timed: Sequence[Row], targets: Sequence[str]) -> Any:
    """One line per file, cheapest first: p50 to p99, the accuracy drop with its interval, the file size."""
    from plotly.subplots import make_subplots

    unit = formatting.unit(row.cell for row in timed)
    rows = sorted(timed, key=lambda row: _p50(row, unit))
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, column_widths=[0.46, 0.34, 0.2], horizontal_spacing=0.03)
    for place, target in enumerate(targets):
        own = [row for row in rows if row.cell.target == target]
        if own:
            color = COLORS[place % len(COLORS)]
            style = {"color": color, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 10}
            shared = {"mode": "markers", "name": safe(target), "legendgroup": target, "marker": style}
            figure.add_scatter(**shared, **_latencies(own, unit, color), row=1, col=1)
            figure.add_scatter(**shared, **_drops(own, unit, color), row=1, col=2)
            figure.add_bar(**_kilobytes(own, color), name=safe(target), legendgroup=target, row=1, col=3)
    ends = [_p99(row, unit) for row in rows]
    figure.add_scatter(
        x=ends,
        y=_labels(rows),
        mode="text",
        text=[f"  {unit.text(_cost(row).p50)}" for row in rows],
        textposition="middle right",
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=1,
    )
    low, high = log10(min(_p50(row, unit) for row in rows)), log10(max(ends))
    room = max(0.1 * (high - low), 0.1)
    bounds = [low - room, high + 2 * room]  # leaves room for the labels to the right of the points
    figure.update_xaxes(type="log", range=bounds, tickvals=ticks(*bounds), title=f"p50, {unit.name}", col=1)
    figure.update_xaxes(title="drop, points", zeroline=False, col=2)
    figure.add_vline(x=0, line_width=1, line_dash="dot", line_color=SOFT, row=1, col=2)
    largest = max(row.cell.size_bytes or 0 for row in rows) / 1000
    figure.update_xaxes(title="size, kB", range=[0, 1.45 * largest], col=3)  # leaves room for the labels
    figure.update_yaxes(categoryorder="array", categoryarray=_labels(rows)[::-1], range=[-0.7, len(rows) - 0.3])
    figure.update_layout(height=110 + 22 * len(rows), margin={"b": 50})
    return figure


def _kilobytes(rows: Sequence[Row], color: str) -> dict[str, Any]:
    """A trace of bars: file sizes, with labels."""
    values = [(row.cell.size_bytes or 0) / 1000 for row in rows]
    return {
        "x": values,
        "y": _labels(rows),
        "orientation": "h",
        "marker_color": color,
        "text": [f"{value:,.1f}" for value in values],
        "textposition": "outside",
        "cliponaxis": False,
        "showlegend": False,
        "hovertemplate": "%{y}: %{x:,.1f} kB<extra></extra>",
    }


def sizes(known: Mapping[tuple[str, str], float], targets: Sequence[str], recipes: Sequence[str]) -> Any:
    """A bar chart of file sizes in kB, grouped by recipe.

    Args:
        known: sizes by (target, recipe).
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, target in enumerate(targets):
        values = [known.get((target, recipe)) for recipe in recipes]
        if not any(values):
            continue
        pattern = {"shape": PATTERNS[place % len(PATTERNS)], "size": 6}
        figure.add_bar(
            name=safe(target),
            x=[safe(recipe) for recipe in recipes],
            y=values,
            text=["" if v is None else f"{v:,.1f}" for v in values],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            marker={"color": COLORS[place % len(COLORS)], "pattern": pattern},
            hovertemplate=f"{safe(target)}, %{{x}}: %{{y:,.1f}} kB<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.18, bargroupgap=0.06, uniformtext={"mode": "show", "minsize": 9})
    figure.update_layout(height=340, margin={"b": 30})
    figure.update_yaxes(title="kB", rangemode="tozero")
    return figure


def classes(rows: Sequence[Row], labels: Sequence[str], shown: Sequence[int], texts: Sequence[Sequence[str]]) -> Any:
    """A heatmap: one line per file, one column for each class of `shown`.

    Args:
        texts: the labels of each line's squares.
    """
    import plotly.graph_objects as go

    values = [[row.classes[i][1] for i in shown] for row in rows]
    largest = max(1.0, *(abs(v) for line in values for v in line if v is not None))
    squares = go.Heatmap(
        z=values,
        x=list(range(len(shown))),
        y=list(range(len(rows))),
        zmid=0,
        zmin=-largest,
        zmax=largest,
        colorscale="PuOr_r",
        xgap=1,
        ygap=1,
        showscale=False,
        text=texts,
        texttemplate="%{text}",
        customdata=[[f"{safe(formatting.name(row.cell))}, {safe(labels[i])}" for i in shown] for row in rows],
        hovertemplate="%{customdata}<br>drop %{text} points<extra></extra>",
    )
    figure = go.Figure(squares)
    titles = [_short(labels[i]) for i in shown]
    angle = -35 if max(map(len, titles)) > 3 else 0
    figure.update_xaxes(tickvals=list(range(len(shown))), ticktext=titles, side="top", tickangle=angle, showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=_labels(rows), autorange="reversed", showgrid=False, zeroline=False
    )
    figure.update_layout(height=100 + 26 * len(rows), margin={"b": 10})
    return figure


def html(figure: Any, name: str) -> str:
    """A figure as an HTML fragment without plotly.js. The page's style sheet colours text and lines."""
    figure.update_layout(
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 30},
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    )
    figure.update_xaxes(automargin=True, zerolinewidth=1)
    figure.update_yaxes(automargin=True, zerolinewidth=1)
    figure.update_traces(marker_line_width=0, selector={"type": "bar"})
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"chart-{name}", config=config))


# -- traces of trade_off -----------------------------------------------------------------------------------------------


def _latencies(own: Sequence[Row], unit: Unit, color: str) -> dict[str, Any]:
    """A trace of medians with a line to p99."""
    medians = [_p50(row, unit) for row in own]
    tails = [max(0.0, _p99(row, unit) - median) for row, median in zip(own, medians, strict=True)]
    bars = {"type": "data", "symmetric": False, "array": tails, "arrayminus": [0] * len(own)}
    error = {**bars, "color": color, "thickness": 1.5, "width": 4}
    return {"x": medians, "y": _labels(own), "error_x": error, **_hover(own, unit)}


def _drops(own: Sequence[Row], unit: Unit, color: str) -> dict[str, Any]:
    """A trace of drops with their intervals."""
    drops = [row.cell.drop_points or 0.0 for row in own]
    bounds = [row.cell.drop_interval or (0.0, 0.0) for row in own]
    above = [max(0.0, high - drop) for (_, high), drop in zip(bounds, drops, strict=True)]
    below = [max(0.0, drop - low) for (low, _), drop in zip(bounds, drops, strict=True)]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    error = {**bars, "color": color, "thickness": 1.5, "width": 4}
    return {"x": drops, "y": _labels(own), "error_x": error, "showlegend": False, **_hover(own, unit)}


def _hover(own: Sequence[Row], unit: Unit) -> dict[str, Any]:
    texts = [
        f"<b>{safe(formatting.run(row.cell))}</b><br>p50 {unit.text(_cost(row).p50)} {unit.name}<br>"
        f"{formatting.kilobytes(row.cell.size_bytes)} kB<br>"
        f"drop {safe(formatting.drop_in_points(row.cell))}<br>"
        f"{safe(verdict(row))}"
        for row in own
    ]
    return {"customdata": texts, "hovertemplate": "%{customdata}<extra></extra>"}


def _cost(row: Row) -> formatting.Cost:
    cost = formatting.cost(row.cell)
    assert cost is not None  # only rows with a cost are drawn
    return cost


def _p50(row: Row, unit: Unit) -> float:
    """The median in this unit, more than 0 for the logarithmic axis."""
    return max(_cost(row).p50 * unit.scale, 1e-6)


def _p99(row: Row, unit: Unit) -> float:
    return max(_cost(row).p99 * unit.scale, 1e-6)


def _labels(rows: Sequence[Row]) -> list[str]:
    return [safe(formatting.run(row.cell)) for row in rows]


def ticks(low: float, high: float) -> list[float]:
    """Round tick values between two powers of ten, fewer per decade the more decades there are."""
    choices = ((0.7, (1, 1.5, 2, 3, 4, 6)), (1.5, (1, 2, 5)), (3.0, (1, 3)))
    steps = next((steps for span, steps in choices if high - low < span), (1,))
    values = [step * 10.0**power for power in range(floor(low), floor(high) + 1) for step in steps]
    return [value for value in values if low <= log10(value) <= high]


def safe(text: str) -> str:
    """Escapes a text for Plotly, which interprets some HTML tags."""
    return escape(text, quote=False)


def _short(label: str) -> str:
    return safe(label if len(label) <= 14 else label[:13] + "…")
