"""The history in the report: charts, breaks, steps, and names from hostile files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.report import history
from pipeline.report.document import write_report
from pipeline.report.page import excerpt
from pipeline.results import trends
from pipeline.results.history import INSTRUCTIONS
from pipeline.results.trends import History, LeftOut
from pipeline.system.store import Store
from tests.cli import inv
from tests.results.test_history import ENTRY, days, tree, write

HOSTILE = "<script>alert(1)</script>"


def counted(**changes: str) -> History:
    """Twelve days of instructions, with a step on the seventh and other hardware from the tenth on."""
    entries = days(12, figure=INSTRUCTIONS, medians=[(1000.0,)] * 6 + [(1100.0,)] * 6, **changes)
    hardware = ["one"] * 9 + ["other"] * 3
    return History(tuple(trends.trends([replace(e, hardware=name) for e, name in zip(entries, hardware, strict=True)])))


def test_a_line_has_a_gap_where_conditions_change() -> None:
    (one,) = [trend for trend in counted().trends if trend.figure == INSTRUCTIONS]
    times, values = history._line(one)
    assert len(times) == 13 and values == [1000.0] * 6 + [1100.0] * 3 + [None] + [1100.0] * 3


def test_the_section_has_a_chart_a_table_and_the_events() -> None:
    chart, events = history.section(counted()).blocks
    assert chart.table is not None and chart.chart.count("history-0") >= 1
    assert [line[2:] for line in chart.table.lines if line[2] == "instructions"] == [
        ("instructions", "▁▁▁▁▁▁███|███", "12", "1,100", "+0.0 %")
    ]
    assert [point[:10] for point in events.points] == ["2026-01-07", "2026-01-10"]


def test_files_that_are_left_out_are_named() -> None:
    (block,) = history.section(History((), (LeftOut("stray.json", "not JSON"),))).blocks
    assert "stray.json" in block.points[0]
    assert "no measurements" in excerpt(history.section(History(())))


def test_names_from_a_file_cannot_add_html(tmp_path: Path) -> None:
    found = counted(model=HOSTILE, recipe=HOSTILE, note=HOSTILE)
    page = write_report(Store(tmp_path / "build"), past=found).read_text()
    assert HOSTILE not in page and "history-0" in page
    assert HOSTILE not in (tmp_path / "build" / "report.md").read_text()


def test_the_report_has_the_trends_of_its_models_only(tmp_path: Path) -> None:
    made = tree(tmp_path / "build")
    write_report(made.build, [("toy", "torch")], past=History((*counted().trends, *counted(model="other").trends)))
    text = (made.root / "report.md").read_text()
    assert "toy (torch) on pi5" in text and "other (torch)" not in text


@pytest.mark.parametrize("stray", [False, True])
def test_the_command_writes_the_report_and_refuses_stray_files_after_that(stray: bool, tmp_path: Path) -> None:
    made, folder = tree(tmp_path / "build"), tmp_path / "history"
    write(folder, ENTRY)
    if stray:
        (folder / "stray.json").write_text("{}")
    done = inv(made.root, "report", "--history", folder)
    assert done.code == (2 if stray else 0) and ("stray.json" in done.err) == stray
    assert "## History" in (made.root / "report.md").read_text()
