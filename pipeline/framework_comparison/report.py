"""The comparison's report: for each part its charts, its tables with a verdict a row, and what was said verbatim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from pipeline import formatting, registry
from pipeline.formatting import NONE
from pipeline.framework_comparison import charts
from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, PAIRED, REGISTRY, Part, Row, Side
from pipeline.framework_comparison.verdicts import SAME, UNRESOLVED, Verdict, verdict
from pipeline.report.figures import html
from pipeline.report.page import Block, Column, Section, Table, markdown, numbers, only, texts, web_page
from pipeline.system import store

MANY = 6
"""A table with as many ratios has a chart of its own; those of smaller ones stand in one chart."""
QUOTED = "verbatim"
"""A table with this word in its title is of messages."""
METHOD = (
    "TensorFlow is used under Keras 3, as this project's models and training are written.",
    "Each figure of both frameworks was measured in one run on one machine. The two take turns, A B, B A, A B …, so "
    "that whatever else the machine does is met by both. A PyTorch process has not imported TensorFlow, nor the "
    "other way round.",
    "A figure is the median over rounds of each round's median. The ratio is the geometric mean over rounds of "
    "TensorFlow's figure over PyTorch's in the same round; its 95 % interval is Student's t on the logarithms. Where "
    "it contains 1 these rounds show no difference that we can resolve, and the verdict says so.",
    "Accuracy is paired picture by picture; its interval is Wald's for a mean, adjusted as Bonett and Price do "
    "(2012). Where it contains 0 the pictures show no difference.",
    "Counts (lines, bytes, graphs) are the same however often they are made: they have no interval, and differ or do "
    "not.",
    "About 1 in 20 intervals leaves out equality by chance. A resolved difference need not be one that matters.",
)


def report(home: Path, model: str, parts: Sequence[Part]) -> Path:
    """Writes report.html and report.md into a folder; returns the page's path."""
    sections = _sections(parts)
    title = f"PyTorch and TensorFlow on {model}"
    store.write_text(home / "report.md", markdown(sections, title))
    store.write_text(home / "report.html", web_page(sections, title))
    return home / "report.html"


def _sections(parts: Sequence[Part]) -> list[Section]:
    return [_summary(parts), *map(_part, parts), _where(parts), Section("method", "Method", blocks=_points(METHOD))]


def _points(sentences: Sequence[str]) -> tuple[Block, ...]:
    return only(Block(points=tuple(sentences)))


# -- in short ----------------------------------------------------------------------------------------------------------


def _summary(parts: Sequence[Part]) -> Section:
    """How many rows of each part come to which verdict, and the largest differences that are resolved."""
    kinds = (FRAMEWORKS["torch"], FRAMEWORKS["keras"], UNRESOLVED, SAME, "one of them only", "other")
    lines = []
    points: list[str] = []
    for part in parts:
        judged = [(row, verdict(row)) for row in part.rows if row.better != "neither"]
        counts = Counter(_kind(found) for _, found in judged)
        lines.append(
            (
                registry.load(REGISTRY, part.name).TITLE,
                *(str(counts[kind] or NONE) for kind in kinds),
            )
        )
        points += _largest(part, judged)
    table = Table((*texts("part"), *numbers("PyTorch better", "TensorFlow better", *kinds[2:])), tuple(lines))
    caption = "Rows of each part by their verdict. Rows are not equally important: this is an index, no score."
    return Section("summary", "In short", blocks=(Block(table=table, caption=caption), *_points(points)))


def _kind(found: Verdict) -> str:
    if found.better:
        return FRAMEWORKS[found.better]
    if found.words in (UNRESOLVED, SAME):
        return found.words
    return "one of them only" if found.words.endswith(" only") else "other"


def _largest(part: Part, judged: Iterable[tuple[Row, Verdict]]) -> list[str]:
    """The row of a part in which the two are furthest apart, of those with an interval."""
    resolved = [(row, v) for row, v in judged if v.better and v.ratio and v.interval and row.kind != PAIRED]
    if not resolved:
        return []
    row, found = max(resolved, key=lambda each: max(each[1].ratio or 1, 1 / (each[1].ratio or 1)))
    assert found.better is not None
    title = registry.load(REGISTRY, part.name).TITLE
    return [
        f"{title}: furthest apart in “{row.table}: {row.what}”, where {FRAMEWORKS[found.better]} is better: "
        f"{_figure(found.torch)} beside {_figure(found.keras)} {row.unit}, a ratio of {_ratio(found)}."
    ]


# -- a part ------------------------------------------------------------------------------------------------------------


def _part(part: Part) -> Section:
    module = registry.load(REGISTRY, part.name)
    tables = [(title, list(rows)) for title, rows in groupby(part.rows, key=lambda row: row.table)]
    compared = [_compared(rows) for _, rows in tables]
    small = [row for rows in compared if len(rows) < MANY for row in rows]
    blocks = [*_curves(part)]
    if small:
        chart = html(charts.ratios(_bars(small, long=True)), f"{part.name}-ratios")
        blocks.append(Block("TensorFlow beside PyTorch", chart=chart, caption=RATIOS))
    for number, (title, rows) in enumerate(tables):
        blocks += _messages(rows) if QUOTED in title else [_table(title, rows, f"{part.name}-{number}")]
    return Section(part.name, module.TITLE, module.ABOUT, (*blocks, *_points((*part.notes, _when(part)))))


