"""Report: build/report.html (one file, opens offline), build/report.md and build/results.json.

The page and the Markdown are two renderings of the same sections, so they cannot differ in a figure. Only JSON and
predictions are read; no framework is imported.

    page.py       what a section is, and its two renderings; template.html is the page around it
    summary.py    what to take: the smallest and the fastest without a loss
    tables.py     every cell, the outputs beside each other, what has no figures, and the warnings
    threads.py    several threads beside one
    charts.py     cost and drop, sizes, drops by class
    origins.py    machines, tools and method: where the figures come from
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import to_json
from pipeline.report import charts, origins, tables, threads
from pipeline.report.page import Section, markdown, web_page
from pipeline.report.summary import summary
from pipeline.results import collect
from pipeline.results.bit_equality import Equality, equalities, over_threads
from pipeline.results.rows import Row
from pipeline.system import store
from pipeline.system.store import Store


def report(build: Store, models: Sequence[tuple[str, str]] | None = None) -> Path:
    """Writes report.html, report.md and results.json into the build folder; returns the page's path.

    Args:
        models: (model, framework) pairs; by default those that have a checkpoint.

    Raises:
        DiskFull: no space is left.
    """
    found = collect.rows(build, models)
    sections = _sections(found, equalities(found))
    page = build.root / "report.html"
    _write(build.root / "results.json", json.dumps([to_json(row.cell) for row in found], indent=1) + "\n")
    _write(build.root / "report.md", markdown(sections))
    _write(page, web_page(sections))
    return page


def _sections(found: Sequence[Row], pairs: Sequence[Equality]) -> list[Section]:
    sections = [
        summary(found),
        charts.trade_off(found),
        tables.cells(found),
        tables.steps(found),
        charts.sizes(found),
        tables.bit_equality(pairs),
        threads.section(over_threads(found)),
        charts.classes(found),
        tables.without_figures(found),
        tables.exports(found),
        tables.warnings(found),
        origins.machines(found),
        origins.tools(found),
        origins.method(),
    ]
    return [section for section in sections if section.blocks or section.nothing]


def _write(path: Path, text: str) -> None:
    with store.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
