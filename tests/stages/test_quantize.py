"""The quantize stage: graphs with reference samples and outputs, captured again when an input changes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Checkpoint
from pipeline.datasets import Split
from pipeline.errors import BadData, Unsupported
from pipeline.stages import quantize, train
from pipeline.stages.plan import Job
from pipeline.stages.quantize import Graph
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans

ROOT = Path(__file__).parents[2]
INT8 = registry.load("recipes", "int8").RECIPE


@pytest.fixture
def checkpoint(matrix: Store, job: Job) -> Checkpoint:
    found = train.ready(matrix, job)
    assert found is not None
    return found


def graph_of(build: Store, recipe: str | None) -> Graph:
    found = store.read(Graph, build.graphs("tiny", "torch", recipe) / "graph.json")
    assert found is not None
    return found


def test_a_float_graph_has_no_calibration_and_no_step(matrix: Store) -> None:
    graph = graph_of(matrix, None)
    assert (graph.calibration, graph.steps) == (None, (None,))
    assert sorted(graph.files) == ["float.pt2", "reference.npz"]


def test_a_static_graph_records_its_calibration_and_its_output_step(matrix: Store) -> None:
    graph = graph_of(matrix, "int8")
    assert sorted(graph.files) == ["quantized.pt2", "reference.npz", "unfolded.pt2"]
    assert graph.calibration is not None
    assert (graph.calibration.dataset, graph.calibration.split, graph.calibration.samples) == ("digits", "train", 256)
    assert graph.steps[0] is not None
    with np.load(matrix.graphs("tiny", "torch", "int8") / "reference.npz") as kept:
        steps = kept["output_0"] / np.float32(graph.steps[0])
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_a_graph_records_how_far_it_is_from_what_it_was_made_from(matrix: Store) -> None:
    captured, quantized = graph_of(matrix, None).parity, graph_of(matrix, "int8").parity
    assert (captured.against, captured.samples, captured.top1_agreement) == ("framework", 128, 1.0)
    assert captured.snr_db > 100
    assert (quantized.against, quantized.samples) == ("float model", 128)
    assert 20 < quantized.snr_db < 60 and quantized.top1_agreement > 0.95


@pytest.mark.parametrize("recipe", [None, "int8"])
def test_reference_samples_are_the_first_of_the_test_split_with_the_graphs_outputs(
    recipe: str | None, matrix: Store, checkpoint: Checkpoint
) -> None:
    with np.load(matrix.graphs("tiny", "torch", recipe) / "reference.npz") as kept:
        samples, outputs = kept["samples"], kept["output_0"]
    test = train.split_of(checkpoint, plans.job())
    assert samples.dtype == np.uint8
    assert (samples == test.inputs(range(128))).all()
    with np.load(matrix.checkpoint("tiny", "torch") / "predictions.npz") as kept:
        expected = kept["output_0"][:128]
    if recipe is None:
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
    else:
        assert (outputs.argmax(1) == expected.argmax(1)).mean() > 0.95


def test_an_up_to_date_graph_is_reused_without_loading_a_framework(matrix: Store) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom pipeline import registry\n"
    code += "from pipeline.stages import quantize, train\n"
    code += "from pipeline.system.store import Store\nfrom tests import plans\nbuild = Store(Path(sys.argv[1]))\n"
    code += "checkpoint = train.ready(build, plans.job())\n"
    code += "for recipe in (None, registry.load('recipes', 'int8').RECIPE):\n"
    code += "    print(quantize.quantize(build, plans.job(), checkpoint, recipe).key)\nprint('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(matrix.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [graph_of(matrix, None).key, graph_of(matrix, "int8").key, "False"]
    assert done.stderr == ""


def test_an_altered_graph_is_not_ready_and_a_message_names_the_file(
    copied: Store, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize.ready(copied, plans.job(), checkpoint, INT8) == graph_of(copied, "int8")
    path = copied.graphs("tiny", "torch", "int8") / "quantized.pt2"
    path.write_bytes(path.read_bytes()[:-1])
    assert quantize.ready(copied, plans.job(), checkpoint, INT8) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path} does not match its manifest")
    assert quantize.ready(copied, plans.job(), checkpoint, None) == graph_of(copied, None)


def test_a_static_recipe_with_float_weights_has_no_graph(matrix: Store, checkpoint: Checkpoint) -> None:
    with pytest.raises(Unsupported, match="float16 weights"):
        quantize.quantize(matrix, plans.job(), checkpoint, dataclasses.replace(INT8, name="mixed", weights="float16"))


def test_every_input_of_a_graph_changes_its_cache_key(checkpoint: Checkpoint) -> None:
    spec = dataclasses.replace(checkpoint.spec, labels=tuple("abcdefghij"))
    calibrated_on_others = dataclasses.replace(checkpoint, facts={**checkpoint.facts, "train_sha256": "0" * 64})
    keys = [
        quantize.key(plans.job(), checkpoint, None),
        quantize.key(plans.job(), checkpoint, INT8),
        quantize.key(plans.job(), checkpoint, dataclasses.replace(INT8, calibration=128)),
        quantize.key(plans.job(), dataclasses.replace(checkpoint, weights_sha256="0" * 64), INT8),
        quantize.key(plans.job(), dataclasses.replace(checkpoint, spec=spec), INT8),
        quantize.key(plans.job(), dataclasses.replace(checkpoint, dataset_sha256="0" * 64), INT8),
        quantize.key(plans.job(), calibrated_on_others, INT8),
    ]
    assert len(set(keys)) == len(keys)
    assert quantize.key(plans.job(), calibrated_on_others, None) == keys[0]  # the float graph is not calibrated
    assert quantize.key(plans.job(), dataclasses.replace(checkpoint, origin="elsewhere"), INT8) == keys[1]


# -- the calibration set -----------------------------------------------------------------------------------------------


def calibration_split(images: np.ndarray, contents: tuple[str, ...] = ()) -> Split:
    return Split(np.zeros(len(images), np.int64), "0" * 64, lambda i: images[i], contents)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
HASHES = tuple(str(i) for i in range(64))


def test_the_first_training_images_calibrate() -> None:
    found = quantize._calibration_inputs(calibration_split(NOISE), calibration_split(NOISE), INT8)
    assert (found == NOISE).all()
    few = dataclasses.replace(INT8, calibration=16)
    assert len(quantize._calibration_inputs(calibration_split(NOISE), calibration_split(NOISE), few)) == 16


@pytest.mark.parametrize(
    ("images", "test", "part"),
    [
        (NOISE[:7], (), "7 samples"),
        (np.full_like(NOISE, 9), (), "all equal"),
        (np.repeat(NOISE[:1], 64, axis=0), (), "all equal"),
        (NOISE, HASHES, "64 of the 64"),
        (NOISE, HASHES[60:], "4 of the 64"),
    ],
)
def test_a_calibration_set_that_tells_nothing_or_is_tested_on_is_refused(
    images: np.ndarray, test: tuple[str, ...], part: str
) -> None:
    with pytest.raises(BadData, match=part):
        quantize._calibration_inputs(calibration_split(images, HASHES), calibration_split(NOISE, test), INT8)
