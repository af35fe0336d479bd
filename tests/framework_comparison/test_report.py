"""The comparison's report of parts written by hand: verdicts, charts and verbatim messages."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from pipeline.framework_comparison.parts import EXACT, MEASURED, PAIRED, Curve, Part, Row, Side
from pipeline.framework_comparison.report import report
from pipeline.framework_comparison.verdicts import UNRESOLVED

HOSTILE = "<script>alert('no')</script> | & `x` ```"


def side(*rounds: float) -> Side:
    return Side(tuple((value,) for value in rounds))


def row(what: str, torch: Side, keras: Side, kind: str = MEASURED, table: str = "Steps, ms") -> Row:
    return Row(table, what, "ms", "lower", kind, {"torch": torch, "keras": keras})


def part(name: str, *rows: Row, curves: tuple[Curve, ...] = ()) -> Part:
    return Part(
        name, rows, curves, ("A note.",), {"torch": ("torch",), "keras": ("keras", "tensorflow")}, {"cpu": "a cpu"},
        {"torch": "2.13.0"}, (0.5, 1.5), "2026-01-01T00:00:00+00:00", 90.0, "k",
    )  # fmt: skip


PARTS = [
    part(
        "graphs",
        row("eager", side(10, 11, 10), side(20, 22.5, 20.1)),
        row("compiled", side(10, 14, 9), side(12, 11, 13)),
        row("on a GPU", Side(reason="no GPU"), Side(reason="no GPU")),
        row("two of them", side(1, 2, 3), Side(reason="one device here")),
    ),
    part(
        "training", row("lines", side(29), side(25), EXACT, "Lines"), curves=(Curve("Accuracy", "torch", ((1, 0.5),)),)
    ),
    part(
        "debugging",
        row("a wrong shape", Side(((9.0,),), text=HOSTILE), Side(((0.0,),), text="nothing"), EXACT, "Said, verbatim"),
    ),
    part(
        "deployment",
        *(row(f"int8 on {i}", side(1, 1.1, 1), side(1.1, 1.2, 1.15), table="Latency, p50, ms") for i in range(6)),
        Row(
            "Accuracy drop, points", "int8 on tflite", "points", "lower", PAIRED,
            {"torch": Side(((0.0,),), (-0.5, 0.5)), "keras": Side(((4.0,),), (2.5, 5.5))}, ((0, 480), (1, 20)),
        ),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    assert report(folder, "toy", PARTS) == folder / "report.html"
    return folder


def section(home: Path, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', (home / "report.html").read_text(), re.DOTALL)
    assert found
    return found[0]


def lines(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [
        [html.unescape(cell.strip()) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in rows
    ]


def test_each_row_has_figures_ratio_interval_and_verdict(home: Path) -> None:
    assert lines(section(home, "graphs")) == [
        ["", "PyTorch", "TensorFlow", "ratio", "95 % interval", "verdict", "reason"],
        ["eager", "10", "20.1", "2.02", "[1.96, 2.08]", "PyTorch", ""],
        ["compiled", "10", "12", "1.11", "[0.511, 2.41]", UNRESOLVED, ""],
        ["on a GPU", "–", "–", "–", "–", "neither", "no GPU"],
        ["two of them", "2", "–", "–", "–", "PyTorch only", "TensorFlow: one device here"],
    ]


def test_an_accuracy_drop_has_both_intervals_and_the_paired_difference(home: Path) -> None:
    assert lines(section(home, "deployment"))[-1] == [
        "int8 on tflite", "0.00 [−0.50, +0.50]", "+4.00 [+2.50, +5.50]*", "+4.00", "[+2.19, +5.78]*", "PyTorch",
    ]  # fmt: skip


def test_the_summary_counts_verdicts_and_names_the_largest_difference(home: Path) -> None:
    summary = section(home, "summary")
    assert ["Graphs: eager and compiled", "1", "–", "1", "–", "1", "1"] in lines(summary)
    assert "“Steps, ms: eager”. PyTorch is better: PyTorch 10, TensorFlow 20.1 ms" in summary


def test_large_tables_have_their_own_chart_and_small_ones_share_one(home: Path) -> None:
    assert section(home, "graphs").count('class="plotly-graph-div"') == 1
    assert "<details>" in section(home, "deployment")
    assert section(home, "training").count('class="plotly-graph-div"') == 1  # the curve; a count has no interval
    assert "PyTorch only" not in section(home, "deployment")


def test_a_message_is_shown_verbatim_and_escaped(home: Path) -> None:
    page, plain = (home / "report.html").read_text(), (home / "report.md").read_text()
    assert "alert('no')" not in page and html.escape(HOSTILE, quote=False) in page.replace("&#39;", "'")
    assert f"````text\n{HOSTILE}\n````" in plain


def test_machine_versions_load_and_imported_packages_are_reported(home: Path) -> None:
    assert lines(section(home, "machine"))[1:] == [["cpu", "a cpu"], ["torch", "2.13.0"]]
    assert "0.5 before, 1.5 after" in section(home, "graphs")
    assert "TensorFlow keras, tensorflow" in html.unescape(section(home, "graphs"))


def test_the_title_names_the_model(home: Path) -> None:
    assert "<h1>PyTorch and TensorFlow on toy</h1>" in (home / "report.html").read_text()
    assert (home / "report.md").read_text().startswith("# PyTorch and TensorFlow on toy\n")
