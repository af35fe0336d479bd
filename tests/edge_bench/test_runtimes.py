"""The contract of all runtimes. It is also tested on every runtime that is added to the folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from edge_bench import measure, model, runtimes

from .calls import Call, Subject

MEASUREMENT_KEYS = {
    *("schema", "artifact_sha256", "size_bytes", "device", "runtime", "load_ns", "first_run_ns", "refills_input"),
    "includes_input_copy",
    *("warmup", "runs", "single_runs", "clock_ns", "temperature_c", "frequency_hz", "load_average"),
    *("throttled", "throttled_before", "throttling"),
    *("peak_rss_bytes", "rss_before_load_bytes", "started_at", "tools"),
}
DEVICE_KEYS = {
    *("board", "cpu", "cores", "cpus", "memory_bytes", "os", "kernel", "arch", "governor", "frequency_max_hz"),
    *("clusters", "isolated", "cpu_limit"),
}


def test_all_outputs_of_all_samples_equal_those_of_torch(
    subject: Subject, edge_bench: Call, models: Path, tmp_path: Path
) -> None:
    done = edge_bench("predict", *subject.arguments, "--out", "p.npz", python=subject.python, path=subject.path).json

    expected, predicted = np.load(models / "expected.npz"), np.load(tmp_path / "p.npz")
    assert predicted.files == expected.files == ["output_0", "output_1"]
    for key, values in expected.items():
        assert predicted[key].dtype == np.float32
        assert predicted[key].shape == values.shape
        assert np.abs(predicted[key] - values).max() <= 1e-4 * np.abs(values).max()
    assert done["samples"] == 20
    assert done["start"] == 0
    assert [output["shape"] for output in done["outputs"]] == [[1, 5], [1, 1]]
    assert [output["dtype"] for output in done["outputs"]] == ["float32", "float32"]
    assert done["predictions"] == "p.npz"
    assert done["predictions_sha256"] == hashlib.sha256((tmp_path / "p.npz").read_bytes()).hexdigest()
    assert done["runtime"]["name"] == subject.name


def test_a_measurement_contains_every_raw_sample(subject: Subject, edge_bench: Call, tmp_path: Path) -> None:
    short = ("--min-runs", "7", "--min-seconds", "0", "--warmup-seconds", "0.02")
    begin = datetime.now(UTC).replace(microsecond=0)
    done = edge_bench(
        "run", *subject.arguments, *short, "--out", "m.json", python=subject.python, path=subject.path
    ).json

    artifact = subject.artifact.read_bytes()
    assert set(done) == MEASUREMENT_KEYS
    assert set(done["device"]) == DEVICE_KEYS
    assert done["schema"] == 2
    assert done["artifact_sha256"] == hashlib.sha256(artifact).hexdigest()
    assert done["size_bytes"] == len(artifact)
    assert done["runtime"]["name"] == subject.name
    assert done["runtime"]["threads"] == 1
    assert done["runtime"]["delegate"] == ("cpu" if subject.name == "onnxruntime" else "xnnpack")
    assert done["runtime"]["version"] == done["tools"][runtimes.load(subject.name).DISTRIBUTION]
    assert len(done["runs"]) == 7
    assert len({loops for loops, _ in done["runs"]}) == 1
    loops = [loops for loops, _ in done["warmup"]]
    assert loops[0] == 1 and all(after in (before, 2 * before) for before, after in pairwise(loops))
    assert all(ns > 0 for _, ns in done["runs"] + done["warmup"])
    assert len(done["single_runs"]) == (200 if done["runs"][0][0] > 1 else 0)
    assert all(ns > done["clock_ns"] > 0 for ns in done["single_runs"])
    assert done["runtime"]["cpus"] is None
    assert done["load_ns"] > 0
    assert done["first_run_ns"] > 0
    assert done["peak_rss_bytes"] >= done["rss_before_load_bytes"] > 10_000_000
    assert begin <= datetime.fromisoformat(done["started_at"]) <= datetime.now(UTC)
    assert json.loads((tmp_path / "m.json").read_text()) == done


def test_three_threads_are_two_more_than_one_thread(subject: Subject) -> None:
    count = (
        "import os, sys; from pathlib import Path; from edge_bench import runtimes, samples\n"
        "session = runtimes.imported(sys.argv[1]).load(Path(sys.argv[2]), int(sys.argv[3]))\n"
        "session.set([samples.pseudo_random(info) for info in session.inputs]); session.invoke()\n"
        "print(); print(len(os.listdir('/proc/self/task')))\n"
    )

    def tasks(threads: int) -> int:
        command = [subject.python, "-c", count, subject.name, str(subject.artifact), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=subject.env)
        return int(done.stdout.split()[-1])

    assert tasks(3) - tasks(1) == 2


def test_a_file_that_is_not_a_model_is_an_error_of_one_line(subject: Subject, edge_bench: Call, tmp_path: Path) -> None:
    name = f"junk{subject.artifact.suffix}"
    (tmp_path / name).write_text("this is not a model")

    error = edge_bench("run", name, "--runtime", subject.name, python=subject.python, path=subject.path).error

    assert error.startswith(f"{name}: {subject.name} refuses to load it (")


@pytest.mark.parametrize("runtime", runtimes.names())
def test_every_runtime_has_the_functions_and_its_own_extra(runtime: str) -> None:
    module = runtimes.load(runtime)
    assert callable(module.library)
    assert callable(module.load)
    assert module.SUFFIX.startswith(".")
    if runtime == "executorch_runner":  # it is not on a package index
        assert "inv devices.setup" in runtimes.install_line(module)
    else:
        assert runtime == module.EXTRA
        assert runtimes.install_line(module) == f"pip install 'edge-bench[{runtime}]'"


def test_each_suffix_has_one_default_runtime_and_the_others_are_used_by_name() -> None:
    assert runtimes.choose(Path("a.tflite"), None) == "litert"
    assert runtimes.choose(Path("a.tflite"), "tflite_runtime") == "tflite_runtime"
    assert runtimes.choose(Path("a.onnx"), None) == "onnxruntime"
    assert runtimes.choose(Path("a.pte"), None) == "executorch"
    assert runtimes.choose(Path("a.pte"), "executorch_runner") == "executorch_runner"


def test_the_input_is_set_again_before_each_run_if_a_run_overwrites_it(edge_bench: Call) -> None:
    short = ("--min-runs", "3", "--min-seconds", "0", "--warmup-seconds", "0")
    done = edge_bench("run", "overwrites.pte", *short).json
    assert (done["refills_input"], done["includes_input_copy"]) == (True, True)
    assert done["runtime"]["delegate"] == "cpu"
    done = edge_bench("run", "net.tflite", *short).json
    assert (done["refills_input"], done["includes_input_copy"]) == (False, False)


def test_indices_that_a_run_overwrites_with_ones_out_of_range_are_set_again(edge_bench: Call) -> None:
    short = ("--min-runs", "3", "--min-seconds", "0", "--warmup-seconds", "0")
    done = edge_bench("run", "overwrites_ids.pte", *short).json
    assert (done["refills_input"], done["includes_input_copy"]) == (True, True)


def test_what_a_runtime_declares_about_its_input_is_what_it_does(subject: Subject) -> None:
    """The caller's array changes after `set`. Other outputs mean that the call reads it: ExecuTorch does so in place,
    because this program has no memory of its own for its input. The others copied it in `set`."""
    code = (
        "import sys; from pathlib import Path; import numpy as np; from edge_bench import runtimes\n"
        "runtime = runtimes.imported(sys.argv[1]); session = runtime.load(Path(sys.argv[2]), 1)\n"
        "given = [np.full(info.shape, 9, info.dtype) for info in session.inputs]\n"
        "session.set(given); session.invoke(); before = session.get()\n"
        "for array in given: array[...] = 200\n"
        "session.invoke(); copied = all(map(np.array_equal, before, session.get()))\n"
        "session.set(given); session.invoke(); other = not all(map(np.array_equal, before, session.get()))\n"
        "print(); print(other, copied, runtime.COPIES_INPUT)\n"
    )
    command = [subject.python, "-c", code, subject.name, str(subject.artifact)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=subject.env)
    assert done.stdout.split()[-3:] == ["True", str(not subject.name.startswith("executorch")), "False"]


def test_a_runtime_that_copies_the_input_in_its_call_is_recorded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.load("litert"), "COPIES_INPUT", True)
    done = measure.run(model.Job(models / "net.tflite"), None, measure.Effort(1, 0, 0))
    assert (done["refills_input"], done["includes_input_copy"]) == (False, True)


def test_executorch_has_quantized_operators_outside_xnnpack(
    edge_bench: Call, samples: np.ndarray, tmp_path: Path
) -> None:
    edge_bench("predict", "quantizes.pte", "--inputs", "samples.npy", "--layout", "NCHW", "--out", "p.npz").json  # noqa: B018

    # Quantized with scale 2 and zero point 3 to int8, so the largest value is (127 - 3) * 2.
    expected = np.minimum(np.rint(samples.transpose(0, 3, 1, 2) / 2), 124) * 2
    assert np.array_equal(np.load(tmp_path / "p.npz")["output_0"], expected)


def test_an_onnx_file_with_weights_in_a_second_file_is_an_error(edge_bench: Call) -> None:
    # Its size and hash would not include the weights.
    error = edge_bench("run", "split.onnx").error
    assert "split.onnx: onnxruntime refuses to load it (" in error and "external_data=False" in error
