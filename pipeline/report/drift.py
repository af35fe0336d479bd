"""Drift as a page of its own: the signal-to-noise ratio of every layer, and the values of the layers worth a look."""

from __future__ import annotations

from typing import Any

from pipeline.formatting import NONE
from pipeline.report import figures
from pipeline.report.page import Block, Section, Table, numbers, texts, web_page
from pipeline.results.drift import DEVICE, GRAPH, HOST, PLACES, Drift, Layer

STEPS = {GRAPH: "to the quantized graph", HOST: "to the file on this machine", DEVICE: "to the device"}
"""A ratio compares a place with the one before it."""
SHOWN = 100.0
"""Ratios above this many dB are drawn at this value: equal values have 999 dB."""


def page(found: Drift) -> str:
    """A cell's HTML page."""
    return web_page([_section(found)], f"Drift: {title(found)}")


def title(found: Drift) -> str:
    return f"{found.model} ({found.framework}), {found.target} {found.recipe}"


def verdict(found: Drift) -> list[str]:
    """Where the difference starts, and where NaN or infinity begins, in a sentence each."""
    lines = []
    if found.first_not_finite:
        start = found.first_not_finite
        lines.append(f"NaN or infinity begins in layer {start.layer}, in the {_place(start.place)}")
    if found.first:
        start = found.first
        snr = next(one.snr_db[start.place] for one in found.layers if one.name == start.layer)
        lines.append(f"a difference starts in layer {start.layer}: {decibels(snr)} {STEPS[start.place]}")
    else:
        lines.append(f"no layer is below {found.below:g} dB")
    return lines


def notes(found: Drift) -> list[str]:
    """What ran where, what is missing, and why."""
    lines = [f"{_place(place)}: {what}" for place, what in found.places.items()]
    if found.file_snr_db is not None:
        lines.append(
            f"{found.file} ran; the exported file's outputs agree with its own to {decibels(found.file_snr_db)}"
        )
    return [*lines, *found.problems]


def head(found: Drift) -> tuple[str, ...]:
    return "layer", "operators", *(place for place in STEPS if place in found.places), "not finite"


def line(found: Drift, layer: Layer) -> tuple[str, ...]:
    """A layer's row under `head`: ratios in dB."""
    ratios = (_ratio(layer, place) for place in STEPS if place in found.places)
    broken = ", ".join(f"{count:,} in {place}" for place, count in layer.not_finite.items() if count)
    return layer.name, " + ".join(layer.operators), *ratios, broken or NONE


def decibels(value: float) -> str:
    """A ratio for people: 999 means equal, -999 that values are NaN or infinite on one side only."""
    return "equal" if value >= 999 else "not finite" if value <= -999 else f"{value:.1f} dB"


def _ratio(layer: Layer, place: str) -> str:
    if place in layer.snr_db:
        return decibels(layer.snr_db[place]).removesuffix(" dB")
    return "not mapped" if place in layer.not_mapped else NONE


def _place(place: str) -> str:
    return {
        "float": "float graph",
        GRAPH: "quantized graph",
        HOST: "file on this machine",
        DEVICE: "file on the device",
    }[place]


def _section(found: Drift) -> Section:
    first, *others = head(found)
    table = Table((*texts(first, others[0]), *numbers(*others[1:])), tuple(line(found, one) for one in found.layers))
    caption = (
        f"Signal-to-noise ratio of each layer's values over {found.samples} test images, in dB, each place against the "
        f"one before it. Ratios above {SHOWN:g} dB are drawn at {SHOWN:g}."
    )
    chart = figures.html(_ratios(found), "drift")
    blocks = [
        Block(points=(*verdict(found), *notes(found))),
        Block("Layers", chart=chart, table=table, caption=caption),
    ]
    for number, one in enumerate(layer for layer in found.layers if layer.histogram):
        values = figures.html(_histogram(one), f"drift-{number}")
        blocks.append(Block(f"Values of {one.name}", chart=values, caption="The same bins for every place."))
    return Section("drift", title(found), blocks=tuple(blocks))


def _ratios(found: Drift) -> Any:
    from plotly.graph_objects import Figure

    figure, names = Figure(), [figures.safe(one.name) for one in found.layers]
    for i, (place, what) in enumerate(STEPS.items()):
        if place in found.places:
            heights = [max(min(one.snr_db[place], SHOWN), -20) if place in one.snr_db else None for one in found.layers]
            style = {"color": figures.COLORS[i], "symbol": figures.SYMBOLS[i], "size": 9}
            figure.add_scatter(x=names, y=heights, name=what, mode="lines+markers", marker=style)
    figure.add_hline(y=found.below, line_width=1, line_dash="dot", line_color=figures.SOFT)
    figure.update_yaxes(title="dB")
    return figure


def _histogram(layer: Layer) -> Any:
    from plotly.graph_objects import Figure

    shown = layer.histogram
    assert shown is not None  # the caller chose layers that have one
    figure = Figure()
    for i, place in enumerate(PLACES):
        if place in shown.counts:
            counts = shown.counts[place]
            width = (shown.high - shown.low) / len(counts)
            middles = [shown.low + width * (n + 0.5) for n in range(len(counts))]
            figure.add_scatter(
                x=middles, y=counts, name=_place(place), line={"shape": "hvh", "color": figures.COLORS[i]}, mode="lines"
            )
    figure.update_xaxes(title="value")
    figure.update_yaxes(title="number of values", type="log")
    return figure
