"""What a search for a mixed recipe tried and found: a table at the terminal, and a page with a chart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.report import figures, terminal
from pipeline.report.page import Block, Section, Table, numbers, texts, web_page
from pipeline.results import tuning
from pipeline.results.tuning import Trial, Tuning

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("", "groups in float", "drop, points [95 %]", "predicted dB", "multiply-adds in float", "kB more")


def parts(found: Tuning) -> list[RenderableType]:
    """For `terminal.show`."""
    lines = _lines(found)
    return [
        f"{found.model} ({found.framework}), at most {found.max_drop:g} points: {found.outcome}",
        terminal.table(HEAD, lines, left=1),
        found.reason,
        *_chosen(found),
    ]


def page(found: Tuning) -> str:
    """A self-contained HTML page."""
    table = Table((*texts(HEAD[0]), *numbers(*HEAD[1:])), tuple(_lines(found)))
    caption = (
        "Every point is a graph that was evaluated, with the 95 % interval of its drop. The budget is met where the "
        "whole interval is below the dashed line. Filled points are the Pareto front: no other trial has both a "
        "smaller drop and fewer multiply-adds in float."
    )
    block = Block(chart=figures.html(_chart(found), "trials"), table=table, caption=caption)
    sections = [
        Section("result", "Result", blocks=(Block(points=(found.reason, *_chosen(found))),)),
        Section("trials", f"Trials on the {found.split} split", blocks=(block,)),
    ]
    return web_page(sections, f"Tuning {found.model} for at most {found.max_drop:g} points")


def _chosen(found: Tuning) -> list[str]:
    test = found.test
    drop = "{:+.2f} points [{:+.2f}, {:+.2f}]".format(test.drop_points, *test.interval)
    chosen = found.trials[found.chosen]
    return [
        f"in float: {', '.join(chosen.in_float) or 'no group'}" + ("; the graph was trained" if chosen.trained else ""),
        f"on the test split, {test.samples:,} samples: {drop}",
        f"recipe: {found.file or found.recipe.name}",
    ]


def _lines(found: Tuning) -> list[tuple[str, ...]]:
    return [
        (
            "chosen" if place == found.chosen else "",
            f"{len(trial.in_float)} of {len(found.order)}" + (", trained" if trial.trained else ""),
            "{:+.2f} [{:+.2f}, {:+.2f}]".format(trial.drop_points, *trial.interval),
            "–" if trial.predicted_db is None else f"{trial.predicted_db:.1f}",
            f"{trial.multiply_adds:.1%}",
            f"{trial.bytes_more / 1000:,.1f}",
        )
        for place, trial in enumerate(found.trials)
    ]


def _chart(found: Tuning) -> Any:
    """Drop against what is in float, with the budget."""
    import plotly.graph_objects as go

    size = found.minimize == "size"

    def cost(trial: Trial) -> float:
        return trial.bytes_more / 1000 if size else 100 * trial.multiply_adds

    front = tuning.pareto(found.trials)
    figure = go.Figure()
    for name, members, symbol in (
        ("Pareto front", front, "circle"),
        ("other trials", [trial for trial in found.trials if trial not in front], "circle-open"),
    ):
        if members:
            drops = [trial.drop_points for trial in members]
            figure.add_scatter(
                x=[cost(trial) for trial in members],
                y=drops,
                mode="markers",
                name=name,
                marker={"color": figures.COLORS[0], "symbol": symbol, "size": 10},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [trial.interval[1] - drop for trial, drop in zip(members, drops, strict=True)],
                    "arrayminus": [drop - trial.interval[0] for trial, drop in zip(members, drops, strict=True)],
                    "thickness": 1.5,
                    "width": 4,
                },
                text=["trained" if trial.trained else f"{len(trial.in_float)} groups in float" for trial in members],
                hovertemplate="%{text}: %{y:+.2f} points<extra></extra>",
            )
    figure.add_hline(y=found.max_drop, line_dash="dash", line_color=figures.SOFT, annotation_text="budget")
    figure.update_xaxes(title="kB more than int8" if size else "multiply-adds in float, %", rangemode="tozero")
    figure.update_yaxes(title="accuracy drop, points")
    figure.update_layout(height=380, margin={"b": 50})
    return figure
