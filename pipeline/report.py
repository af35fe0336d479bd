"""Report: build/report.html (one file, opens offline), build/report.md and build/results.json.

The page and the Markdown are two renderings of the same sections, so they cannot differ in a figure. Only JSON and
predictions are read; no framework is imported.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline import results, stats, store
from pipeline.core import Artifact, Cell, Measurement, to_json
from pipeline.results import Equality, Row
from pipeline.store import Store

TEMPLATE = Path(__file__).with_name("report_template.html")

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by people with any colour vision. Source: Okabe and Ito, "Color Universal Design", 2008."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "triangle-down")
PATTERNS = ("", "/", ".", "x", "-", "|")
MOST_CLASSES = 20
"""More classes than these do not fit a heatmap's width; those that change the most are shown, and it is said."""


@dataclass(frozen=True)
class Column:
    """A table's column; `number` puts it to the right."""

    title: str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Texts in columns. In a line that is shorter than the columns, the last text takes the place of the rest."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Block:
    """A chart (HTML) or a table, under a heading of its own or none, with a caption beneath."""

    title: str = ""
    chart: str = ""
    table: Table | None = None
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        points: sentences, as a list.
        nothing: what to say where there is neither a block nor a point.
    """

    name: str
    title: str
    text: str = ""
    points: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    nothing: str = ""


def report(build: Store) -> Path:
    """Writes report.html, report.md and results.json into the build folder; returns the page's path.

    Raises:
        DiskFull: no space is left.
    """
    found = results.rows(build)
    sections = _sections(found, results.equalities(build, found))
    page = build.root / "report.html"
    _write(build.root / "results.json", json.dumps([to_json(row.cell) for row in found], indent=1) + "\n")
    _write(build.root / "report.md", markdown(sections))
    _write(page, web_page(sections))
    return page


def _write(path: Path, text: str) -> None:
    with store.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def web_page(sections: Sequence[Section]) -> str:
    """The sections as one HTML page that fetches nothing: plotly.js, where a chart needs it, is inside."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = any(block.chart for section in sections for block in section.blocks)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(sections=sections, plotlyjs=get_plotlyjs() if charts else "")


