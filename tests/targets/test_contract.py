"""The contract of all targets under all recipes, with real converters, real runtimes and a tiny model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import recipes, registry
from pipeline.core import Artifact, Recipe
from pipeline.stages._parity import LEAST_SNR_DB
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans

ROOT = Path(__file__).parents[2]
FRAMEWORKS = registry.names("frameworks")
TARGETS, RECIPES = registry.names("targets"), plans.RECIPES
LAYOUTS = {"tflite": "NHWC", "savedmodel": "NHWC", "executorch": "NCHW", "onnx": "NCHW", "coreml": "image"}
SHAPES = {"NHWC": (1, 8, 8, 1), "NCHW": (1, 1, 8, 8), "image": (1, 1, 8, 8)}


def recipe_of(name: str) -> Recipe:
    found: Recipe = registry.load("recipes", name).RECIPE
    return found


def reason(framework: str, target: str, recipe: str) -> str | None:
    found: str | None = registry.load("targets", target).supports(recipe_of(recipe), framework)
    return found


Cell = tuple[str, str, str]
CELLS = [cell for cell in product(FRAMEWORKS, TARGETS, RECIPES) if reason(*cell) is None]
RUNNING = [cell for cell in CELLS if registry.load("targets", cell[1]).UNCHECKED is None]
STEPS = 4
"""Output steps by which runtimes may differ on this small network: they round ties differently."""
COMPARED = [cell for cell in CELLS if cell in RUNNING or hasattr(registry.load("targets", cell[1]), "predict")]


@pytest.fixture(scope="session")
def stores(request: pytest.FixtureRequest) -> Callable[[str], Store]:
    """The store with all exports of a framework's tiny model."""

    def store_of(framework: str) -> Store:
        found: Store = request.getfixturevalue({"torch": "matrix"}.get(framework, f"{framework}_matrix"))
        return found

    return store_of


@pytest.fixture
def build(cell: Cell, stores: Callable[[str], Store]) -> Store:
    return stores(cell[0])


def artifact_of(build: Store, framework: str, target: str, recipe: str) -> tuple[Artifact, Path]:
    folder = build.cell("tiny", framework, recipe, target)
    artifact = store.read(Artifact, folder / "artifact.json")
    assert artifact is not None, (folder / "failure.json").read_text()
    return artifact, folder / artifact.file


@pytest.fixture(scope="session")
def inside(stores: Callable[[str], Store]) -> dict[str, Any]:
    """What tests.targets.inspect_files finds, by framework."""
    found: dict[str, Any] = {}
    for framework in FRAMEWORKS:
        command = [sys.executable, "-m", "tests.targets.inspect_files", str(stores(framework).root), framework]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found[framework] = json.loads(done.stdout.splitlines()[-1])
    return found


def predictions(build: Store, framework: str, target: str, recipe: str) -> np.ndarray:
    with np.load(build.cell("tiny", framework, recipe, target) / "local" / "predictions.npz") as file:
        outputs: np.ndarray = file["output_0"]
        return outputs


# -- the matrix --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_cell_is_exported_or_has_a_reason(framework: str, stores: Callable[[str], Store]) -> None:
    outcomes = plans.cells(stores(framework), frameworks=framework).outcomes
    assert [(o.target, o.recipe) for o in outcomes] == [(t, r) for r in RECIPES for t in TARGETS]
    for outcome in outcomes:
        expected = reason(framework, outcome.target, outcome.recipe)
        assert (outcome.status, outcome.reason) == (("ok", None) if expected is None else ("unsupported", expected))


@pytest.mark.parametrize("target", TARGETS)
def test_reasons_are_one_line_and_fp32_is_always_supported(target: str) -> None:
    assert None in [reason(framework, target, "fp32") for framework in FRAMEWORKS]
    for framework, recipe in product(FRAMEWORKS, RECIPES):
        assert re.fullmatch(r".{10,200}", reason(framework, target, recipe) or "no reason needed")


