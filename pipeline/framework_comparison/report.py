"""The comparison's report: each part's charts, its tables with one verdict per row, and verbatim messages."""

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
"""A table with at least so many ratios has its own chart. Smaller tables of a part share one chart."""
QUOTED = "verbatim"
"""A table with this word in its title contains messages."""
METHOD = (
    "TensorFlow is used through Keras 3, as in this project's models and training.",
    "Both frameworks were measured in the same run on the same machine. They take turns (A B, B A, A B …), so that "
    "other load on the machine affects both. A PyTorch process never imports TensorFlow, and a TensorFlow process "
    "never imports PyTorch.",
    "A figure is the median over the rounds' medians. The ratio is the geometric mean, over rounds, of TensorFlow's "
    "figure divided by PyTorch's in the same round. Its 95 % interval is Student's t on the logarithms. If the "
    "interval contains 1, the difference is not significant.",
    "Accuracy is paired image by image. Its interval is a Wald interval for a mean, adjusted as in Bonett and Price "
    "(2012). If it contains 0, the difference is not significant.",
    "Counts (lines, bytes, graphs) are the same in every round, so they have no interval: they differ or they do not.",
    "About 1 in 20 intervals excludes equality by chance. A significant difference need not be an important one.",
)


def report(home: Path, model: str, parts: Sequence[Part]) -> Path:
    """Writes report.html and report.md into the folder `home` and returns the path of report.html."""
    sections = _sections(parts)
    title = f"PyTorch and TensorFlow on {model}"
    store.write_text(home / "report.md", markdown(sections, title))
    store.write_text(home / "report.html", web_page(sections, title))
    return home / "report.html"


def _sections(parts: Sequence[Part]) -> list[Section]:
    return [_summary(parts), *map(_part, parts), _where(parts), Section("method", "Method", blocks=_points(METHOD))]


def _points(sentences: Sequence[str]) -> tuple[Block, ...]:
    return only(Block(points=tuple(sentences)))


# -- summary -----------------------------------------------------------------------------------------------------------


def _summary(parts: Sequence[Part]) -> Section:
    """The number of rows of each part by verdict, and the largest significant difference of each part."""
    kinds = (FRAMEWORKS["torch"], FRAMEWORKS["keras"], UNRESOLVED, SAME, "only one of them", "other")
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
    caption = "Rows of each part by verdict. Rows are not equally important, so this is an index, not a score."
    return Section("summary", "Summary", blocks=(Block(table=table, caption=caption), *_points(points)))


def _kind(found: Verdict) -> str:
    if found.better:
        return FRAMEWORKS[found.better]
    if found.words in (UNRESOLVED, SAME):
        return found.words
    return "only one of them" if found.words.endswith(" only") else "other"