def markdown(sections: Sequence[Section]) -> str:
    """The sections as GitHub Markdown; the charts stay in the page, their numbers are in the tables."""
    parts = ["# Measured models", "The charts are in report.html; every number of theirs is in these tables."]
    for section in sections:
        parts += [f"## {section.title}", *_text(section.text)]
        parts += ["\n".join(f"- {_plain(point)}" for point in section.points)] if section.points else []
        for block in section.blocks:
            if block.table is None:
                parts.append(f"{_plain(block.title)}: see the chart in report.html.")
            else:
                parts += [f"### {_plain(block.title)}"] if block.title else []
                parts += [_markdown_table(block.table), *_text(block.caption)]
        parts += [] if section.points or section.blocks else _text(section.nothing)
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> list[str]:
    return [_plain(text)] if text else []


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    for mark in "\\`*_[]|~#":
        line = line.replace(mark, "\\" + mark)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_table(table: Table) -> str:
    width = len(table.columns)
    head = [_plain(column.title) for column in table.columns]
    rule = ["---:" if column.number else "---" for column in table.columns]
    lines = [[_plain(text) for text in line] + [""] * (width - len(line)) for line in table.lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


# -- the sections ------------------------------------------------------------------------------------------------------


def _sections(found: Sequence[Row], pairs: Sequence[Equality]) -> list[Section]:
    return [
        Section("summary", "Summary", points=tuple(_summary(found)), nothing="No models yet: inv train."),
        _table_of_cells(found),
        _trade_off(found),
        _sizes(found),
        _bit_equality(pairs),
        _by_class(found),
        _reasons(found, "unsupported", "Unsupported cells", "Every combination can be exported."),
        _reasons(found, "failed", "Failed cells", "Nothing failed."),
        _reasons(found, "missing", "Missing cells", "Nothing is missing."),
        _unchecked(found),
        _emulated(found),
        _exports(found),
        _warnings(found),
        _machines(found),
        _tools(found),
        _method(),
    ]


def _name(cell: Cell) -> str:
    return f"{cell.recipe} on {cell.target}"


def _model(cell: Cell) -> str:
    return f"{cell.model} ({cell.framework})"


def _by_model(found: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    return [(name, list(group)) for name, group in groupby(found, key=lambda row: _model(row.cell))]


def _by_device(found: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Measured rows by model and device: what may stand in one chart or be ranked."""
    measured = sorted((row for row in found if row.measurement and row.cell.status == "ok"), key=_place)
    return [(name, list(group)) for name, group in groupby(measured, key=_place)]


def _place(row: Row) -> str:
    return f"{_model(row.cell)} on {row.cell.device}"


def _samples(row: Row) -> int:
    return row.measurement.accuracy.samples if row.measurement else 0


# -- summary -----------------------------------------------------------------------------------------------------------


def _summary(found: Sequence[Row]) -> list[str]:
    sentences = []
    for place, rows in _by_device(found):
        share = results.percent(rows[0].cell.reference_accuracy)
        sentences.append(f"{place}: the float model is right on {share} % of {_samples(rows[0]):,} samples.")
        kept = [row for row in rows if row.cell.drop_interval and row.cell.drop_interval[0] <= 0]
        if not kept:
            sentences.append(
                f"{place}: every measured cell is worse than the float model, by more than chance explains."
            )
            continue
        smallest = min(kept, key=lambda row: row.cell.size_bytes or 0)
        sentences.append(f"Smallest without a resolved loss: {_sentence(smallest, rows)}")
        timed = [row for row in kept if row.cell.latency_ms]
        if timed:
            sentences.append(f"Fastest without a resolved loss: {_fastest(timed, rows)}")
    waiting = sum(row.cell.status in ("missing", "failed") for row in found)
    if waiting:
        sentences.append(f"{waiting} of {len(found)} cells failed or were not measured: their reasons are below.")
    return sentences


def _sentence(row: Row, rows: Sequence[Row]) -> str:
    """One cell in words: size, speed, drop, and what that drop is worth."""
    cell = row.cell
    parts = [f"{_kb(cell)} kB{_times(row, rows, 'size')}"]
    if cell.latency_ms:
        parts.append(f"{results.milliseconds(cell.latency_ms.p50)} ms (p50){_times(row, rows, 'speed')}")
    elif cell.instructions:
        parts.append(f"{cell.instructions / 1e6:.2f} million instructions")
    parts.append(f"drop {results.drop_text(cell).strip().rstrip('*')} points")
    return f"{_name(cell)}: {', '.join(parts)}: {_verdict(row)}."


def _verdict(row: Row) -> str:
    interval, samples = row.cell.drop_interval, f"{_samples(row):,} samples"
    if interval is None or not stats.is_resolved(interval):
        return f"no difference that {samples} can resolve"
    return f"a {'loss' if interval[0] > 0 else 'gain'} that {samples} resolve"


def _times(row: Row, rows: Sequence[Row], what: str) -> str:
    """How much better it is than fp32 on the same target, where that was measured and it is."""
    base = next((r.cell for r in rows if r.cell.recipe == "fp32" and r.cell.target == row.cell.target), None)
    if base is None or base is row.cell:
        return ""
    if what == "size":
        ratio = (base.size_bytes or 0) / (row.cell.size_bytes or 1)
        return f" ({ratio:.1f} times smaller than fp32)" if ratio >= 1.1 else ""
    if not (base.latency_ms and row.cell.latency_ms and row.cell.latency_ms.p50):
        return ""
    ratio = base.latency_ms.p50 / row.cell.latency_ms.p50
    return f" ({ratio:.1f} times faster than fp32)" if ratio >= 1.1 else ""


def _fastest(timed: Sequence[Row], rows: Sequence[Row]) -> str:
    """The fastest cell, and those that its own spread does not tell from it."""

    def p50(row: Row) -> float:
        return row.cell.latency_ms.p50 if row.cell.latency_ms else 0.0

    best = min(timed, key=p50)
    spread = best.cell.latency_ms.p90 if best.cell.latency_ms else 0.0
    near = [_name(row.cell) for row in timed if row is not best and p50(row) <= spread]
    if not near:
        return _sentence(best, rows)
    return f"{_sentence(best, rows)} Not told apart from it, since within its p50 to p90: {', '.join(near)}."


# -- tables ------------------------------------------------------------------------------------------------------------


def _words(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, number=False) for title in titles)


def _numbers(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title) for title in titles)


CELL_COLUMNS = (
    *_words("recipe", "target", "device"),
    *_numbers("size, kB", "p50, ms", "p90, ms", "p99, ms", "load, ms", "memory, MB"),
    *_numbers("accuracy, %", "drop, points", "95 % interval", "agree, %"),
)


def _table_of_cells(found: Sequence[Row]) -> Section:
    caption = (
        "Drop: percentage points lost against the float model on the same samples; negative is a gain. A star: "
        "the interval leaves out 0, so there is a difference; without one, these samples show none. Agree: samples "
        "with the float model's top-1. Memory: the process's peak."
    )
    return Section(
        "cells",
        "All cells",
        blocks=tuple(
            Block(model, table=Table(CELL_COLUMNS, tuple(_cell_line(row) for row in rows)), caption=caption)
            for model, rows in _by_model(found)
        ),
        nothing="There are no cells.",
    )


def _cell_line(row: Row) -> tuple[str, ...]:
    cell = row.cell
    head = (cell.recipe, cell.target, _device(cell))
    if cell.status != "ok":
        return *head, _kb(cell), f"{cell.status}: {cell.reason}"
    if cell.device is None:
        return *head, _kb(cell), cell.unchecked or "not checked"
    return (
        *head,
        _kb(cell),
        *_times_of(cell),
        "–" if cell.peak_rss_bytes is None else f"{cell.peak_rss_bytes / 1e6:.1f}",
        results.percent(cell.accuracy),
        *_drop(cell),
        results.percent(cell.agreement),
    )


def _drop(cell: Cell) -> tuple[str, str]:
    """Drop and interval, with a star where that leaves out 0."""
    if cell.drop_points is None or cell.drop_interval is None:
        return "–", "–"
    low, high = (results.points(bound) for bound in cell.drop_interval)
    return results.points(cell.drop_points), f"[{low}, {high}]" + ("*" if stats.is_resolved(cell.drop_interval) else "")


def _times_of(cell: Cell) -> tuple[str, str, str, str]:
    """p50, p90, p99 and load in ms; dashes for an emulated device, whose times are none."""
    if cell.latency_ms is None or cell.load_ms is None:
        return "–", "–", "–", "–"
    summary = cell.latency_ms
    return (
        results.milliseconds(summary.p50),
        results.milliseconds(summary.p90),
        results.milliseconds(summary.p99),
        results.milliseconds(cell.load_ms),
    )


def _device(cell: Cell) -> str:
    return (
        "–"
        if cell.device is None
        else cell.device + (" (emulated)" if cell.emulated and "emulated" not in cell.device else "")
    )


def _kb(cell: Cell) -> str:
    return "–" if cell.size_bytes is None else f"{cell.size_bytes / 1000:,.1f}"


def _bit_equality(pairs: Sequence[Equality]) -> Section:
    columns = (
        *_words("model", "recipe", "device", "first", "second"),
        *_numbers("equal outputs", "of samples", "equal, %", "same top-1, %", "largest difference"),
        *_words("one graph"),
    )
    lines = tuple(
        (
            f"{p.model} ({p.framework})",
            p.recipe,
            p.device,
            p.first,
            p.second,
            f"{p.equal:,}",
            f"{p.samples:,}",
            results.percent(p.equal / p.samples),
            results.percent(p.agreement),
            f"{p.max_error:.4g}",
            "yes" if p.one_graph else "no",
        )
        for p in pairs
    )
    return Section(
        "equality",
        "Static int8: outputs compared bit for bit",
        "Where both files were lowered from the one quantized graph, what differs between them is kernels, not "
        "quantizers. Each line compares all outputs of two targets on the same samples and the same device.",
        blocks=(Block(table=Table(columns, lines)),) if lines else (),
        nothing="No two targets have been measured under a static recipe on one device.",
    )


def _reasons(found: Sequence[Row], status: str, title: str, nothing: str) -> Section:
    columns = _words("model", "recipe", "target", "device", "reason")
    lines = tuple(
        (_model(row.cell), row.cell.recipe, row.cell.target, _device(row.cell), row.cell.reason or "")
        for row in found
        if row.cell.status == status
    )
    return Section(status, title, blocks=(Block(table=Table(columns, lines)),) if lines else (), nothing=nothing)


def _unchecked(found: Sequence[Row]) -> Section:
    columns = (
        *_words("model", "recipe", "target"),
        *_numbers("size, kB"),
        *_words("why"),
    )
    lines = tuple(
        (_model(row.cell), row.cell.recipe, row.cell.target, _kb(row.cell), row.cell.unchecked or "")
        for row in found
        if row.cell.status == "ok" and row.cell.device is None
    )
    return Section(
        "unchecked",
        "Exported, not checked",
        "These files were written and never run: nothing is known of their outputs.",
        blocks=(Block(table=Table(columns, lines)),) if lines else (),
        nothing="Every exported file can be run here.",
    )


def _emulated(found: Sequence[Row]) -> Section:
    columns = (
        *_words("model", "recipe", "target", "device"),
        *_numbers("size, kB", "million instructions an inference", "memory, MB", "accuracy, %"),
        *_numbers("drop, points", "95 % interval", "agree, %"),
    )
    lines = []
    for row in found:
        if row.cell.status == "ok" and row.cell.emulated:
            line, count = _cell_line(row), row.cell.instructions
            words = "not counted" if count is None else f"{count / 1e6:,.3f}"
            lines.append((_model(row.cell), *line[:4], words, *line[8:]))  # where the times would be: the instructions
    return Section(
        "emulated",
        "Emulated devices",
        "Outputs, accuracy and memory are those of the real instructions; time is not, so no latency is shown. An "
        "instruction count is a repeatable cost without a model of caches or pipelines: int8 can count more than "
        "fp32 and still be faster on a board.",
        blocks=(Block(table=Table(columns, tuple(lines))),) if lines else (),
        nothing="No emulated device was measured.",
    )


def _exports(found: Sequence[Row]) -> Section:
    columns = (
        *_words("recipe", "target", "quantized by", "compared with"),
        *_numbers("samples", "SNR, dB", "cosine", "largest error", "in output steps", "same top-1, %", "bit-equal, %"),
        *_words("notes"),
    )
    return Section(
        "exports",
        "Exports beside the graph they were made from",
        "Measured when the file was exported, over all outputs, of which the worst counts. 999 dB: equal; -999 dB: not "
        "finite.",
        blocks=tuple(
            Block(model, table=Table(columns, lines))
            for model, rows in _by_model(found)
            if (lines := tuple(dict.fromkeys(_export_line(row.artifact) for row in rows if row.artifact)))
        ),
        nothing="Nothing was exported.",
    )


def _export_line(artifact: Artifact) -> tuple[str, ...]:
    head, notes = (artifact.recipe, artifact.target, artifact.quantized_by or "–"), "; ".join(artifact.notes)
    parity = artifact.parity
    if parity is None:
        return *head, "; ".join(text for text in (artifact.unchecked or "not checked", notes) if text)
    return (
        *head,
        parity.against,
        f"{parity.samples:,}",
        f"{parity.snr_db:.1f}",
        f"{parity.cosine:.6f}",
        f"{parity.max_error:.3g}",
        "–" if parity.max_steps is None else f"{parity.max_steps:.1f}",
        results.percent(parity.top1_agreement),
        results.percent(parity.equal),
        notes,
    )


def _warnings(found: Sequence[Row]) -> Section:
    points = tuple(
        f"{_model(row.cell)}, {_name(row.cell)}, {row.cell.device}: {text}"
        for row in found
        for text in row.cell.warnings
    )
    return Section("warnings", "Warnings", points=points, nothing="No measurement gave reason for a warning.")


def _measurements(found: Sequence[Row]) -> list[Measurement]:
    return [row.measurement for row in found if row.measurement and row.cell.status == "ok"]


def _machines(found: Sequence[Row]) -> Section:
    """Every device's facts; where measurements of one device differ in a fact, all its values."""
    blocks = []
    by_name = sorted(_measurements(found), key=lambda m: str(m.device.get("name")))
    for name, group in groupby(by_name, key=lambda m: str(m.device.get("name"))):
        own = list(group)
        facts = {
            key: _values(_fact(key, m.device.get(key)) for m in own) for m in own for key in m.device if key != "name"
        }
        facts["runtimes"] = _values(results.runtime(m) for m in own)
        facts["temperature, °C"] = _range(t for m in own for t in m.temperature_c)
        facts["load average"] = _range(t for m in own for t in m.load_average)
        facts["throttled"] = _values({True: "yes", False: "no", None: "cannot tell"}[m.throttled] for m in own)
        facts["measured"] = _span([m.started_at for m in own])
        lines = tuple((_without_unit(key), value) for key, value in facts.items())
        blocks.append(Block(name, table=Table(_words("fact", "value"), lines)))
    return Section("machines", "Machines", blocks=tuple(blocks), nothing="Nothing was measured.")


def _values(values: Iterable[Any]) -> str:
    """Different values once each, in words."""
    words = {None: "–", True: "yes", False: "no"}
    return " / ".join(dict.fromkeys(words[v] if v is None or isinstance(v, bool) else str(v) for v in values))


def _fact(key: str, value: Any) -> Any:
    """A fact with its unit, where its name carries one."""
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, int) and key.endswith("_hz"):
        return f"{value / 1e9:.2f} GHz"
    return value


def _without_unit(key: str) -> str:
    return key.removesuffix("_bytes").removesuffix("_hz").replace("_", " ")


def _range(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "no sensor"


def _span(times: Sequence[str]) -> str:
    return min(times) if min(times) == max(times) else f"{min(times)} to {max(times)}"


def _tools(found: Sequence[Row]) -> Section:
    used: dict[str, dict[str, set[str]]] = {}
    for row in found:
        for stage, noun in (("training", row.checkpoint), ("export", row.artifact), ("measurement", row.measurement)):
            for tool, version in (noun.tools if noun else {}).items():
                used.setdefault(tool, {}).setdefault(stage, set()).add(version)
    stages = ("training", "export", "measurement")
    lines = tuple(
        (tool, *(", ".join(sorted(where.get(stage, ()))) or "–" for stage in stages))
        for tool, where in sorted(used.items())
    )
    columns = _words("tool", *stages)
    return Section(
        "tools",
        "Tool versions",
        blocks=(Block(table=Table(columns, lines)),) if lines else (),
        nothing="Nothing was made yet.",
    )


def _method() -> Section:
    return Section(
        "method",
        "How this was measured",
        points=(
            "Latency: one inference with the input in memory, outputs read back; decoding and resizing of pictures is "
            "not in it. Runs shorter than 1 ms are timed in loops, and a loop's average is one value. Warm-up runs are "
            "kept apart and do not count. Percentiles are by linear interpolation over the raw runs.",
            "Load: from the file to a session that can run; starting the runtime itself is not in it. Peak memory: the "
            "process's high-water mark, its runtime included.",
            "Accuracy: the whole evaluation split, run on the device, sample by sample beside the float model's.",
            "95 % interval: adjusted Wald for paired proportions (Bonett and Price, Journal of Educational and "
            "Behavioral Statistics 37(4), 2012). Where it contains 0, these samples do not tell the two apart. About 1 "
            "in 20 intervals leaves out 0 by chance.",
            "Bit-equal: all bytes of all outputs of a sample; NaN and infinite values are equal to nothing.",
            "Sizes: 1 kB is 1000 bytes. The raw samples of every figure are beside its measurement.json.",
        ),
    )


# -- charts ------------------------------------------------------------------------------------------------------------


def _trade_off(found: Sequence[Row]) -> Section:
    targets, recipes = _names(found, "target"), _names(found, "recipe")
    blocks: list[Block] = []
    for place, rows in _by_device(found):
        timed = [row for row in rows if row.cell.latency_ms]
        if timed:
            samples = f"{_samples(timed[0]):,}"
            caption = (
                f"Median latency of raw runs on this device (logarithmic axis); drop over {samples} samples with its "
                "95 % interval. One panel and colour a target, one symbol a recipe; the larger the marker, the larger "
                "the file. A bar that crosses 0 shows no difference that these samples can resolve."
            )
            chart = _chart(_scatter(timed, targets, recipes), f"trade-off-{len(blocks)}")
            blocks.append(Block(place, chart, caption=caption))
    return Section(
        "trade-off",
        "Accuracy drop against latency",
        blocks=tuple(blocks),
        nothing="No latency was measured on a real device.",
    )


def _scatter(timed: Sequence[Row], targets: Sequence[str], recipes: Sequence[str]) -> Any:
    from plotly.subplots import make_subplots

    shown = [target for target in targets if any(row.cell.target == target for row in timed)]
    figure = make_subplots(rows=1, cols=len(shown), shared_yaxes=True, subplot_titles=shown, horizontal_spacing=0.03)
    largest = max(row.cell.size_bytes or 1 for row in timed)
    for recipe in recipes:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=recipe,
            row=1,
            col=1,
            marker={"symbol": _symbol(recipe, recipes), "size": 11, "color": "#888"},
        )
    for row in timed:
        color = COLORS[targets.index(row.cell.target) % len(COLORS)]
        symbol = _symbol(row.cell.recipe, recipes)
        figure.add_scatter(**_point(row, color, symbol, largest), row=1, col=shown.index(row.cell.target) + 1)
    figure.add_hline(y=0, line_width=1, line_dash="dot", line_color="#888")
    figure.update_xaxes(type="log", nticks=6, range=_log_range(timed), title="p50, ms", tickformat="~g")
    figure.update_yaxes(zeroline=False)
    figure.update_yaxes(title="drop, points (up is worse)", col=1)
    return figure


def _point(row: Row, color: str, symbol: str, largest: int) -> dict[str, Any]:
    """A trace of one cell."""
    cell = row.cell
    assert cell.latency_ms is not None and cell.drop_interval is not None and cell.drop_points is not None
    low, high = cell.drop_interval
    drop = cell.drop_points
    hover = (
        f"<b>{_safe(_name(cell))}</b><br>p50 {results.milliseconds(cell.latency_ms.p50)} ms<br>{_kb(cell)} kB<br>"
        f"drop {_safe(results.drop_text(cell).strip(' *'))} points<br>{_safe(_verdict(row))}"
    )
    return {
        "x": [cell.latency_ms.p50],
        "y": [drop],
        "mode": "markers",
        "showlegend": False,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - drop)],
            "arrayminus": [max(0.0, drop - low)],
            "thickness": 1.2,
            "width": 3,
            "color": color,
        },
        "marker": {
            "color": color,
            "symbol": symbol,
            "size": 8 + 16 * ((cell.size_bytes or 0) / largest) ** 0.5,
            "opacity": 0.85,
            "line": {"width": 1, "color": "#fff"},
        },
        "hovertemplate": hover + "<extra></extra>",
    }


