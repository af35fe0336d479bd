"""Quantization-aware training improves on calibration, resumes, stops when it diverges, and lowers as int8 does."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Checkpoint, Recipe
from pipeline.errors import BadOption, StageFailed
from pipeline.stages import _parity, export, qat, quantize, train
from pipeline.stages.quantize import Graph
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.make_matrix import ROOT
from tests.runs import Run

pytestmark = pytest.mark.usefixtures("imported")
INT8, W4 = (registry.load("recipes", name).RECIPE for name in ("int8_qat", "w4a8_qat"))
FLOAT = {"model": "digits_cnn", "epochs": 8, "lr": 1e-2}
TARGETS = ("tflite", "executorch", "onnx", "coreml")


def trained(build: Store, *recipes: str, **more: Any) -> list[Graph]:
    options = {"model": "digits_cnn", "epochs": 3, "lr": 1e-3, **more}
    return [one.graph for one in qat.train_quantized(build, plans.plan(recipes=recipes, **options))]


def facts(graph: Graph) -> dict[str, Any]:
    assert graph.training is not None
    return dict(graph.training)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A trained digits_cnn with its graphs under both recipes."""
    build = Store(tmp_path_factory.mktemp("qat") / "build")
    train.train(build, plans.plan(**FLOAT))
    trained(build, "int8_qat", "w4a8_qat")
    return build


def checkpoint(build: Store) -> Checkpoint:
    found = train.ready(build, plans.job(model="digits_cnn"))
    assert found is not None
    return found


def graph(build: Store, recipe: Recipe) -> Graph:
    found = quantize.ready(build, plans.job(model="digits_cnn"), checkpoint(build), recipe)
    assert found is not None
    return found


def test_int8_keeps_the_accuracy_and_its_graph_has_the_settings_and_the_facts(built: Store) -> None:
    found = facts(graph(built, INT8))
    assert found["settings"] == {"epochs": 3, "batch_size": 32, "lr": 1e-3, "seed": 0}
    assert found["data"].keys() == {"train", "validation"}
    assert (found["epoch"], found["stopped"], found["device"], len(found["snr_db"])) == (3, None, "cpu", 4)
    assert found["accuracy"] > checkpoint(built).accuracy - 0.01
    assert graph(built, INT8).parity.snr_db > 25


def test_4_bit_weights_regain_what_calibration_alone_loses(built: Store) -> None:
    found = facts(graph(built, W4))
    assert found["snr_db"][found["best_epoch"]] > found["snr_db"][0] + 4
    assert found["accuracy"] > checkpoint(built).accuracy - 0.02


def test_4_bit_weights_have_15_values_except_in_depthwise_layers(built: Store) -> None:
    from pipeline.frameworks import _graphs

    program = _graphs.load(built.graphs("digits_cnn", "torch", "w4a8_qat") / _graphs.FOLDED)
    weights = [value for value in program.state_dict.values() if value.dtype is not None and value.dim() in (2, 4)]
    weights += [value for value in program.constants.values() if getattr(value, "dim", int)() in (2, 4)]
    integers = {tuple(w.shape): int(w.abs().max()) for w in weights if not w.dtype.is_floating_point}
    assert integers[10, 48] == integers[48, 32, 3, 3] == integers[32, 16, 1, 1] == 7
    assert integers[16, 1, 3, 3] == 127


def test_both_lower_to_every_target_and_tflite_equals_executorch(built: Store) -> None:
    outcomes = export.export(built, plans.plan(TARGETS, ["int8_qat", "w4a8_qat"], model="digits_cnn"))
    assert [(one.recipe, one.target, one.status, one.reason) for one in outcomes] == [
        (recipe, target, "ok", None) for recipe in ("int8_qat", "w4a8_qat") for target in TARGETS
    ]
    artifacts = [one.artifact for one in outcomes if one.artifact]
    assert {artifact.quantized_by for artifact in artifacts} == {"graph"}
    assert all(any("epoch" in note for note in artifact.notes) for artifact in artifacts)
    samples = train.split_of(checkpoint(built), plans.job(model="digits_cnn")).inputs(range(504))
    for first, second in ((outcomes[0], outcomes[1]), (outcomes[4], outcomes[5])):
        outputs = [
            _parity.predict(one.path, registry.bind("targets", one.target).module, samples)[0]
            for one in (first, second)
            if one.path
        ]
        np.testing.assert_array_equal(*outputs)


def test_a_trained_graph_is_reused_and_another_choice_trains_again(built: Store, tmp_path: Path) -> None:
    build = copy_of(built, tmp_path)
    assert trained(build, "int8_qat") == [graph(built, INT8)]
    assert trained(build, "int8_qat", epochs=None, lr=None, seed=0) == [graph(built, INT8)]
    for choice in ({"epochs": 1}, {"epochs": 1, "batch_size": 64}, {"epochs": 1, "seed": 1}):
        (made,) = trained(build, "int8_qat", **choice)
        assert facts(made)["settings"].items() >= choice.items()
        assert made == graph(build, INT8) != graph(built, INT8)


