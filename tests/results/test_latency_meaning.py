"""What latencies include: a copy of the input, and the cost of the call."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import Cell, Floor, to_json
from pipeline.results import collect, latency_meaning
from pipeline.system import store
from tests.builds import LOCAL, Tree

HERE = "a processor, 8 cores"
FLOOR = Floor(HERE, "onnxruntime", "1.31.1", 5, 2000.0, False)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    made.artifact("int8", "onnx")
    return made


def measured(tree: Tree, copies: bool | None, device: str = "local") -> Cell:
    runtime = {"name": "onnxruntime", "version": "1.31.1", "threads": 1, "includes_input_copy": copies}
    facts = {**LOCAL, "name": device, "hardware": HERE}
    tree.measure("int8", "onnx", tree.wrong(0), runtime=runtime, device=facts)
    return next(cell for cell in collect.cells(tree.build) if cell.device == device)


def test_the_copy_of_the_input_is_in_each_cell_and_in_its_json(tree: Tree) -> None:
    for copies in (True, False, None):
        assert to_json(measured(tree, copies))["includes_input_copy"] is copies


def test_a_note_names_the_cells_with_the_copy_if_others_stand_beside_them(tree: Tree) -> None:
    without, copying = measured(tree, False), measured(tree, True, "phone")
    (note,) = latency_meaning.notes([without, copying])
    assert "onnx on phone" in note and "onnx on local" not in note
    for alike in ([without], [copying], [copying, replace(without, includes_input_copy=None)], []):
        assert latency_meaning.notes(alike) == []
    assert latency_meaning.notes([without, replace(copying, latency_ms=None)]) == [], "it has no latency"


def test_a_latency_near_the_floor_is_noted(tree: Tree) -> None:
    p50 = measured(tree, False).latency_ms
    assert p50 is not None
    path = latency_meaning.path(tree.build, "local", "onnxruntime")
    store.write(path, replace(FLOOR, ns=p50.p50 * 1e6 / 2))
    cell = measured(tree, False)
    assert cell.floor_ms == pytest.approx(p50.p50 / 2)
    (note,) = latency_meaning.notes([cell])
    assert "int8 on onnx on local" in note
    store.write(path, replace(FLOOR, ns=p50.p50 * 1e6 / 11))
    cell = measured(tree, False)
    assert cell.floor_ms is not None and latency_meaning.notes([cell]) == []


@pytest.mark.parametrize("other", [{"hardware": "another processor"}, {"version": "1.30.0"}])
def test_the_floor_of_other_hardware_or_another_version_is_not_used(other: dict[str, str], tree: Tree) -> None:
    store.write(latency_meaning.path(tree.build, "local", "onnxruntime"), replace(FLOOR, **other))
    assert measured(tree, False).floor_ms is None


def test_a_broken_floor_is_no_error(tree: Tree) -> None:
    path = latency_meaning.path(tree.build, "local", "onnxruntime")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"ns": 1}))
    cell = measured(tree, False)
    assert (cell.status, cell.floor_ms) == ("ok", None)
