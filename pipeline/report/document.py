"""The report's documents: build/report.html (one file, opens offline), build/report.md and build/results.json.

The HTML page and the Markdown render the same sections, so their figures cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core import to_json
from pipeline.report import charts, history, origins, tables, threads
from pipeline.report.page import Section, markdown, web_page
from pipeline.report.summary import summary
from pipeline.results import collect, verdicts
from pipeline.results.bit_equality import Equality, equalities, over_threads
from pipeline.results.rows import Row
from pipeline.results.trends import History
from pipeline.system import store
from pipeline.system.store import Store


def write_report(
    build: Store,
    models: Sequence[tuple[str, str]] | None = None,
    margin: float = verdicts.MARGIN,
    past: History | None = None,
) -> Path:
    """Writes report.html, report.md and results.json into the build folder and returns the path of report.html.

    Args:
        models: (model, framework) pairs; by default those with a checkpoint.
        margin: the largest drop of a recommended file, in percentage points.
        past: trends to show; of these models only, if any are given.

    Raises:
        BadOption: the margin is not between 0 and 100 points.
        DiskFull: no space is left on the disk.
    """
    found = collect.rows(build, models, margin)
    sections = _sections(found, equalities(found))
    if past is not None:
        own = [one for one in past.trends if models is None or (one.model, one.framework) in models]
        sections.append(history.section(replace(past, trends=tuple(own))))
    page = build.root / "report.html"
    results = json.dumps([to_json(row.cell) for row in found], indent=1) + "\n"
    store.write_text(build.root / "results.json", results)
    store.write_text(build.root / "report.md", markdown(sections))
    store.write_text(page, web_page(sections))
    return page


def page(found: Sequence[Row], title: str) -> str:
    """The report of these rows as one HTML page."""
    return web_page(_sections(found, equalities(found)), title)


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