def test_every_input_of_a_trained_graph_changes_its_key_and_that_of_its_files(built: Store) -> None:
    job, known = plans.job(model="digits_cnn"), checkpoint(built)
    found = facts(graph(built, INT8))
    changes: list[dict[str, Any]] = [
        {},
        {"settings": {**found["settings"], "epochs": 4}},
        {"settings": {**found["settings"], "lr": 2e-3}},
        {"data": {**found["data"], "validation": "0" * 64}},
    ]
    keys = [quantize.key(job, known, INT8, {**found, **change}) for change in changes]
    keys.append(quantize.key(job, dataclasses.replace(known, weights_sha256="0" * 64), INT8, found))
    assert len(set(keys)) == len(keys)
    assert quantize.key(job, known, INT8, {**found, "seconds": 0.0}) == keys[0]


@pytest.mark.parametrize("recipe", ["int8_qat", "int8_qat,fp32"])
def test_an_export_of_an_untrained_graph_names_the_command(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"inv train --model .*tiny --recipe int8_qat"):
        export.export(Store(tmp_path), plans.plan("onnx", recipe.split(",")))


@pytest.mark.parametrize("wrong", [{"recipes": ["int8"]}, {"recipes": ["int8_qat"], "num_nodes": 2}])
def test_a_recipe_without_training_and_several_devices_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    options = {"main_address": "localhost"} if "num_nodes" in wrong else {}
    with pytest.raises(BadOption):
        qat.train_quantized(Store(tmp_path), plans.plan(**wrong, **options))


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_a_training_that_diverges_stops_and_keeps_the_best_state(
    lr: float, built: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = copy_of(built, tmp_path)
    (made,) = trained(build, "w4a8_qat", lr=lr, epochs=5)
    found = facts(made)
    assert found["stopped"] and found["epoch"] < 5
    assert found["best_epoch"] == 0 and made.parity.snr_db > 10
    assert [line for line in capsys.readouterr().err.splitlines() if found["stopped"] in line]


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.registry import import_order
import_order()
from pipeline.frameworks import _qat
from pipeline.system.store import Store
from tests.stages.test_qat import trained
save = _qat._Loop._save
def killed(self, facts, best):
    save(self, facts, best)
    if facts["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
_qat._Loop._save = killed
trained(Store(Path(sys.argv[1])), "w4a8_qat")
"""


def test_a_killed_training_resumes_to_the_same_graph(
    built: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = copy_of(built, tmp_path)
    store.remove(build.graphs("digits_cnn", "torch", "w4a8_qat"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(build.root)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (resumed,) = trained(build, "w4a8_qat")
    assert "resuming after epoch 2 of 3" in capsys.readouterr().err
    whole = graph(built, W4)
    assert facts(resumed)["losses"] == facts(whole)["losses"]
    assert facts(resumed)["snr_db"] == facts(whole)["snr_db"]
    assert resumed.steps == whole.steps
    outputs = [
        np.load(each.graphs("digits_cnn", "torch", "w4a8_qat") / "reference.npz")["output_0"] for each in (build, built)
    ]
    np.testing.assert_array_equal(*outputs)
    assert not (build.home("digits_cnn", "torch") / "w4a8_qat" / "training").exists()


def test_tensorboard_has_the_curves(built: Store) -> None:
    found = facts(graph(built, W4))
    run = Run(built.home("digits_cnn", "torch") / "tensorboard" / graph(built, W4).key[:12])
    assert [value for _, value in run.scalars("snr_db/validation")] == pytest.approx(found["snr_db"], rel=1e-4)
    assert len(run.scalars("loss/train")) == len(run.scalars("lr")) == 3
    assert "weights/net_classifier.weight" in run.tags or "weights/classifier.weight" in run.tags


def test_a_keras_network_is_trained_through_the_same_graph(tmp_path: Path) -> None:
    build = Store(tmp_path / "build")
    (made,) = trained(build, "w4a8_qat", model=plans.TINY, frameworks="keras", epochs=2)
    found = facts(made)
    assert found["snr_db"][found["best_epoch"]] > found["snr_db"][0] and found["stopped"] is None
    (outcome,) = export.export(build, plans.plan("onnx", "w4a8_qat", frameworks="keras"))
    assert (outcome.status, outcome.reason) == ("ok", None)


def copy_of(build: Store, folder: Path) -> Store:
    import shutil

    return Store(shutil.copytree(build.root, folder / "build"))
