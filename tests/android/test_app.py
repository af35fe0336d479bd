"""The app under Robolectric with Android's runtimes: its own tests, and its outputs compared with the host's."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from pipeline.android import dependencies, package
from pipeline.core import Artifact, Measurement
from pipeline.datasets import _images
from pipeline.system import store
from pipeline.system.store import Store
from tests import schemas
from tests.android import golden, jvm
from tests.android.conftest import MODEL, RECIPES, TARGETS


def test_every_kotlin_test_passes(ran: jvm.Ran) -> None:
    assert ran.done.code == 0, ran.done.out[-4000:]
    assert "OK (" in ran.done.out


def test_kotlin_and_python_preprocess_golden_images_alike(ran: jvm.Ran) -> None:
    images = golden.images()
    assert len(images) >= 30
    equal, total = 0, 0
    for name, content in images.items():
        for index, preprocessing in enumerate(golden.PREPROCESSING):
            expected = _images.decode(content, name, preprocessing)
            file = ran.folder / "golden" / f"{name}.{index}.pixels"
            actual = np.frombuffer(file.read_bytes(), np.uint8).reshape(expected.shape)
            difference = np.abs(expected.astype(np.int16) - actual)
            assert difference.max() <= 1, f"{name} with {preprocessing}: {difference.max()} levels off"
            equal, total = equal + int((difference == 0).sum()), total + difference.size
    assert equal / total >= 0.99


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("target", TARGETS)
def test_outputs_match_the_hosts(
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
        expected = file["output_0"]
    run = jvm.run_id("predict", recipe, target)
    output = ran.output(run)
    assert output["samples"] == len(expected)
    assert output["artifact_sha256"] == measurement.artifact_sha256
    actual = ran.arrays(run, "predictions.npz")["output_0"]
    error = float(((expected.astype(np.float64) - actual) ** 2).sum())
    snr_db = 999.0 if error == 0 else 10 * np.log10(float((expected.astype(np.float64) ** 2).sum()) / error)
    if recipe == "fp32":
        assert snr_db >= 60
    assert (expected.argmax(1) == actual.argmax(1)).mean() >= 0.995
    if recipe != "int8_weight_only":  # ExecuTorch's XNNPACK has no convolution for it
        assert output["runtime"]["delegate"] == "xnnpack"


@pytest.mark.parametrize("target", TARGETS)
def test_a_measurement_contains_raw_samples(ran: jvm.Ran, target: str) -> None:
    output = ran.output(jvm.run_id("run", "fp32", target))
    assert len(output["runs"]) >= 64
    assert all(loops >= 1 and ns > 0 for loops, ns in output["runs"] + output["warmup"])
    assert output["schema"] == 2 and output["runtime"]["cpus"] is None
    assert len(output["single_runs"]) == (200 if output["runs"][0][0] > 1 else 0)
    assert all(ns > 0 for ns in output["single_runs"]) and output["clock_ns"] >= 0
    assert output["device"]["cpus"] and isinstance(output["device"]["clusters"], list)
    assert all(isinstance(readings, list) for readings in output["frequency_hz"])
    assert output["peak_rss_bytes"] >= output["rss_before_load_bytes"] > 0
    assert output["load_ns"] > 0
    assert len(output["temperature_c"]) == len(output["load_average"]) == 2
    assert output["device"]["before"].keys() == output["device"]["after"].keys()


def test_only_a_runtime_without_another_call_includes_the_copy_of_the_input(ran: jvm.Ran) -> None:
    copies = {target: ran.output(jvm.run_id("run", "fp32", target))["includes_input_copy"] for target in TARGETS}
    assert copies == {"tflite": False, "executorch": True}


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_is_marked_by_what_happened_meanwhile(ran: jvm.Ran, target: str) -> None:
    output = ran.output(jvm.run_id("run", "fp32", target))
    assert (output["foreground_lost"], output["screen_off"], output["call"]) == (False, False, False)
    assert output["throttled_during"] == "0x0"
    assert all(sample["cpus"] for sample in output["samples"])


def test_every_answer_fits_the_schema_of_its_command(ran: jvm.Ran) -> None:
    runs = [(verb, jvm.run_id(verb, "fp32", target)) for verb in ("run", "predict", "memory") for target in TARGETS]
    runs += [("trace", jvm.run_id("trace", target)) for target in TARGETS]
    for verb, run in [*runs, ("facts", "0000fac75"), ("runtimes", "0000aaaa")]:
        assert schemas.wrong(verb, ran.output(run)) == [], (verb, run)


@pytest.mark.parametrize("target", TARGETS)
def test_memory_is_measured_by_a_command_of_its_own(ran: jvm.Ran, target: str) -> None:
    output = ran.output(jvm.run_id("memory", "fp32", target))
    assert output["peak_rss_bytes"] >= output["rss_before_load_bytes"] > 0
    assert output["pss_bytes"] > 0 and output["pss_before_load_bytes"] > 0
    assert isinstance(output["peak_rss_reset"], bool)
    assert output["memory_process"] == "memory"
    assert ran.output(jvm.run_id("run", "fp32", target))["memory_process"] == "run"
    assert "runs" not in output


def test_a_runtime_is_named_by_its_build_and_hash(ran: jvm.Ran) -> None:
    found = {target: ran.output(jvm.run_id("memory", "fp32", target))["runtime"] for target in TARGETS}
    versions = dependencies.versions()
    assert (found["tflite"]["name"], found["tflite"]["version"]) == ("tflite", versions["litert"])
    assert found["executorch"]["version"] == f"react-native-executorch {versions['executorch']}"
    libraries = package.libraries("x86_64", ("litert", "executorch"))
    names = {"tflite": "libtensorflowlite_jni.so", "executorch": "libexecutorch.so"}
    for target, name in names.items():
        assert found[target]["library_sha256"] == hashlib.sha256(libraries[name]).hexdigest()


@pytest.mark.parametrize("target", TARGETS)
def test_a_trace_contains_every_stage(ran: jvm.Ran, matrix: Store, target: str) -> None:
    artifact = store.read(Artifact, matrix.cell(*MODEL, "fp32", target) / "artifact.json")
    assert artifact is not None
    run = jvm.run_id("trace", target)
    assert ran.output(run)["artifact_sha256"] == artifact.sha256
    stages = ran.arrays(run, "trace.npz")
    expected = _images.decode(golden.images()[jvm.TRACED], jvm.TRACED, artifact.spec.preprocessing)
    np.testing.assert_array_equal(stages["resized"], expected)
    tensor = expected[np.newaxis].astype(np.float32)
    expected_input = tensor.transpose(0, 3, 1, 2) if artifact.inputs[0].layout == "NCHW" else tensor
    np.testing.assert_array_equal(stages["input_0"], expected_input)
    assert stages["decoded"].shape[:2] == (45, 31)  # rotated: the file has 31 rows
    assert stages["output_0"].shape == artifact.outputs[0].shape


def test_both_runtimes_are_available(ran: jvm.Ran) -> None:
    runtimes = ran.output("0000aaaa")["runtimes"]
    assert {runtime["name"] for runtime in runtimes if runtime["available"]} == {"litert", "executorch"}


@pytest.mark.parametrize(("run", "message"), jvm.REJECTED)
def test_a_malicious_or_invalid_request_is_rejected_in_one_line(ran: jvm.Ran, run: str, message: str) -> None:
    result = ran.result(run)
    assert result["code"] == 2
    assert result["out"] == ""
    assert message in result["err"]
    assert result["err"].count("\n") == 1


def test_the_accuracy_page_writes_the_hosts_outputs(ran: jvm.Ran, matrix: Store, labels: np.ndarray) -> None:
    outputs = np.fromfile(ran.folder / "evaluation" / "outputs.f32", np.float32).reshape(len(labels), -1)
    with np.load(matrix.cell(*MODEL, "fp32", "executorch") / "local" / "predictions.npz") as file:
        np.testing.assert_allclose(outputs, file["output_0"], atol=1e-4)