def _log_range(timed: Sequence[Row]) -> list[float]:
    """Bounds of a logarithmic axis around the latencies, in powers of ten; a decade's third at least."""
    from math import log10

    logs = [log10(max(row.cell.latency_ms.p50, 1e-6)) for row in timed if row.cell.latency_ms]
    middle, half = (min(logs) + max(logs)) / 2, max((max(logs) - min(logs)) / 2 * 1.2, 0.17)
    return [middle - half, middle + half]


def _sizes(found: Sequence[Row]) -> Section:
    targets = _names(found, "target")
    blocks: list[Block] = []
    for model, rows in _by_model(found):
        sizes = {(r.cell.target, r.cell.recipe): r.cell.size_bytes / 1000 for r in rows if r.cell.size_bytes}
        if sizes:
            chart = _chart(_bars(sizes, targets, _names(rows, "recipe")), f"sizes-{len(blocks)}")
            caption = (
                "Size of the exported file (1 kB is 1000 bytes); for Core ML of all files in the package. A missing "
                "bar is a combination without a file."
            )
            blocks.append(Block(model, chart, caption=caption))
    return Section("sizes", "Size", blocks=tuple(blocks), nothing="Nothing was exported.")


def _bars(sizes: dict[tuple[str, str], float], targets: Sequence[str], recipes: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    recipes = [recipe for recipe in recipes if any(recipe == r for _, r in sizes)]
    figure = go.Figure()
    for place, target in enumerate(targets):
        values = [sizes.get((target, recipe)) for recipe in recipes]
        figure.add_bar(
            name=target,
            x=recipes,
            y=values,
            text=["" if v is None else f"{v:,.1f}" for v in values],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            marker={
                "color": COLORS[place % len(COLORS)],
                "pattern": {"shape": PATTERNS[place % len(PATTERNS)], "size": 6},
            },
            hovertemplate=f"{_safe(target)}, %{{x}}: %{{y:,.1f}} kB<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.18, bargroupgap=0.06, uniformtext={"mode": "show", "minsize": 9})
    figure.update_yaxes(title="kB", rangemode="tozero")
    return figure


def _by_class(found: Sequence[Row]) -> Section:
    blocks: list[Block] = []
    for place, rows in _by_device(found):
        labels = rows[0].checkpoint.spec.labels if rows[0].checkpoint else ()
        width = len(rows[0].classes)
        labels = labels if len(labels) == width else tuple(str(i) for i in range(width))
        shown = _most_changed(rows, width)
        counts = [rows[0].classes[i][0] for i in shown]
        caption = (
            f"Percentage points of each class's samples lost against the float model; negative is a gain. A class has "
            f"{min(counts)} to {max(counts)} samples here, so one sample is up to {100 / min(counts):.1f} points. A "
            "star marks intervals that leave out 0; of many, about 1 in 20 does by chance."
        )
        if len(shown) < width:
            caption += f" Shown are the {len(shown)} of {width:,} classes that change the most."
        title = f"{place}: drop by class, points"
        chart = _chart(_heatmap(rows, labels, shown), f"classes-{len(blocks)}", 100 + 26 * len(rows), 10)
        columns = (*_words("recipe", "target"), *_numbers(*(labels[i] for i in shown)))
        lines = tuple((row.cell.recipe, row.cell.target, *(_class_text(row, i) for i in shown)) for row in rows)
        blocks.append(Block(title, chart, Table(columns, lines), caption))
    return Section("classes", "Accuracy by class", blocks=tuple(blocks), nothing="Nothing was measured.")


def _most_changed(rows: Sequence[Row], width: int) -> list[int]:
    """Indices of at most MOST_CLASSES classes with samples, in label order: those with the largest change anywhere."""
    with_samples = [i for i in range(width) if rows[0].classes[i][0]]
    change = {i: max(abs(row.classes[i][1] or 0.0) for row in rows) for i in with_samples}
    return sorted(sorted(with_samples, key=lambda i: -change[i])[:MOST_CLASSES])


def _class_text(row: Row, label: int) -> str:
    _, drop, interval = row.classes[label]
    if drop is None or interval is None:
        return "–"
    return (f"{drop + 0:+.1f}" if round(drop, 1) else "0") + ("*" if stats.is_resolved(interval) else "")


def _heatmap(rows: Sequence[Row], labels: Sequence[str], shown: Sequence[int]) -> Any:
    import plotly.graph_objects as go

    values = [[row.classes[i][1] for i in shown] for row in rows]
    largest = max((abs(v) for line in values for v in line if v is not None), default=0.0)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(range(len(shown))),
            y=list(range(len(rows))),
            zmid=0,
            zmin=-max(largest, 1),
            zmax=max(largest, 1),
            colorscale="PuOr_r",
            xgap=1,
            ygap=1,
            showscale=False,
            text=[[_class_text(row, i) for i in shown] for row in rows],
            texttemplate="%{text}",
            customdata=[[f"{_safe(_name(row.cell))}, {_safe(labels[i])}" for i in shown] for row in rows],
            hovertemplate="%{customdata}<br>drop %{text} points<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=list(range(len(shown))),
        ticktext=[_short(labels[i]) for i in shown],
        side="top",
        tickangle=-35,
        showgrid=False,
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[_safe(_name(row.cell)) for row in rows],
        autorange="reversed",
        showgrid=False,
    )
    return figure


def _names(found: Iterable[Row], field: str) -> list[str]:
    """Names in the order of the rows, once each."""
    return list(dict.fromkeys(getattr(row.cell, field) for row in found))


def _symbol(recipe: str, recipes: Sequence[str]) -> str:
    return SYMBOLS[list(recipes).index(recipe) % len(SYMBOLS)]


def _safe(text: str) -> str:
    """Text as plotly shows it letter by letter: it reads a few HTML tags otherwise."""
    return html.escape(text, quote=False)


def _short(label: str) -> str:
    return _safe(label if len(label) <= 14 else label[:13] + "…")


def _chart(figure: Any, name: str, height: int = 380, foot: int = 50) -> str:
    """A figure as a piece of HTML without plotly.js; colours of text and lines are the page's."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 40, "b": foot},
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.1, "x": 0},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"chart-{name}", config=config))
