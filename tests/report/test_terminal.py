"""What the terminal shows: tables, marks and checklists; plain when piped."""

from __future__ import annotations

import dataclasses
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from rich.console import RenderableType

from pipeline.core import Coverage, FloatLayer
from pipeline.report import terminal
from pipeline.report.terminal import Check
from pipeline.results import collect
from pipeline.results.image_trace import Difference, Side, Trace
from pipeline.results.instruction_budget import Comparison, Count
from tests.builds import BOARD, Tree

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    return made


def rows(*parts: RenderableType) -> list[list[str]]:
    """The texts of every line."""
    return [re.split(r" {2,}", line.strip()) for line in terminal.text(*parts).splitlines()]


def of(tree: Tree) -> list[list[str]]:
    return rows(*terminal.cells(collect.cells(tree.build)))


def measured(tree: Tree) -> dict[tuple[str, ...], dict[str, str]]:
    """The measured cells by recipe, target and device, each with its figures by the name of the column."""
    found = of(tree)
    head = next(row for row in found if row[0] == "recipe")
    return {
        tuple(row[:3]): dict(zip(head[3:], row[3:], strict=True))
        for row in found
        if row[0] != head[0] and len(row) == len(head)
    }


# -- cells -------------------------------------------------------------------------------------------------------------