KNOWN = {
    ("float32", "float32"), ("float16", "float16"), ("int8", "int8"), ("int8", "int8_dynamic"), ("int8", "float32"),
    ("int4", "int8"),
}  # fmt: skip
LACKING = {"coreml": {("int8", "int8_dynamic")}, "savedmodel": KNOWN - {("float32", "float32")}}
MORE = {
    "tflite": {("int4", "float32"), ("int4", "int8_dynamic")},
    "coreml": {("int4", "float32"), ("palette4", "float32"), ("palette6", "float32")},
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_supports_exactly_the_combinations_that_it_knows(target: str) -> None:
    module = registry.load("targets", target)
    combinations = product((*recipes.WEIGHTS, "int2"), (*recipes.ACTIVATIONS, "int16"))
    supported = {
        (weights, activations)
        for weights, activations in combinations
        if module.supports(Recipe("other", weights, activations, 256, "another recipe"), "keras") is None
    }
    assert supported == (KNOWN | MORE.get(target, set())) - LACKING.get(target, set())


@pytest.mark.parametrize(
    ("target", "recipe", "part"),
    [
        ("onnx", {"activations": "int16"}, "int16"),
        ("tflite", {"activations": "int16"}, "int16"),
        ("onnx", {"exceptions": (("classifier", "float16"),)}, "float16"),
        ("coreml", {"exceptions": (("classifier", "int4"),)}, "int4"),
        ("tflite", {"weights": "float16", "activations": "float16", "exceptions": (("*", "float32"),)}, "float16"),
        ("tflite", {"block": 32}, "32"),
        ("onnx", {"weights": "int4", "activations": "float32", "block": 48}, "48"),
        ("executorch", {"weights": "int4", "activations": "int8_dynamic", "block": 16}, "16"),
        ("executorch", {"weights": "int4", "activations": "float32", "block": 32}, "int4_dynamic"),
        ("tflite", {"weights": "int4", "activations": "float32", "block": 32}, "int4_dynamic"),
        ("coreml", {"weights": "int4", "activations": "int8_dynamic", "block": 32}, "int4_weight_only"),
        ("onnx", {"weights": "palette4", "activations": "float32"}, "Core ML"),
    ],
)
def test_what_a_target_cannot_express_is_unsupported_with_the_reason(
    target: str, recipe: dict[str, Any], part: str
) -> None:
    wanted = replace(recipe_of("int8"), **recipe)
    assert part in registry.load("targets", target).supports(wanted, "torch")


def test_keras_supports_every_export_that_pytorch_supports() -> None:
    for target, recipe in product(TARGETS, RECIPES):
        if reason("torch", target, recipe) is None:
            assert reason("keras", target, recipe) is None


@pytest.mark.parametrize("target", TARGETS)
def test_an_unknown_framework_is_refused_by_name(target: str) -> None:
    for recipe in RECIPES:
        assert registry.load("targets", target).supports(recipe_of(recipe), "caffe")
    assert "caffe" in registry.load("targets", target).supports(recipe_of("fp32"), "caffe")


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_the_manifest_is_complete(cell: Cell, build: Store) -> None:
    framework, target, recipe = cell
    artifact, path = artifact_of(build, *cell)
    module = registry.load("targets", target)
    assert (artifact.model, artifact.framework) == ("tiny", framework)
    assert (artifact.target, artifact.recipe) == (target, recipe)
    assert path.suffix == module.SUFFIX
    assert artifact.sha256 == store.sha256(path)
    assert artifact.size_bytes == store.size(path) > 1000
    assert artifact.tools == registry.versions(module.TOOLS)
    assert artifact.spec.labels == tuple("0123456789")
    assert artifact.seconds > 0
    assert (artifact.parity is not None) == (cell in COMPARED)
    assert artifact.unchecked == module.UNCHECKED
    assert all(note and "\n" not in note for note in artifact.notes)
    assert (path.parent / "export.log").is_file()
    assert sorted(p.name for p in path.parent.iterdir() if p.name != "local") == sorted(
        ["artifact.json", "export.log", path.name]
    )


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_the_manifest_names_the_quantizer_and_the_calibration_set(cell: Cell, build: Store) -> None:
    artifact, _ = artifact_of(build, *cell)
    wanted = recipe_of(cell[2])
    if wanted.static:
        assert artifact.quantized_by == "graph"
        assert artifact.calibration is not None
        assert (artifact.calibration.dataset, artifact.calibration.split) == ("digits", "train")
        assert artifact.calibration.samples == wanted.calibration
    else:
        assert artifact.calibration is None
        assert (artifact.quantized_by is None) or artifact.quantized_by != "graph"
        if wanted.quantized:
            assert artifact.quantized_by is not None
        if wanted.weights == "float32":
            assert artifact.quantized_by is None


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[2] == "int8"], ids="-".join)
def test_all_targets_share_one_calibration(cell: Cell, build: Store, matrix: Store) -> None:
    artifact, _ = artifact_of(build, *cell)
    first, _ = artifact_of(matrix, "torch", TARGETS[0], "int8")
    assert artifact.calibration == first.calibration


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_inputs_and_outputs_have_the_usual_layout_of_their_runtime(cell: Cell, build: Store) -> None:
    artifact, _ = artifact_of(build, *cell)
    (image,), (logits,) = artifact.inputs, artifact.outputs
    assert (image.name, logits.name) == ("image", "logits")
    assert image.layout == LAYOUTS[cell[1]]
    assert image.shape == SHAPES[LAYOUTS[cell[1]]]
    assert logits.shape == (1, 10)
    assert logits.layout is None
    for port in (image, logits):
        assert (port.scale is None) == (port.zero_point is None) == (port.dtype != "int8")


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_the_file_has_the_targets_format(cell: Cell, build: Store, inside: dict[str, Any]) -> None:
    framework, target, recipe = cell
    _, path = artifact_of(build, *cell)
    if target == "coreml":
        manifest = json.loads((path / "Manifest.json").read_text())
        roots = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        assert (path / "Data" / roots["path"]).is_file()
        assert sorted(p.name for p in path.iterdir()) == ["Data", "Manifest.json"]
        assert inside[framework][f"coreml {recipe}"]["operators"]
    elif target == "onnx":  # inspect_files has run onnx's checker
        assert inside[framework][f"onnx {recipe}"]["inputs"] == ["image"]
        assert inside[framework][f"onnx {recipe}"]["metadata"] == 0
    elif target == "savedmodel":
        assert sorted(p.name for p in (path / "1").iterdir()) == ["assets", "saved_model.pb", "variables"]
    else:
        assert path.read_bytes()[4:8] == {"tflite": b"TFL3", "executorch": b"ET12"}[target]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_input_of_a_static_tflite_file_is_int8_pixels(framework: str, stores: Callable[[str], Store]) -> None:
    artifact, _ = artifact_of(stores(framework), framework, "tflite", "int8")
    assert (artifact.inputs[0].dtype, artifact.inputs[0].scale, artifact.inputs[0].zero_point) == ("int8", 1.0, -128)
    assert artifact.outputs[0].dtype == "int8"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_static_file_has_exactly_the_graphs_scales(target: str, framework: str, inside: dict[str, Any]) -> None:
    scales = inside[framework]["graph"]["scales"]
    assert inside[framework][f"{target} int8"]["scales"] == pytest.approx(scales, rel=1e-6)
    assert 1.0 in scales


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_onnx_file_has_the_quantization_operators_of_its_recipe(framework: str, inside: dict[str, Any]) -> None:
    def has(recipe: str) -> set[str]:
        operators = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
        return operators & set(inside[framework][f"onnx {recipe}"]["operators"])

    assert has("fp32") == has("fp16") == set()
    assert has("int8") == {"QuantizeLinear", "DequantizeLinear"}
    assert has("int8_dynamic") == {"DynamicQuantizeLinear"}
    assert has("int8_weight_only") == {"DequantizeLinear"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_core_ml_program_has_the_quantization_operators_of_its_recipe(framework: str, inside: dict[str, Any]) -> None:
    def has(recipe: str) -> set[str]:
        return {name for name in inside[framework][f"coreml {recipe}"]["operators"] if "quantize" in name}

    assert has("fp32") == has("fp16") == set()
    assert {"quantize", "dequantize"} <= has("int8")
    assert has("int8_weight_only") == {"constexpr_affine_dequantize"}


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_an_int8_file_records_what_is_quantized(cell: Cell, build: Store) -> None:
    artifact, _ = artifact_of(build, *cell)
    wanted, coverage = recipe_of(cell[2]), artifact.coverage
    assert (artifact.graph_parity is not None) == wanted.static
    if not wanted.quantized:
        assert coverage is None
        return
    assert coverage is not None
    left = {layer.name: layer.reason for layer in coverage.float_layers}
    if wanted.exceptions:
        assert {name for name, why in left.items() if why == "the recipe leaves it in float"} == {
            "features.0" if cell[0] == "torch" else "features_0", "classifier",
        }  # fmt: skip
        return
    if wanted.weights == "int4":
        assert "classifier" not in left and len(left) == 3
        return
    if (cell[1], wanted.activations) == ("executorch", "int8_dynamic"):
        names = {"features.0", "features.3"} if cell[0] == "torch" else {"features_0", "features_3"}
        assert {*left} == {"normalize", *names} and coverage.low
        assert all("one input channel per group" in layer.reason for layer in coverage.float_layers)
    elif cell[1] == "coreml" and not wanted.static:
        assert [layer.name for layer in coverage.float_layers] == ["normalize"] and not coverage.low
    else:
        assert (coverage.weights, coverage.multiply_adds, coverage.float_layers) == (1.0, 1.0, ())


def weights_bytes(build: Store, framework: str, target: str, recipe: str) -> int:
    """Size of the file; of a Core ML package, only the weights, because its program is larger than they are."""
    _, path = artifact_of(build, framework, target, recipe)
    return store.size(path / "Data/com.apple.CoreML/weights") if target == "coreml" else store.size(path)


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if recipe_of(cell[2]).quantized and cell[2] != "int8_mixed"], ids="-".join
)
def test_a_quantized_file_is_smaller_than_float(cell: Cell, build: Store) -> None:
    assert weights_bytes(build, *cell) < weights_bytes(build, *cell[:2], "fp32")


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[0] == "keras" and cell in RUNNING], ids="-".join)
def test_a_file_from_keras_is_no_larger_than_one_from_pytorch(cell: Cell, build: Store, matrix: Store) -> None:
    """The graph captured from Keras has no unfused layers and no unused tensors."""
    assert weights_bytes(build, *cell) <= 1.02 * weights_bytes(matrix, "torch", *cell[1:])


