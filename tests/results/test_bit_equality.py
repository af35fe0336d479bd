"""Bit-for-bit comparisons: which outputs are compared, and with what result."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.results import collect
from pipeline.results.bit_equality import equalities
from tests.builds import BOARD, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    return made


def test_static_int8_outputs_of_all_targets_are_compared_bit_for_bit(tree: Tree) -> None:
    nudged = tree.logits.copy()
    nudged[:30, 0] += 0.25
    for target, outputs in (("tflite", tree.logits), ("executorch", tree.logits), ("onnx", nudged)):
        tree.artifact("int8", target)
        tree.measure("int8", target, outputs)
        tree.artifact("fp32", target)
        tree.measure("fp32", target, outputs)
    found = equalities(collect.rows(tree.build))
    assert [(e.first, e.second, e.equal, e.samples) for e in found] == [
        ("executorch", "onnx", 170, 200),
        ("executorch", "tflite", 200, 200),
        ("onnx", "tflite", 170, 200),
    ]
    assert {(e.recipe, e.device, e.one_graph) for e in found} == {("int8", "local", True)}
    assert found[0].max_error == pytest.approx(0.25, abs=1e-6)


def test_outputs_of_different_devices_are_not_paired(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    tree.artifact("int8", "tflite")
    tree.measure("int8", "tflite", device=BOARD)
    assert equalities(collect.rows(tree.build)) == []


def test_files_not_quantized_from_one_graph_are_marked(tree: Tree) -> None:
    for target, by in (("tflite", "ai-edge-quantizer"), ("executorch", "graph")):
        tree.artifact("int8", target, quantized_by=by)
        tree.measure("int8", target)
    (found,) = equalities(collect.rows(tree.build))
    assert not found.one_graph