def test_a_measured_cell_shows_its_figures(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", tree.wrong(20), throttled=True)
    assert of(tree)[0] == ["toy (torch)"]
    figures = measured(tree)["int8", "onnx", "local (throttled)"]
    assert figures["size kB"] == "4.1"
    assert figures["p50 / p90 / p99 µs"] == "25.0 / 25.4 / 25.5"
    assert (figures["load ms"], figures["RSS MB"]) == ("3.00", "50.0")
    assert (figures["top-1 %"], figures["agree %"]) == ("90.00", "90.00")
    assert figures["drop, points [95 %]"] == "+10.00 [+5.56, +14.24]*"


def test_a_quantized_cell_shows_its_graph_and_a_mark_if_much_of_it_stays_in_float(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    low = Coverage(0.3, 0.128, (FloatLayer("up", "aten.conv_transpose2d", 800, "no rule"),))
    for target in ("tflite", "coreml"):
        tree.artifact("int8", target, coverage=low)
    tree.measure("int8", "tflite")
    found = measured(tree)
    assert [found["int8", "onnx", "local"][column] for column in ("graph dB", "quantized %")] == ["31.5", "100.0"]
    assert found["int8 (12.8 % quantized)", "tflite", "local"]["quantized %"] == "12.8"
    assert any(row[:2] == ["not checked", "int8 (12.8 % quantized)"] for row in of(tree))
    (warning,) = [row[1] for row in of(tree) if row[0].startswith("!") and "quantized;" in row[1]]
    assert "up (aten.conv_transpose2d" in warning


def test_an_emulated_device_shows_instructions_and_no_time(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", device=BOARD)
    figures = measured(tree)["fp32", "onnx", "pi4-emulated"]
    assert figures["p50 / p90 / p99 ms"] == "25,000 instr., p99 +2.0%"


def test_a_cell_without_a_measurement_shows_its_status_and_reason(tree: Tree) -> None:
    tree.artifact("fp32", "coreml")
    cells = collect.cells(tree.build)
    found = rows(*terminal.cells(cells))
    for status in ("unsupported", "failed", "missing"):
        assert sum(row[0] == status for row in found) == sum(cell.status == status for cell in cells)
    (coreml,) = [row for row in found if row[0] == "not checked"]
    assert coreml[1:3] == ["fp32", "coreml"] and "4.1" in coreml and "Apple" in coreml[-1]


def test_control_characters_and_line_breaks_of_a_reason_are_removed(tree: Tree) -> None:
    tree.fail("int8", "onnx", "red\x1b[31m\nalert")
    (failed,) = [row for row in of(tree) if row[0] == "failed"]
    assert failed[-1] == "red [31m alert"


def test_an_empty_build_shows_the_first_command() -> None:
    assert "inv train" in terminal.text(*terminal.cells([]))


def test_fast_models_are_shown_in_microseconds(tree: Tree) -> None:
    for recipe, run in (("fp32", (1000, 2_230_000)), ("int8", (10, 1_610_000))):
        tree.artifact(recipe, "onnx")
        tree.measure(recipe, "onnx", runs=(run,) * 100)
    figures = {name[0]: cell["p50 / p90 / p99 µs"] for name, cell in measured(tree).items()}
    assert figures == {"fp32": "2.23 / 2.23 / 2.23", "int8": "161 / 161 / 161"}


def test_slower_models_are_shown_in_milliseconds(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", runs=((1, 1_370_000),) * 100)
    assert measured(tree)["fp32", "onnx", "local"]["p50 / p90 / p99 ms"] == "1.37 / 1.37 / 1.37"


def test_a_warning_of_several_cells_is_shown_once_below_the_table(tree: Tree) -> None:
    for target, load in (("onnx", 4.4), ("tflite", 4.1), ("executorch", 4.2)):
        tree.artifact("fp32", target)
        tree.measure("fp32", target, load_average=(load, 3.0))
    found = of(tree)
    assert [row for row in found if row[0].startswith("!")] == [found[-1]]
    assert "3 of 3 cells" in found[-1][1] and "4.1 to 4.4" in found[-1][1]


# -- other tables ------------------------------------------------------------------------------------------------------


def test_counted_instructions_are_shown_beside_the_recorded_ones() -> None:
    one = Count("toy", "torch", "int8", "tflite", "Pi", "litert", 1, "2.3.0", 1_000_000)
    grown, new = dataclasses.replace(one, instructions=1_100_000), dataclasses.replace(one, recipe="fp32")
    assert rows(terminal.budget([Comparison(grown, one), Comparison(new, None)])) == [
        ["recipe", "target", "runtime", "recorded", "now", "change"],
        ["int8", "tflite", "litert 2.3.0", "1,000,000", "1,100,000", "+10.00%"],
        ["fp32", "tflite", "litert 2.3.0", "–", "1,000,000", "–"],
    ]


def stage(name: str, equal: float | None = 1.0, largest: float | None = 0.0) -> Difference:
    return Difference(name, (2, 2, 1), (2, 2, 1) if equal is not None else (3, 2, 1), equal, largest)


@pytest.mark.parametrize(
    ("stages", "verdict"),
    [
        ([stage("decoded"), stage("output_0")], ["no difference"]),
        (
            [stage("decoded"), stage("resized", 0.75, 2.0), stage("output_0", 0.5, 9.0)],
            ["first difference", "resized, cropped", "25.00%", "2"],
        ),
        ([stage("decoded", None, None)], ["first difference", "decoded pixels", "2×2×1", "3×2×1"]),
    ],
)
def test_a_trace_shows_the_first_stage_that_differs(stages: list[Difference], verdict: list[str], tree: Tree) -> None:
    artifact = tree.artifact("fp32", "onnx")
    sides = [Side(name, {"output_0": np.array([[0.0, 2.0, 1.0]], np.float32)}) for name in ("host", "phone")]
    found = rows(*terminal.traces([Trace(artifact, sides[0], sides[1], tuple(stages))]))
    assert all(word in found[1][0] for word in verdict)
    assert [row[0] for row in found[3 : 3 + len(stages)]] == [stage.title for stage in stages]
    assert found[-1] == ["phone", "b (2)"]


CHECKS = [
    Check("python", "3.11.2"),
    Check("torch", "not installed", "pip install torch"),
    *(Check(f"package-{i}", "1.0") for i in range(60)),
    Check("adb", "not found", "apt-get install adb", optional=True),
]


def test_a_checklist_sums_up_what_passed_and_shows_a_fix_for_each_problem() -> None:
    passed, failed, _, optional = rows(*terminal.checks(CHECKS))
    assert passed[0].startswith("61 checks ok: python 3.11.2, package-0 1.0, ")
    assert failed == ["failed", "torch", "not installed → pip install torch"]
    assert optional == ["missing", "adb", "not found → apt-get install adb"]


# -- at a terminal and piped -------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from pipeline.report import terminal
from pipeline.results import collect
from pipeline.system.store import Store
from tests.report.test_terminal import CHECKS
terminal.show(*terminal.cells(collect.cells(Store(Path(sys.argv[1])))))
terminal.show(*terminal.checks(CHECKS))
"""


@pytest.fixture
def build(tree: Tree) -> Path:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", load_average=(4.4, 3.0))
    tree.fail("int8", "executorch", "a long reason " * 20)
    return tree.root


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "COLORTERM")}
    return {**kept, "TERM": "xterm-256color", **more}


def piped(build: Path, **more: str) -> str:
    command = [sys.executable, "-c", SCRIPT, str(build)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def at_a_terminal(build: Path, columns: int = 100, **more: str) -> str:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    command = [sys.executable, "-c", SCRIPT, str(build)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(**more), stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 10_000):
                shown += part
        except OSError:  # Linux: the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def test_piped_output_has_no_escape_codes_and_every_row_is_one_line(build: Path) -> None:
    shown = piped(build, COLUMNS="40")
    assert "\x1b" not in shown and "✓" not in shown
    lines = shown.splitlines()
    assert next(line for line in lines if line.startswith("failed ")).endswith("a long reason")
    assert len([line for line in lines if line.startswith("int8 ")]) == 1
    assert len([line for line in lines if line.startswith("! ")]) == 1
    assert not [line for line in lines if line != line.rstrip()]
    assert all(f"package-{i} 1.0" in shown for i in range(60))


def test_a_terminal_gets_colour_and_marks_and_lines_of_its_width(build: Path) -> None:
    shown = at_a_terminal(build)
    assert "\x1b[1;31m✗ failed" in shown and "\x1b[32m✓ 61 checks ok" in shown
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= 100
    assert sum("package-" in line for line in lines) == 2


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colour_gets_plain_text_of_its_width(build: Path, variables: dict[str, str]) -> None:
    shown = at_a_terminal(build, **variables)
    assert "\x1b" not in shown and "✓" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_colour_can_be_forced_where_rows_stay_whole(build: Path) -> None:
    shown = piped(build, FORCE_COLOR="1")
    assert "\x1b[1;31m✗ failed" in shown
    assert len([line for line in shown.splitlines() if "✗ failed" in line and "a long reason" in line]) == 1


def test_a_terminal_of_80_columns_shows_every_value_whole(build: Path) -> None:
    wide, narrow = (re.sub(r"\x1b\[[\d;]*m", "", at_a_terminal(build, columns)) for columns in (300, 80))
    (row,) = [line for line in wide.splitlines() if line.startswith("int8 ")]
    assert [value for value in re.split(r" {2,}", row) if value not in narrow] == []
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.partition("checks ok")[0].count("reason") >= 20
