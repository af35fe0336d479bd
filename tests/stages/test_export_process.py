"""The exporting process: the order of its imports, and its output."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import Failure, Recipe
from pipeline.errors import StageFailed, Unsupported, reason
from pipeline.stages import export, train
from pipeline.stages.plan import Job, TrainingOptions, recipes_of
from pipeline.system.store import Store, read
from tests import plans
from tests.conftest import SPIED

ROOT = Path(__file__).parents[2]


def test_coremltools_and_litert_torch_can_both_be_imported_after_import_order() -> None:
    """Importing tensorflow before triton crashes the process, and coremltools imports tensorflow if it is installed."""
    code = "from pipeline.registry import import_order\nimport_order()\nimport torch, coremltools, litert_torch, sys\n"
    code += "print('tensorflow' in sys.modules, 'triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "True True"


@pytest.mark.parametrize(
    ("framework", "elsewhere"),
    [
        ("torch", {"coreml": {"torch", "tensorflow"}}),  # coremltools imports tensorflow if it is installed
        (
            "keras",
            {
                "coreml": {"torch", "tensorflow"},
                "savedmodel": {"keras", "tensorflow"},
                "tests.make_matrix": {"keras", "tensorflow", "torch"},  # it trains in Keras and quantizes in PyTorch
            },
        ),
    ],
)
def test_an_export_loads_the_other_framework_only_where_its_target_needs_it(
    framework: str, elsewhere: dict[str, set[str]], request: pytest.FixtureRequest
) -> None:
    """The processes that made the matrix record what they had loaded when they ended. Most targets export a Keras model
    from a PyTorch program."""
    made: Store = request.getfixturevalue("matrix" if framework == "torch" else "keras_matrix")
    loaded: dict[str, set[str]] = {}
    for path in (made.root.parent / SPIED).glob("*.json"):
        spied = json.loads(path.read_text())
        loaded.setdefault(_of(spied["words"]), set()).update(spied["loaded"])
    targets = ["coreml", "executorch", "onnx", "tflite", *(["savedmodel"] if framework == "keras" else [])]
    names = [*targets, "tests.make_matrix"]
    assert {name: loaded[name] for name in names} == {name: elsewhere.get(name, {"torch"}) for name in names}


def _of(words: list[str]) -> str:
    """The target that a process exported to, or the module that it ran."""
    module = words[words.index("-m") + 1] if "-m" in words else words[-1]
    return str(json.loads(words[-1])["target"]) if module == "pipeline.stages._export_process" else module


def test_a_job_survives_a_round_trip_through_json() -> None:
    training = TrainingOptions(3, 4, 0.5, 7, "cpu", False, 2, 3, 1, "host")
    full = dataclasses.replace(plans.job(), data=Path("data"), weights=Path("w.pt"), training=training)
    for job in (plans.job(), plans.job(model="mobilenet_v3_small:width=0.1234567"), full):
        assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_the_process_prints_one_json_line_per_recipe_and_continues_after_a_failure(copied: Store, job: Job) -> None:
    """The stored reference outputs are replaced: the file is correct, but its reference is not."""
    folder = copied.graphs("tiny", "torch", "int8")
    checkpoint = train.ready(copied, job)
    assert checkpoint is not None
    spoil_reference(folder)
    command = export.process(copied, "onnx", [(job, recipe) for recipe in recipes_of(["int8", "fp32"])])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["recipe"], event["status"]) for event in events] == [("int8", "failed"), ("fp32", "ok")]
    cell = copied.cell("tiny", "torch", "int8", "onnx")
    failure = read(Failure, cell / "failure.json")
    assert failure is not None and "outputs differ from the quantized graph's" in failure.reason
    assert not (cell / "artifact.json").exists()


def test_a_recipe_that_the_target_does_not_know_is_unsupported_and_not_the_next_best(copied: Store, job: Job) -> None:
    mixed = Recipe("mixed", "int8", "float16", 0, "int8 weights, float16 activations")
    command = export.process(copied, "onnx", [(job, mixed)])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "unsupported"
    failure = read(Failure, copied.cell("tiny", "torch", "mixed", "onnx") / "failure.json")
    assert failure is not None and failure.status == "unsupported" and "int8 weights" in failure.reason


@pytest.mark.parametrize("missing", ["checkpoint/checkpoint.json", "graphs/graph.json"])
def test_an_input_that_changed_since_the_process_was_started_is_an_error(missing: str, copied: Store, job: Job) -> None:
    (copied.home("tiny", "torch") / missing).unlink()
    command = export.process(copied, "onnx", [(job, recipe) for recipe in recipes_of("fp32")])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()[-1] if done.returncode else json.loads(done.stdout)["says"]
    assert "run the command again" in said and "AssertionError" not in said


def spoil_reference(folder: Path) -> None:
    """Writes wrong reference outputs into a graphs folder, with a manifest that matches them."""
    import numpy as np

    from pipeline.stages import quantize
    from pipeline.system import store

    with np.load(folder / "reference.npz") as kept:
        arrays = dict(kept)
    np.savez(folder / "reference.npz", samples=arrays["samples"], output_0=-arrays["output_0"])
    graph = read(quantize.Graph, folder / "graph.json")
    assert graph is not None
    files = {**graph.files, "reference.npz": store.sha256(folder / "reference.npz")}
    store.write(folder / "graph.json", dataclasses.replace(graph, files=files))


def test_a_reason_is_the_first_nonempty_line_and_names_the_type_of_foreign_errors() -> None:
    assert reason(Unsupported("no such thing")) == "no such thing"
    assert reason(StageFailed("\n\n first \nsecond")) == "first"
    assert reason(ValueError("\nbad value\nmore")) == "ValueError: bad value"
    assert reason(KeyError()) == "KeyError: KeyError"
    assert len(reason(ValueError("x" * 1000))) == 300
