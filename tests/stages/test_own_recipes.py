"""A model's own recipe from a file, from the command line to the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import Artifact
from pipeline.results import collect
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import inv

RECIPE = 'name = "own"\nweights = "{}"\nactivations = "{}"\n[exceptions]\n"{}" = "{}"\n'


@pytest.fixture
def call(copied: Store, tiny: Path, tmp_path: Path) -> Any:
    """Exports tiny to one target under a recipe with one exception."""

    def made(weights: str, activations: str, pattern: str, dtype: str = "float32", target: str = "onnx") -> Any:
        path = tmp_path / "own.toml"
        path.write_text(RECIPE.format(weights, activations, pattern, dtype))
        words = ("export", "--model", tiny, "--target", target, "--recipe", f"fp32,{path.name}")
        return inv(copied.root, *words, LASTMILE_FROM=str(tmp_path))

    return made


def artifact_of(build: Store, target: str) -> Artifact:
    found = store.read(Artifact, build.cell("tiny", "torch", "own", target) / "artifact.json")
    assert found is not None and found.coverage is not None
    return found


def left(artifact: Artifact) -> list[str]:
    assert artifact.coverage is not None
    return [layer.name for layer in artifact.coverage.float_layers if layer.reason == "the recipe leaves it in float"]


def test_the_file_has_the_layer_in_float_and_results_know_the_recipe(copied: Store, call: Any) -> None:
    done = call("int8", "int8", "features.0")
    assert done.code == 0, done.err
    made = artifact_of(copied, "onnx")
    assert left(made) == ["features.0"] and made.graph_parity is not None
    (cell,) = [
        cell for cell in collect.cells(copied, [("tiny", "torch")]) if (cell.recipe, cell.target) == ("own", "onnx")
    ]
    assert cell.status == "missing" and "not measured" in str(cell.reason)
    assert json.loads(copied.recipe("tiny", "torch", "own").read_text())["exceptions"] == [["features.0", "float32"]]
    assert call("int8", "int8", "features.3").code == 0  # a changed file makes the export again
    assert left(artifact_of(copied, "onnx")) == ["features.3"]


def test_a_pattern_that_matches_nothing_ends_the_command_with_the_nearest_layer(copied: Store, call: Any) -> None:
    for activations in ("int8", "int8_dynamic"):
        done = call("int8", activations, "clasifier")
        assert "'clasifier'" in done.complaint and "classifier" in done.complaint
        assert not copied.cell("tiny", "torch", "own", "onnx").exists()


def test_what_a_target_cannot_express_is_refused_before_any_work(call: Any) -> None:
    cases = (
        ("int8", "int8", "float16", "float16"),
        ("palette4", "float32", "float32", "Core ML"),
        ("int8", "int16", "float32", "int16"),
    )
    for weights, activations, dtype, part in cases:
        done = call(weights, activations, "classifier", dtype)
        assert part in done.only