def _largest(part: Part, judged: Iterable[tuple[Row, Verdict]]) -> list[str]:
    """The row of a part with the largest ratio, of those with an interval."""
    significant = [(row, v) for row, v in judged if v.better and v.ratio and v.interval and row.kind != PAIRED]
    if not significant:
        return []
    row, found = max(significant, key=lambda each: max(each[1].ratio or 1, 1 / (each[1].ratio or 1)))
    assert found.better is not None
    title = registry.load(REGISTRY, part.name).TITLE
    return [
        f"{title}: the largest difference is in “{row.table}: {row.what}”. {FRAMEWORKS[found.better]} is better: "
        f"PyTorch {_figure(found.torch)}, TensorFlow {_figure(found.keras)} {row.unit}; ratio {_ratio(found)}."
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
        blocks.append(Block("TensorFlow / PyTorch", chart=chart, caption=RATIOS))
    for number, (title, rows) in enumerate(tables):
        blocks += _messages(rows) if QUOTED in title else [_table(title, rows, f"{part.name}-{number}")]
    return Section(part.name, module.TITLE, module.ABOUT, (*blocks, *_points((*part.notes, _when(part)))))


RATIOS = (
    "TensorFlow's figure divided by PyTorch's on a logarithmic axis, with its 95 % interval. Left of 1, TensorFlow's "
    "is lower; right of 1, PyTorch's. Grey: not significant."
)
SHIFTS = (
    "TensorFlow's figure minus PyTorch's in points, with its 95 % interval, over the same test images. Grey: not "
    "significant."
)


def _compared(rows: Iterable[Row]) -> list[Row]:
    """Rows with a ratio and an interval, which a chart can show."""
    found = [(row, verdict(row)) for row in rows]
    return [row for row, v in found if v.ratio and v.interval and row.kind != PAIRED]


def _bars(rows: Iterable[Row], long: bool) -> list[tuple[str, Verdict]]:
    return [(f"{row.table}: {row.what}" if long else row.what, verdict(row)) for row in rows]


def _table(title: str, rows: Sequence[Row], name: str) -> Block:
    """A table of rows with their verdicts, and a chart if there are many."""
    judged = [(row, verdict(row)) for row in rows]
    paired, worded = rows[0].kind == PAIRED, any(row.torch.text or row.keras.text for row in rows)
    between = numbers("difference, points" if paired else "ratio", "95 % interval") if not worded else ()
    if all(row.kind == EXACT for row in rows):
        between = between[:1]
    reasons = any(row.torch.reason or row.keras.reason for row in rows)
    names = tuple(Column(title, number=not worded) for title in FRAMEWORKS.values())
    columns = (*texts(""), *names, *between, *texts("verdict", *(["reason"] if reasons else [])))
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
    """A side's figure with its own interval if it has one, or its text."""
    if side.text is not None:
        return side.text
    if side.interval:
        return f"{formatting.points(value or 0.0)} {formatting.interval(side.interval)}"
    return _figure(value)


def _shift(found: Verdict) -> tuple[str, str]:
    """A paired row's difference in points, and its interval."""
    if found.ratio is None or found.interval is None:
        return NONE, NONE
    return formatting.points(found.ratio), formatting.interval(found.interval)


def _ratio(found: Verdict) -> str:
    return f"{_figure(found.ratio)} {_interval(found.interval)}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return NONE if bounds is None else f"[{_figure(bounds[0])}, {_figure(bounds[1])}]"


def _figure(value: float | None) -> str:
    """About three significant digits; whole numbers in full."""
    if value is None:
        return NONE
    if value == round(value):
        return f"{value:,.0f}"
    return formatting.figure(value) if abs(value) >= 0.1 else f"{value:.2g}"


def _why(row: Row) -> str:
    """The reasons for missing figures, without repetition."""
    torch, keras = row.torch.reason, row.keras.reason
    if torch == keras:
        return torch or ""
    reasons = [f"{FRAMEWORKS[name]}: {reason}" for name, reason in (("torch", torch), ("keras", keras)) if reason]
    return formatting.one_line("; ".join(reasons))


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
        blocks.append(Block(title, chart=chart, caption="One line per training: validation accuracy over time."))
    return blocks


def _when(part: Part) -> str:
    """When the part was measured, for how long, the machine's load, and what the processes imported."""
    loaded = "; ".join(f"{FRAMEWORKS[name]} {', '.join(packages)}" for name, packages in part.loaded.items())
    return (
        f"Measured {part.started_at} in {part.seconds / 60:.1f} minutes. Load average: {part.load[0]:.1f} before, "
        f"{part.load[1]:.1f} after." + (f" Imported by the processes: {loaded}." if loaded else "")
    )


def _where(parts: Sequence[Part]) -> Section:
    """The machine and the versions: one table if they are the same for all parts."""
    columns = texts("what", "value")
    facts = {tuple({**part.machine, **part.tools}.items()): part for part in parts}
    blocks = [Block(table=Table(columns, tuple(lines))) for lines in facts]
    return Section("machine", "Machine and versions", blocks=tuple(blocks), nothing="Nothing was measured.")
