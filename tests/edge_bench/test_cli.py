"""The command line: JSON on standard output, and errors of one line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import edge_bench as package
import numpy as np
import pytest
from edge_bench import cpus, measure, runtimes

from .calls import Call


def test_facts_describe_this_machine(edge_bench: Call) -> None:
    facts = edge_bench("facts").json
    assert facts["device"]["arch"] == platform.machine()
    assert 1 <= facts["device"]["cores"] <= len(os.sched_getaffinity(0))
    assert cpus.parse(facts["device"]["cpus"]) == sorted(os.sched_getaffinity(0))
    assert facts["device"]["kernel"] == platform.release()
    assert facts["device"]["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts["tools"]["python"] == platform.python_version()
    assert facts["tools"]["numpy"] == np.__version__
    assert facts["tools"]["edge-bench"] == package.__version__


def test_runtimes_lists_all_runtimes_and_how_to_install_missing_ones(edge_bench: Call) -> None:
    listed = edge_bench("runtimes").json["runtimes"]
    assert [entry["name"] for entry in listed] == runtimes.names()
    missing = {entry["name"]: entry for entry in listed}["tflite_runtime"]
    assert missing["available"] is False
    assert missing["reason"] == "tflite-runtime is not installed"
    assert missing["install"] == "pip install 'edge-bench[tflite_runtime]'"


def test_a_runtime_needs_no_other_packages(edge_bench: Call, tflite_runtime_python: str) -> None:
    listed = edge_bench("runtimes", python=tflite_runtime_python).json["runtimes"]
    assert [entry["name"] for entry in listed if entry["available"]] == ["tflite_runtime"]
    heavy = "import importlib.util as u; print([m for m in ('torch', 'tensorflow', 'invoke') if u.find_spec(m)])"
    done = subprocess.run([tflite_runtime_python, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_runtime_is_never_replaced_by_another(edge_bench: Call, tflite_runtime_python: str) -> None:
    error = edge_bench("run", "net.tflite", python=tflite_runtime_python).error
    assert error.startswith("litert: ") and error.endswith("pip install 'edge-bench[litert]'")


def test_help_and_the_list_of_runtimes_import_no_heavy_package() -> None:
    script = (
        "import sys, edge_bench.cli, edge_bench.runtimes as r; [r.load(n) for n in ('litert', 'tflite_runtime')]\n"
        "print([m for m in ('torch', 'ai_edge_litert', 'onnxruntime', 'numpy', 'pipeline') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nosuch.tflite"], "nosuch.tflite: no such file"),
        (["run", "."], ". is not a file"),
        (
            ["run", "samples.npy"],
            "unknown suffix '.npy'; known: .pte (executorch), .pte (executorch_runner), .tflite (litert), "
            ".onnx (onnxruntime)",
        ),
        (
            ["run", "net.tflite", "--runtime", "litrt"],
            "unknown runtime 'litrt' (did you mean litert?); known: executorch",
        ),
        (["run", "net.tflite", "--runtime", "onnxruntime"], "onnxruntime runs .onnx files"),
        (["run", "net.tflite", "--runtime", "tflite_runtime"], "pip install 'edge-bench[tflite_runtime]'"),
        (["run", "net.tflite", "--threads", "0"], "argument --threads: must be an integer of at least 1, not '0'"),
        (
            ["run", "net.tflite", "--min-seconds", "nan"],
            "argument --min-seconds: must be a number of seconds of at least 0, not 'nan'",
        ),
        (["run", "net.tflite", "--cpus", "3-1"], "argument --cpus: must be a list of CPUs such as 0-3,6, not '3-1'"),
        (["run", "net.tflite", "--cpus", "60000"], "--cpus 60000: this process may use CPUs "),
        (["run", "net.tflite", "--layout", "NCHW"], "--layout requires --inputs"),
        (["run", "net.tflite", "--out", "no/m.json"], "cannot write no/m.json: the folder no does not exist"),
        (["run", "net.tflite", "--inputs", "wrong.npy"], "(5, 5, 3); input serving_default_args_0"),
        (["predict", "net.tflite", "--out", "p.npz"], "the following arguments are required: --inputs"),
        (
            ["predict", "net.tflite", "--inputs", "nosuch.npy", "--out", "p.npz"],
            "nosuch.npy: No such file or directory",
        ),
        (["predict", "net.tflite", "--inputs", "pickle.npy", "--out", "p.npz"], "cannot be read as a .npy file"),
        (["predict", "net.tflite", "--inputs", "junk.npy", "--out", "p.npz"], "junk.npy is not a .npy file"),
        (["predict", "net.tflite", "--inputs", "cut.npy", "--out", "p.npz"], "cut.npy cannot be read as a .npy file"),
        (["predict", "net.tflite", "--inputs", "text.npy", "--out", "p.npz"], "text.npy contains <U1"),
        (["predict", "net.tflite", "--inputs", "none.npy", "--out", "p.npz"], "none.npy has shape (0, 8, 8, 3)"),
        (["predict", "net.onnx", "--inputs", "samples.npy", "--out", "p.npz"], "add --layout NCHW"),
        (
            ["predict", "net.tflite", "--inputs", "samples.npy", "--layout", "NCHW", "--out", "p.npz"],
            "omit --layout NCHW",
        ),
        (
            ["predict", "net.tflite", "--inputs", "samples.npy", "--out", "p.npz", "--start", "15", "--count", "9"],
            "samples.npy has 20 samples",
        ),
        (["prdict"], "invalid choice: 'prdict'"),
        ([], "the following arguments are required: COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_arguments_and_files_are_errors_of_one_line_with_exit_code_2(
    arguments: list[str], expected: str, edge_bench: Call, bad_samples: Path
) -> None:
    assert expected in edge_bench(*arguments).error
    assert not (bad_samples / "p.npz").exists()


@pytest.fixture
def bad_samples(tmp_path: Path, samples: np.ndarray) -> Path:
    np.save(tmp_path / "wrong.npy", np.zeros((4, 5, 5, 3), np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.float32))
    (tmp_path / "junk.npy").write_text("cos\nsystem\n(S'touch hacked'\ntR.")
    np.save(tmp_path / "cut.npy", samples)
    os.truncate(tmp_path / "cut.npy", 500)
    return tmp_path


def test_output_of_runtimes_is_shown_only_with_verbose(edge_bench: Call) -> None:
    short = ("--min-runs", "1", "--min-seconds", "0", "--warmup-seconds", "0")
    quiet, verbose = edge_bench("run", "net.tflite", *short), edge_bench("run", "net.tflite", *short, "--verbose")
    assert quiet.json["schema"] == verbose.json["schema"] == 2
    assert quiet.err == ""
    assert "XNNPACK" in verbose.err


def test_short_runs_are_looped_and_long_runs_are_not() -> None:
    assert measure.loops_for([(1, 9_000), (2, 8_000)]) == 250
    assert measure.loops_for([(1, 1_000_000)]) == 1
    assert measure.loops_for([(1, 6_000_000_000)]) == 1


def test_a_measurement_ends_after_both_the_minimum_runs_and_the_minimum_seconds() -> None:
    calls: list[int] = []
    entries = measure.measure(lambda: calls.append(1), 3, measure.Effort(min_runs=5, min_seconds=0))
    assert [loops for loops, _ in entries] == [3] * 5
    assert len(calls) == 15
    assert sum(ns for _, ns in measure.measure(lambda: None, 1000, measure.Effort(1, 0.01))) > 0
