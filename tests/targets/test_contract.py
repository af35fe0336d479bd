"""What every target keeps to under every recipe: real converters, real runtimes, a tiny model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import export, plugins, store
from pipeline.core import Artifact, Recipe
from pipeline.parity import LEAST_SNR_DB, MOST_STEPS
from pipeline.store import Store
from pipeline.train import Job

ROOT = Path(__file__).parents[2]
TARGETS, RECIPES = plugins.names("targets"), plugins.names("recipes")
LAYOUTS = {"tflite": "NHWC", "executorch": "NCHW", "onnx": "NCHW", "coreml": "image"}
SHAPES = {"NHWC": (1, 8, 8, 1), "NCHW": (1, 1, 8, 8), "image": (1, 1, 8, 8)}


def recipe_of(name: str) -> Recipe:
    found: Recipe = plugins.load("recipes", name).RECIPE
    return found


def reason(target: str, recipe: str) -> str | None:
    found: str | None = plugins.load("targets", target).supports(recipe_of(recipe), "torch")
    return found


CELLS = [(target, recipe) for target, recipe in product(TARGETS, RECIPES) if reason(target, recipe) is None]
RUNNING = [(target, recipe) for target, recipe in CELLS if plugins.load("targets", target).UNCHECKED is None]


def artifact_of(build: Store, target: str, recipe: str) -> tuple[Artifact, Path]:
    folder = build.cell("tiny", "torch", recipe, target)
    artifact = store.read(Artifact, folder / "artifact.json")
    assert artifact is not None, (folder / "failure.json").read_text()
    return artifact, folder / artifact.file


@pytest.fixture(scope="session")
def inside(matrix: Store) -> dict[str, Any]:
    """What tests.targets.look finds."""
    command = [sys.executable, "-m", "tests.targets.look", str(matrix.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def predictions(build: Store, target: str, recipe: str) -> np.ndarray:
    with np.load(build.cell("tiny", "torch", recipe, target) / "local" / "predictions.npz") as kept:
        outputs: np.ndarray = kept["output_0"]
        return outputs


# -- the matrix --------------------------------------------------------------------------------------------------------


def test_every_cell_is_made_or_has_a_reason(matrix: Store, job: Job) -> None:
    outcomes = export.current(matrix, job, TARGETS, RECIPES)
    assert outcomes is not None
    assert [(o.target, o.recipe) for o in outcomes] == [(t, r) for r in RECIPES for t in TARGETS]
    for outcome in outcomes:
        expected = reason(outcome.target, outcome.recipe)
        assert (outcome.status, outcome.reason) == (("ok", None) if expected is None else ("unsupported", expected))


@pytest.mark.parametrize("target", TARGETS)
def test_reasons_are_one_line_and_fp32_is_always_done(target: str) -> None:
    assert reason(target, "fp32") is None
    for recipe in RECIPES:
        assert re.fullmatch(r".{10,200}", reason(target, recipe) or "no reason needed")


@pytest.mark.parametrize("target", TARGETS)
def test_a_framework_it_does_not_know_is_refused_with_its_name(target: str) -> None:
    for recipe in RECIPES:
        assert plugins.load("targets", target).supports(recipe_of(recipe), "caffe")
    assert "caffe" in plugins.load("targets", target).supports(recipe_of("fp32"), "caffe")


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_the_manifest_is_complete(target: str, recipe: str, matrix: Store) -> None:
    artifact, path = artifact_of(matrix, target, recipe)
    module = plugins.load("targets", target)
    assert (artifact.model, artifact.framework) == ("tiny", "torch")
    assert (artifact.target, artifact.recipe) == (target, recipe)
    assert path.suffix == module.SUFFIX
    assert artifact.sha256 == store.sha256(path)
    assert artifact.size_bytes == store.size(path) > 1000
    assert artifact.tools == plugins.versions(module.TOOLS)
    assert artifact.spec.labels == tuple("0123456789")
    assert artifact.seconds > 0
    assert (artifact.parity is None) == (artifact.unchecked is not None)
    assert artifact.unchecked == module.UNCHECKED
    assert all(note and "\n" not in note for note in artifact.notes)
    assert (path.parent / "export.log").is_file()
    assert sorted(p.name for p in path.parent.iterdir() if p.name != "local") == sorted(
        ["artifact.json", "export.log", path.name]
    )


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_who_quantized_it_and_on_what_is_told(target: str, recipe: str, matrix: Store) -> None:
    artifact, _ = artifact_of(matrix, target, recipe)
    wanted = recipe_of(recipe)
    if wanted.static:
        assert artifact.quantized_by == "graph"
        assert artifact.calibration is not None
        assert (artifact.calibration.dataset, artifact.calibration.split) == ("digits", "train")
        assert artifact.calibration.samples == wanted.calibration
    else:
        assert artifact.calibration is None
        assert (artifact.quantized_by is None) or artifact.quantized_by != "graph"
        if wanted.weights == "int8":
            assert artifact.quantized_by is not None
        if wanted.weights == "float32":
            assert artifact.quantized_by is None


@pytest.mark.parametrize("target", TARGETS)
def test_all_targets_share_one_calibration(target: str, matrix: Store) -> None:
    mine, _ = artifact_of(matrix, target, "int8")
    first, _ = artifact_of(matrix, TARGETS[0], "int8")
    assert mine.calibration == first.calibration


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_inputs_and_outputs_lie_as_the_runtimes_users_expect(target: str, recipe: str, matrix: Store) -> None:
    artifact, _ = artifact_of(matrix, target, recipe)
    (image,), (logits,) = artifact.inputs, artifact.outputs
    assert (image.name, logits.name) == ("image", "logits")
    assert image.layout == LAYOUTS[target]
    assert image.shape == SHAPES[LAYOUTS[target]]
    assert logits.shape == (1, 10)
    assert logits.layout is None
    for port in (image, logits):
        assert (port.scale is None) == (port.zero_point is None) == (port.dtype != "int8")


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_the_file_is_of_its_format(target: str, recipe: str, matrix: Store, inside: dict[str, Any]) -> None:
    _, path = artifact_of(matrix, target, recipe)
    if target == "coreml":
        manifest = json.loads((path / "Manifest.json").read_text())
        roots = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        assert (path / "Data" / roots["path"]).is_file()
        assert sorted(p.name for p in path.iterdir()) == ["Data", "Manifest.json"]
        assert inside[f"coreml {recipe}"]["operators"]
    elif target == "onnx":  # look.py had onnx check it
        assert inside[f"onnx {recipe}"]["inputs"] == ["image"]
        assert inside[f"onnx {recipe}"]["remarks"] == 0
    else:
        assert path.read_bytes()[4:8] == {"tflite": b"TFL3", "executorch": b"ET12"}[target]


def test_pixels_enter_a_static_tflite_file_exactly(matrix: Store) -> None:
    artifact, _ = artifact_of(matrix, "tflite", "int8")
    assert (artifact.inputs[0].dtype, artifact.inputs[0].scale, artifact.inputs[0].zero_point) == ("int8", 1.0, -128)
    assert artifact.outputs[0].dtype == "int8"


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_static_file_has_the_graphs_scales_and_no_others(target: str, inside: dict[str, Any]) -> None:
    assert inside[f"{target} int8"]["scales"] == pytest.approx(inside["graph"]["scales"], rel=1e-6)
    assert 1.0 in inside["graph"]["scales"]


def test_an_onnx_file_is_quantized_in_the_way_its_recipe_says(inside: dict[str, Any]) -> None:
    def has(recipe: str) -> set[str]:
        quantizing = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
        return quantizing & set(inside[f"onnx {recipe}"]["operators"])

    assert has("fp32") == has("fp16") == set()
    assert has("int8") == {"QuantizeLinear", "DequantizeLinear"}
    assert has("int8_dynamic") == {"DynamicQuantizeLinear"}
    assert has("int8_weight_only") == {"DequantizeLinear"}


def test_a_core_ml_program_is_quantized_in_the_way_its_recipe_says(inside: dict[str, Any]) -> None:
    def has(recipe: str) -> set[str]:
        return {name for name in inside[f"coreml {recipe}"]["operators"] if "quantize" in name}

    assert has("fp32") == has("fp16") == set()
    assert {"quantize", "dequantize"} <= has("int8")
    assert has("int8_weight_only") == {"constexpr_affine_dequantize"}


def weights_bytes(build: Store, target: str, recipe: str) -> int:
    """Size of what holds the weights: the file, and of a Core ML package, whose program's text is larger than this tiny
    model's weights, the part with them."""
    _, path = artifact_of(build, target, recipe)
    return store.size(path / "Data/com.apple.CoreML/weights") if target == "coreml" else store.size(path)


