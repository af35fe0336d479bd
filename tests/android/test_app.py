"""The app under Robolectric, with Android's own runtimes: its screens, and its answers beside the host's."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.core import Artifact, Measurement
from pipeline.datasets import _images
from pipeline.system import store
from pipeline.system.store import Store
from tests.android import golden, jvm
from tests.android.conftest import MODEL, RECIPES, TARGETS


def test_every_kotlin_test_passes(ran: jvm.Ran) -> None:
    assert ran.done.code == 0, ran.done.out[-4000:]
    assert "OK (" in ran.done.out


def test_kotlin_prepares_every_golden_picture_as_python_does(ran: jvm.Ran) -> None:
    pictures = golden.pictures()
    assert len(pictures) >= 30
    equal, total = 0, 0
    for name, content in pictures.items():
        for index, preprocessing in enumerate(golden.PREPROCESSING):
            wanted = _images.decode(content, name, preprocessing)
            file = ran.place / "golden" / f"{name}.{index}.fitted"
            got = np.frombuffer(file.read_bytes(), np.uint8).reshape(wanted.shape)
            off = np.abs(wanted.astype(np.int16) - got)
            assert off.max() <= 1, f"{name} by way {index}: {off.max()} levels off"
            equal, total = equal + int((off == 0).sum()), total + off.size
    assert equal / total >= 0.99


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("target", TARGETS)
def test_outputs_are_the_hosts(
    ran: jvm.Ran, matrix: Store, cells: list[tuple[str, str]], recipe: str, target: str
) -> None:
    if (recipe, target) not in cells:
        failure = json.loads((matrix.cell(*MODEL, recipe, target) / "failure.json").read_text())
        assert failure["status"] == "unsupported"
        return
    folder = matrix.cell(*MODEL, recipe, target) / "local"
    measurement = store.read(Measurement, folder / "measurement.json")
    assert measurement is not None
    with np.load(folder / measurement.accuracy.predictions) as file:
        wanted = file["output_0"]
    name = jvm.run_name("predict", recipe, target)
    said = ran.said(name)
    assert said["samples"] == len(wanted)
    assert said["artifact_sha256"] == measurement.artifact_sha256
    got = ran.arrays(name, "predictions.npz")["output_0"]
    error = float(((wanted.astype(np.float64) - got) ** 2).sum())
    snr_db = 999.0 if error == 0 else 10 * np.log10(float((wanted.astype(np.float64) ** 2).sum()) / error)
    if recipe == "fp32":
        assert snr_db >= 60
    assert (wanted.argmax(1) == got.argmax(1)).mean() >= 0.995
    if recipe != "int8_weight_only":  # of which ExecuTorch's XNNPACK has no convolution
        assert said["runtime"]["delegate"] == "xnnpack"


@pytest.mark.parametrize("target", TARGETS)
def test_a_measurement_has_its_raw_samples(ran: jvm.Ran, target: str) -> None:
    said = ran.said(jvm.run_name("run", "fp32", target))
    assert len(said["runs"]) >= 64
    assert all(loops >= 1 and ns > 0 for loops, ns in said["runs"] + said["warmup"])
    assert said["peak_rss_bytes"] >= said["rss_before_load_bytes"] > 0
    assert said["load_ns"] > 0
    assert len(said["temperature_c"]) == len(said["load_average"]) == 2
    assert said["device"]["before"].keys() == said["device"]["after"].keys()


@pytest.mark.parametrize("target", TARGETS)
def test_a_trace_keeps_every_stage(ran: jvm.Ran, matrix: Store, target: str) -> None:
    artifact = store.read(Artifact, matrix.cell(*MODEL, "fp32", target) / "artifact.json")
    assert artifact is not None
    name = jvm.run_name("trace", target)
    assert ran.said(name)["artifact_sha256"] == artifact.sha256
    stages = ran.arrays(name, "trace.npz")
    wanted = _images.decode(golden.pictures()[jvm.TRACED], jvm.TRACED, artifact.spec.preprocessing)
    np.testing.assert_array_equal(stages["resized"], wanted)
    tensor = wanted[np.newaxis].astype(np.float32)
    wanted_input = tensor.transpose(0, 3, 1, 2) if artifact.inputs[0].layout == "NCHW" else tensor
    np.testing.assert_array_equal(stages["input_0"], wanted_input)
    assert stages["decoded"].shape[:2] == (45, 31)  # turned: the file has 31 rows
    assert stages["output_0"].shape == artifact.outputs[0].shape


def test_both_runtimes_are_there(ran: jvm.Ran) -> None:
    runtimes = {one["name"]: one for one in ran.said("0000aaaa")["runtimes"]}
    assert {name for name, one in runtimes.items() if one["available"]} == {"litert", "executorch"}


@pytest.mark.parametrize(("run", "says"), jvm.REFUSED)
def test_a_hostile_request_is_refused_in_one_line(ran: jvm.Ran, run: str, says: str) -> None:
    answer = ran.answer(run)
    assert answer["code"] == 2
    assert answer["out"] == ""
    assert says in answer["err"]
    assert answer["err"].count("\n") == 1


def test_the_accuracy_page_counts_what_python_counts(ran: jvm.Ran, matrix: Store, split: np.ndarray) -> None:
    outputs = np.fromfile(ran.place / "evaluation" / "outputs.f32", np.float32).reshape(len(split), -1)
    with np.load(matrix.cell(*MODEL, "fp32", "executorch") / "local" / "predictions.npz") as file:
        np.testing.assert_allclose(outputs, file["output_0"], atol=1e-4)
