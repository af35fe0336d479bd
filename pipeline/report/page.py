"""What the report is made of, and its two renderings: one HTML page and GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEMPLATE = Path(__file__).with_name("template.html")
TITLE = "Measured models"


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
    """Sentences as a list, a text as it is, a chart (HTML) or a table, under a heading of its own or none, with a
    caption beneath."""

    title: str = ""
    points: tuple[str, ...] = ()
    code: str = ""
    chart: str = ""
    table: Table | None = None
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        nothing: what to say where there is no block; a section that has neither is left out.
    """

    name: str
    title: str
    text: str = ""
    blocks: tuple[Block, ...] = ()
    nothing: str = ""


def texts(*titles: str) -> tuple[Column, ...]:
    """Columns of words."""
    return tuple(Column(title, number=False) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title) for title in titles)


def only(block: Block) -> tuple[Block, ...]:
    """The block, or none where it would be empty."""
    return (block,) if block.points or (block.table and block.table.lines) else ()


def web_page(sections: Sequence[Section], title: str = TITLE) -> str:
    """The sections as one HTML page that fetches nothing: plotly.js, where a chart needs it, is inside."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = any(block.chart for section in sections for block in section.blocks)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(sections=sections, title=title, plotlyjs=get_plotlyjs() if charts else "")


def markdown(sections: Sequence[Section], title: str = TITLE) -> str:
    """The sections as GitHub Markdown; the charts stay in the page, their numbers are in the tables."""
    parts = [f"# {_plain(title)}", "The charts are in report.html; every number of theirs is in these tables."]
    for section in sections:
        parts += [f"## {section.title}", _plain(section.text)]
        parts += [part for block in section.blocks for part in _block(block)] or [_plain(section.nothing)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> list[str]:
    if block.chart and not block.table:
        return [f"{_plain(block.title)}: see the chart in report.html."]
    return [
        f"### {_plain(block.title)}" if block.title else "",
        "\n".join(f"- {_plain(point)}" for point in block.points),
        _fenced(block.code) if block.code else "",
        _table(block.table) if block.table else "",
        _plain(block.caption),
    ]


def _fenced(text: str) -> str:
    """A text as it is, in a fence longer than any that it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _table(table: Table) -> str:
    width = len(table.columns)
    head = [_plain(column.title) for column in table.columns]
    rule = ["---:" if column.number else "---" for column in table.columns]
    lines = [[_plain(text) for text in line] + [""] * (width - len(line)) for line in table.lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    for mark in "\\`*_[]|~#":
        line = line.replace(mark, "\\" + mark)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
