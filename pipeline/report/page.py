"""The sections, tables and blocks of a report, and how they render to one HTML page and to GitHub Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.formatting import NONE

TEMPLATE = Path(__file__).with_name("template.html")
TITLE = "Model report"


@dataclass(frozen=True)
class Column:
    """A table column; numbers are aligned to the right."""

    title: str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table of texts. If a line has fewer texts than there are columns, its last text spans the rest."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[str, ...], ...]

    def without_empty(self, *titles: str) -> Table:
        """The table without those of these columns in which no whole line has a value."""
        whole = [line for line in self.lines if len(line) == len(self.columns)]
        gone = {
            i
            for i, column in enumerate(self.columns)
            if column.title in titles and all(line[i] == NONE for line in whole)
        }
        lines = tuple(
            tuple(text for i, text in enumerate(line) if i not in gone or i == len(line) - 1 < len(self.columns) - 1)
            for line in self.lines
        )
        return Table(tuple(column for i, column in enumerate(self.columns) if i not in gone), lines)


@dataclass(frozen=True)
class Block:
    """A list of sentences, preformatted text, a chart or a table, with an optional heading and caption.

    Attributes:
        points: the sentences of the list.
        code: preformatted text.
        chart: HTML of a chart. If there is a table as well, it holds the chart's numbers.
    """

    title: str = ""
    points: tuple[str, ...] = ()
    code: str = ""
    chart: str = ""
    table: Table | None = None
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: the anchor in the HTML page.
        nothing: the text if there are no blocks. A section with neither is omitted.
    """

    name: str
    title: str
    text: str = ""
    blocks: tuple[Block, ...] = ()
    nothing: str = ""


def texts(*titles: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(title, number=False) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title) for title in titles)


def only(block: Block) -> tuple[Block, ...]:
    """The block, or nothing if it is empty."""
    return (block,) if block.points or (block.table and block.table.lines) else ()


def web_page(sections: Sequence[Section], title: str = TITLE) -> str:
    """The sections as one self-contained HTML page. It includes plotly.js if there is a chart."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    charts = any(block.chart for section in sections for block in section.blocks)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(sections=sections, title=title, plotlyjs=get_plotlyjs() if charts else "")


def markdown(sections: Sequence[Section], title: str = TITLE) -> str:
    """The sections as GitHub Markdown, without the charts."""
    parts = [f"# {_plain(title)}", "The charts are in report.html. Their numbers are in the tables below."]
    return "\n\n".join([*parts, *(excerpt(section).rstrip("\n") for section in sections)]) + "\n"


def excerpt(section: Section) -> str:
    """One section as GitHub Markdown, to be read alone."""
    parts = [f"## {_plain(section.title)}", _plain(section.text)]
    parts += [part for block in section.blocks for part in _block(block)] or [_plain(section.nothing)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> list[str]:
    if block.chart and not block.table:
        return [f"{_plain(block.title)}: the chart is in report.html."]
    return [
        f"### {_plain(block.title)}" if block.title else "",
        "\n".join(f"- {_plain(point)}" for point in block.points),
        _fenced(block.code) if block.code else "",
        _table(block.table) if block.table else "",
        _plain(block.caption),
    ]


def _fenced(text: str) -> str:
    """Preformatted text, in a fence longer than any within it."""
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
    """The text on one line, with Markdown and HTML characters escaped."""
    line = " ".join(text.split())
    for mark in "\\`*_[]|~#":
        line = line.replace(mark, "\\" + mark)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