@pytest.mark.parametrize(("target", "recipe"), [cell for cell in CELLS if recipe_of(cell[1]).weights == "int8"])
def test_int8_is_smaller_than_float(target: str, recipe: str, matrix: Store) -> None:
    assert weights_bytes(matrix, target, recipe) < weights_bytes(matrix, target, "fp32")


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "recipe"), RUNNING)
def test_it_answers_as_the_graph_it_was_made_from(target: str, recipe: str, matrix: Store) -> None:
    artifact, _ = artifact_of(matrix, target, recipe)
    parity = artifact.parity
    assert parity is not None
    wanted = recipe_of(recipe)
    assert parity.samples == 128
    assert parity.against == ("quantized graph" if wanted.static else "float model")
    assert parity.snr_db >= LEAST_SNR_DB[wanted.weights]
    assert parity.cosine > 0.99
    assert parity.top1_agreement >= (1.0 if wanted.weights.startswith("float") else 0.95)
    if wanted.static:
        assert parity.max_steps is not None and parity.max_steps <= MOST_STEPS
        assert parity.equal > 0.5
    else:
        assert parity.max_steps is None


@pytest.mark.parametrize("target", [target for target, recipe in RUNNING if recipe == "fp32"])
def test_float_is_the_frameworks_float_on_every_evaluation_picture(target: str, matrix: Store) -> None:
    with np.load(matrix.checkpoint("tiny", "torch") / "predictions.npz") as kept:
        expected = kept["output_0"]
    answers = predictions(matrix, target, "fp32")
    assert answers.shape == expected.shape == (504, 10)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert (answers.argmax(1) == expected.argmax(1)).all()


