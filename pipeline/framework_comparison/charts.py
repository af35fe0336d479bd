"""The comparison's Plotly figures: ratios, differences and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from pipeline.framework_comparison.parts import Curve
from pipeline.framework_comparison.verdicts import UNRESOLVED, Verdict
from pipeline.report.figures import COLORS, SOFT, safe, ticks


def ratios(rows: Sequence[tuple[str, Verdict]]) -> Any:
    """One line per row: the ratio with its interval, on a logarithmic axis. Very wide intervals are cut off."""
    figure = _intervals(rows)
    values = [1.0, *(found.ratio for _, found in rows if found.ratio)]
    bounds = [*values, *(bound for _, found in rows for bound in found.interval or ())]
    low = log10(max(min(bounds), min(values) / MOST_ROOM))
    high = log10(min(max(bounds), max(values) * MOST_ROOM))
    room = max(0.06 * (high - low), 0.02)
    span = [low - room, high + room]
    figure.update_xaxes(
        type="log", range=span, tickvals=ticks(*span), tickformat="~g", tickangle=0, title="TensorFlow / PyTorch"
    )
    figure.add_vline(x=1, line_width=1, line_dash="dot", line_color=SOFT)
    return figure


def shifts(rows: Sequence[tuple[str, Verdict]]) -> Any:
    """One line per row: the difference in points with its interval."""
    figure = _intervals(rows)
    figure.update_xaxes(title="TensorFlow - PyTorch, points", zeroline=False)
    figure.add_vline(x=0, line_width=1, line_dash="dot", line_color=SOFT)
    return figure


MOST_ROOM = 10.0
"""The axis of ratios extends at most by this factor beyond the points: an interval of two rounds may span decades."""

SIDES = {"torch": (COLORS[1], "square"), "keras": (COLORS[0], "circle")}
"""Each framework's colour and marker."""


def _intervals(rows: Sequence[tuple[str, Verdict]]) -> Any:
    """Points with their intervals, one line each, the first at the top, coloured by the better framework."""
    import plotly.graph_objects as go

    figure = go.Figure()
    names = {"torch": "PyTorch is better", "keras": "TensorFlow is better", None: UNRESOLVED}
    for better, name in names.items():
        own = [(text, found) for text, found in rows if found.better == better and found.ratio and found.interval]
        if not own:
            continue
        color, symbol = SIDES.get(better or "", (SOFT, "diamond"))
        spans = [(found.ratio or 0.0, *(found.interval or (0.0, 0.0))) for _, found in own]
        figure.add_scatter(
            x=[value for value, *_ in spans],
            y=[safe(text) for text, _ in own],
            mode="markers",
            name=name,
            marker={"color": color, "symbol": symbol, "size": 10},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value for value, _, high in spans],
                "arrayminus": [value - low for value, low, _ in spans],
                "color": color,
            },
            customdata=[(low, high) for _, low, high in spans],
            hovertemplate="%{y}<br>%{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>",
        )
    order = [safe(text) for text, _ in rows][::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, range=[-0.7, len(rows) - 0.3])
    figure.update_layout(height=120 + 24 * len(rows), margin={"b": 50})
    return figure


def curves(lines: Sequence[Curve], names: Mapping[str, str]) -> Any:
    """Accuracy over time, one line per training."""
    import plotly.graph_objects as go

    figure = go.Figure()
    seen: set[str] = set()
    for line in lines:
        color, symbol = SIDES[line.framework]
        figure.add_scatter(
            x=[x for x, _ in line.points],
            y=[100 * y for _, y in line.points],
            mode="lines+markers",
            name=names[line.framework],
            legendgroup=line.framework,
            showlegend=line.framework not in seen,
            line={"color": color, "width": 1.5},
            marker={"symbol": symbol, "size": 5},
            hovertemplate="%{x:.1f} s: %{y:.1f} %<extra></extra>",
        )
        seen.add(line.framework)
    figure.update_xaxes(title="seconds", rangemode="tozero")
    figure.update_yaxes(title="validation accuracy, %")
    figure.update_layout(height=360, margin={"b": 50})
    return figure
