"""table: what the terminal shows of every cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import Failure
from pipeline.report.terminal import table
from pipeline.results import collect
from pipeline.system import store
from tests.builds import BOARD, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    return made


def test_the_table_has_a_line_for_every_cell_and_every_reason(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", tree.wrong(20), throttled=True)
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", device=BOARD)
    tree.artifact("fp32", "coreml")
    text = table(collect.cells(tree.build))
    lines = text.splitlines()
    assert lines[0] == "toy (torch)"
    assert max(map(len, lines)) <= 145
    (int8,) = [" ".join(line.split()) for line in lines if line.split()[:2] == ["int8", "onnx"]]
    assert int8 == "int8 onnx local (throttled) 4.1 25.0 / 25.4 / 25.5 3.00 50.0 90.00 +10.00 [+5.56, +14.24]* 90.00"
    assert "25,000 instr., p99 +2.0%" in text
    assert "not checked on Linux" in text
    assert lines[-1].startswith("! int8 on onnx, local: the device slowed its clock")
    assert text.count("unsupported: ") == sum(c.status == "unsupported" for c in collect.cells(tree.build))


def test_the_table_keeps_control_characters_and_line_breaks_of_reasons_out(tree: Tree) -> None:
    folder = tree.build.cell("toy", "torch", "int8", "onnx")
    store.write(folder / "failure.json", Failure("failed", "red\x1b[31m\nalert", "export.log", "k"))
    assert "failed: red [31m alert" in table(collect.cells(tree.build))


def test_the_table_of_nothing_says_how_to_begin() -> None:
    assert table([]) == "no models yet: inv train"


def test_microseconds_are_said_as_such_in_the_head(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", runs=((1000, 2_230_000),) * 100)
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", runs=((10, 1_610_000),) * 100)
    lines = [" ".join(line.split()) for line in table(collect.cells(tree.build)).splitlines()]
    assert "p50 / p90 / p99 µs" in lines[1]
    assert [line.split(" ")[4:9:2] for line in lines if line.startswith(("fp32 onnx", "int8 onnx"))] == [
        ["2.23", "2.23", "2.23"],
        ["161", "161", "161"],
    ]


def test_milliseconds_stay_milliseconds(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", runs=((1, 1_370_000),) * 100)
    text = table(collect.cells(tree.build))
    assert "p50 / p90 / p99 ms" in text
    assert "1.37 / 1.37 / 1.37" in text


def test_a_warning_of_all_cells_is_said_once_beneath_the_table(tree: Tree) -> None:
    for target, load in (("onnx", 4.4), ("tflite", 4.1), ("executorch", 4.2)):
        tree.artifact("fp32", target)
        tree.measure("fp32", target, load_average=(load, 3.0))
    text = table(collect.cells(tree.build))
    assert text.count("!") == 1
    assert text.splitlines()[-1] == (
        "! 3 of 3 cells: other programs were running (load average 4.1 to 4.4 on 4 cores): close them and measure again"
    )