# -- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", COMPARED, ids="-".join)
def test_outputs_match_the_graph_that_was_exported(cell: Cell, build: Store) -> None:
    artifact, _ = artifact_of(build, *cell)
    parity = artifact.parity
    assert parity is not None
    wanted = recipe_of(cell[2])
    assert parity.samples == 128
    assert parity.against == ("quantized graph" if wanted.static else "float model")
    assert parity.snr_db >= LEAST_SNR_DB[wanted.weights]
    assert parity.cosine > (0.95 if wanted.weights == "int4" else 0.99)
    assert parity.top1_agreement >= {"float32": 1.0, "float16": 1.0, "int4": 0.9}.get(wanted.weights, 0.95)
    if wanted.static and not wanted.exceptions:  # with the last layer in float, outputs have no steps
        assert parity.max_steps is not None and parity.max_steps <= STEPS
        assert parity.equal > 0.5
    else:
        assert parity.max_steps is None


@pytest.mark.parametrize("cell", [cell for cell in RUNNING if cell[2] == "fp32"], ids="-".join)
def test_float_outputs_match_the_frameworks_on_the_whole_test_split(cell: Cell, build: Store) -> None:
    with np.load(build.checkpoint("tiny", cell[0]) / "predictions.npz") as file:
        expected = file["output_0"]
    outputs = predictions(build, *cell)
    assert outputs.shape == expected.shape == (504, 10)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    assert (outputs.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_outputs_of_a_static_graph_are_mostly_bit_identical_in_tflite_executorch_and_onnx(
    framework: str, stores: Callable[[str], Store]
) -> None:
    """Runtimes may round ties differently, which changes an output by one step."""
    build = stores(framework)
    outputs = {target: predictions(build, framework, target, "int8") for target in ("tflite", "executorch", "onnx")}
    step = artifact_of(build, framework, "tflite", "int8")[0].outputs[0].scale
    assert step is not None
    for other in ("executorch", "onnx"):
        same = (outputs["tflite"] == outputs[other]).all(axis=1)
        assert same.mean() > 0.8, other
        assert np.abs(outputs["tflite"] - outputs[other]).max() <= STEPS * step * 1.001


# -- reproducibility ---------------------------------------------------------------------------------------------------

AGAIN = """
import sys
from pathlib import Path
from pipeline.stages import export
from pipeline.system.store import Store
from tests.plans import plan
export.export(Store(Path(sys.argv[1])), plan(frameworks="all"))
"""


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A second training and export in another folder, all frameworks in one command."""
    build = Store(tmp_path_factory.mktemp("second") / "elsewhere")
    command = [sys.executable, "-c", AGAIN, str(build.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return build


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_second_export_in_another_folder_is_byte_identical(cell: Cell, build: Store, second: Store) -> None:
    first, _ = artifact_of(build, *cell)
    again, _ = artifact_of(second, *cell)
    assert again.weights_sha256 == first.weights_sha256
    assert again.sha256 == first.sha256
    assert again.key == first.key