RATIOS = (
    "TensorFlow's figure over PyTorch's, logarithmic, with its 95 % interval: left of 1 TensorFlow's is the lower one, "
    "right of it PyTorch's. Grey: these rounds resolve no difference."
)
SHIFTS = (
    "TensorFlow's figure minus PyTorch's in points, with its 95 % interval, over the same test pictures. Grey: these "
    "pictures resolve no difference."
)


def _compared(rows: Iterable[Row]) -> list[Row]:
    """Rows with figures of both that a chart can show."""
    found = [(row, verdict(row)) for row in rows]
    return [row for row, v in found if v.ratio and v.interval and row.kind != PAIRED]


def _bars(rows: Iterable[Row], long: bool) -> list[tuple[str, Verdict]]:
    return [(f"{row.table}: {row.what}" if long else row.what, verdict(row)) for row in rows]


def _table(title: str, rows: Sequence[Row], name: str) -> Block:
    """A table of rows with their verdicts, behind a chart where there are many."""
    judged = [(row, verdict(row)) for row in rows]
    paired, worded = rows[0].kind == PAIRED, any(row.torch.text or row.keras.text for row in rows)
    between = numbers("difference, points" if paired else "ratio", "95 % interval") if not worded else ()
    if all(row.kind == EXACT for row in rows):
        between = between[:1]
    reasons = any(row.torch.reason or row.keras.reason for row in rows)
    names = tuple(Column(title, number=not worded) for title in FRAMEWORKS.values())
    columns = (*texts(""), *names, *between, *texts("verdict", *(["why"] if reasons else [])))
    lines = tuple(
        (row.what, _shown(row.torch, found.torch), _shown(row.keras, found.keras))
        + (_shift(found) if paired else (_figure(found.ratio), _interval(found.interval)))[: len(between)]
        + ((found.words, _why(row)) if reasons else (found.words,))
        for row, found in judged
    )
    chart = ""
    if len(_compared(rows)) >= MANY:
        chart = html(charts.ratios(_bars(_compared(rows), long=False)), name)
    elif paired and len(rows) >= MANY:
        chart = html(charts.shifts(_bars([row for row in rows if row.differences], long=False)), name)
    better = {"lower": "Lower is better.", "higher": "Higher is better.", "neither": ""}[rows[0].better]
    better = better if len({row.better for row in rows}) == 1 and not worded else ""
    caption = f"{(SHIFTS if paired else RATIOS) if chart else ''} {better}".strip()
    return Block(title, chart=chart, table=Table(columns, lines), caption=caption)


def _shown(side: Side, value: float | None) -> str:
    """A side's figure, with the interval that it brings, or the text in its place."""
    if side.text is not None:
        return side.text
    if side.interval:
        return f"{formatting.points(value or 0.0)} {formatting.interval(side.interval)}"
    return _figure(value)


def _shift(found: Verdict) -> tuple[str, str]:
    """Points and their interval, of a paired row."""
    if found.ratio is None or found.interval is None:
        return NONE, NONE
    return formatting.points(found.ratio), formatting.interval(found.interval)


def _ratio(found: Verdict) -> str:
    return f"{_figure(found.ratio)} {_interval(found.interval)}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return NONE if bounds is None else f"[{_figure(bounds[0])}, {_figure(bounds[1])}]"


def _figure(value: float | None) -> str:
    """Three significant digits or so, however small; counts whole."""
    if value is None:
        return NONE
    if value == round(value):
        return f"{value:,.0f}"
    return formatting.figure(value) if abs(value) >= 0.1 else f"{value:.2g}"


def _why(row: Row) -> str:
    """Reasons, each once."""
    torch, keras = row.torch.reason, row.keras.reason
    if torch == keras:
        return torch or ""
    said = [f"{FRAMEWORKS[name]}: {reason}" for name, reason in (("torch", torch), ("keras", keras)) if reason]
    return formatting.one_line("; ".join(said))


def _messages(rows: Sequence[Row]) -> list[Block]:
    return [
        Block(f"{row.what}: {FRAMEWORKS[name]}", code=side.text or "", caption=side.reason or "")
        for row in rows
        for name, side in (("torch", row.torch), ("keras", row.keras))
    ]


def _curves(part: Part) -> list[Block]:
    blocks = []
    for number, (title, group) in enumerate(groupby(part.curves, key=lambda curve: curve.chart)):
        chart = html(charts.curves(list(group), FRAMEWORKS), f"{part.name}-curve-{number}")
        blocks.append(Block(title, chart=chart, caption="A line a training: share of the split against wall time."))
    return blocks


def _when(part: Part) -> str:
    """When it was measured, how long that took, and what else the machine did."""
    loaded = "; ".join(
        f"{FRAMEWORKS[name]}'s had imported {', '.join(packages)}" for name, packages in part.loaded.items()
    )
    return (
        f"Measured {part.started_at} in {part.seconds / 60:.1f} minutes; the machine's load average was "
        f"{part.load[0]:.1f} before and {part.load[1]:.1f} after" + (f". Processes: {loaded}." if loaded else ".")
    )


def _where(parts: Sequence[Part]) -> Section:
    """Machines and versions; one table where all parts have the same."""
    columns = texts("what", "value")
    facts = {tuple({**part.machine, **part.tools}.items()): part for part in parts}
    blocks = [Block(table=Table(columns, tuple(lines))) for lines in facts]
    return Section("machine", "Machine and versions", blocks=tuple(blocks), nothing="Nothing was measured.")