def test_the_same_static_graph_gives_the_same_bits_in_tflite_and_executorch(matrix: Store) -> None:
    """On most pictures: a tie may be rounded either way, and then one step is the whole difference."""
    answers = {target: predictions(matrix, target, "int8") for target in ("tflite", "executorch", "onnx")}
    step = artifact_of(matrix, "tflite", "int8")[0].outputs[0].scale
    assert step is not None
    for other in ("executorch", "onnx"):
        same = (answers["tflite"] == answers[other]).all(axis=1)
        assert same.mean() > 0.8, other
        assert np.abs(answers["tflite"] - answers[other]).max() <= MOST_STEPS * step * 1.001


# -- twice -------------------------------------------------------------------------------------------------------------

AGAIN = """
import sys
from pathlib import Path
from pipeline import export, plugins
from pipeline.store import Store
from tests.make_matrix import JOB
export.export(Store(Path(sys.argv[1])), JOB, plugins.names("targets"), plugins.names("recipes"))
"""


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Trained and exported once more, elsewhere."""
    build = Store(tmp_path_factory.mktemp("second") / "elsewhere")
    command = [sys.executable, "-c", AGAIN, str(build.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return build


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_the_same_export_elsewhere_gives_the_same_bytes(target: str, recipe: str, matrix: Store, second: Store) -> None:
    first, _ = artifact_of(matrix, target, recipe)
    again, _ = artifact_of(second, target, recipe)
    assert again.weights_sha256 == first.weights_sha256
    assert again.sha256 == first.sha256
    assert again.key == first.key
