"""From samples to outputs: quantization, layout, slices, and atomic writes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_bench.errors import BadSamples
from edge_bench.runtimes import TensorInfo
from edge_bench.samples import pseudo_random, to_model, to_real

from .calls import Call


def info(dtype: str, scale: float | None = None, zero_point: int | None = None) -> TensorInfo:
    return TensorInfo("x", (1, 3), dtype, scale, zero_point)


def test_quantization_rounds_half_to_even_and_clips() -> None:
    sample = np.array([0.5, 1.5, 2.5, -0.5, 1000, -1000], np.float32)
    assert to_model(sample, info("int8", 1.0, 0)).tolist() == [0, 2, 2, 0, 127, -128]
    assert to_model(sample, info("uint8", 0.5, 10)).tolist() == [11, 13, 15, 9, 255, 0]


def test_a_scale_of_one_keeps_pixels_exactly() -> None:
    pixels = np.array([0, 128, 255], np.uint8)
    assert to_model(pixels, info("int8", 1.0, -128)).tolist() == [-128, 0, 127]


def test_a_dequantized_output_is_exact() -> None:
    real = to_real(np.array([-128, 0, 127], np.int8), info("int8", 0.25, -128))
    assert real.dtype == np.float32
    assert real.tolist() == [0.0, 32.0, 63.75]


def test_an_integer_input_without_a_scale_accepts_only_integers_in_its_range() -> None:
    assert to_model(np.array([1.0, 2.0]), info("int64")).tolist() == [1, 2]
    with pytest.raises(BadSamples, match="int8"):
        to_model(np.array([200.0]), info("int8"))
    with pytest.raises(BadSamples, match="int64"):
        to_model(np.array([0.5]), info("int64"))


def test_an_input_type_that_numpy_does_not_have_is_an_error() -> None:
    with pytest.raises(BadSamples, match="input x takes bfloat16"):
        pseudo_random(info("bfloat16"))


def test_the_pseudo_random_input_is_reproducible_and_valid() -> None:
    assert np.array_equal(pseudo_random(info("float32")), pseudo_random(info("float32")))
    assert pseudo_random(info("float32")).dtype == np.float32
    assert set(pseudo_random(info("int64")).flatten()) <= {0, 1}
    assert pseudo_random(TensorInfo("x", (1, 4000), "int8")).min() == -128
    assert pseudo_random(TensorInfo("x", (1, 4000), "int8")).max() == 127


def test_nan_cannot_be_quantized() -> None:
    with pytest.raises(BadSamples, match="NaN"):
        to_model(np.array([np.nan], np.float32), info("int8", 1.0, 0))


def test_the_outputs_of_an_int8_model_equal_those_of_its_interpreter(
    edge_bench: Call, models: Path, samples: np.ndarray, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    done = edge_bench("predict", "int8.tflite", "--inputs", "samples.npy", "--out", "p.npz").json
    predicted = np.load(tmp_path / "p.npz")

    interpreter = Interpreter(str(models / "int8.tflite"))
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    scale, zero_point = source["quantization"]
    for index, sample in enumerate(samples):
        quantized = np.clip(np.rint(sample / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], quantized[np.newaxis])
        interpreter.invoke()
        for number, output in enumerate(interpreter.get_output_details()):
            scale_out, zero_out = output["quantization"]
            steps = interpreter.get_tensor(output["index"]).astype(np.float32) - zero_out
            assert np.array_equal(predicted[f"output_{number}"][index], (steps * np.float32(scale_out))[0])
    assert [output["dtype"] for output in done["outputs"]] == ["int8", "int8"]
    assert all(output["scale"] > 0 for output in done["outputs"])
    expected = np.load(models / "expected.npz")["output_0"]
    assert np.abs(predicted["output_0"] - expected).mean() < 0.05 * np.abs(expected).max()


def test_predictions_do_not_depend_on_the_dtype_of_the_samples(
    edge_bench: Call, samples: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "u8.npy", samples.astype(np.uint8))
    floats = edge_bench("predict", "net.tflite", "--inputs", "samples.npy", "--out", "f.npz").json
    bytes_ = edge_bench("predict", "net.tflite", "--inputs", "u8.npy", "--out", "b.npz").json
    assert floats["predictions_sha256"] == bytes_["predictions_sha256"]


def test_predictions_of_slices_add_up_to_those_of_all_samples(edge_bench: Call, tmp_path: Path) -> None:
    call = ("predict", "net.tflite", "--inputs", "samples.npy", "--layout", "NHWC", "--out")
    assert edge_bench(*call, "whole.npz").json["samples"] == 20
    assert edge_bench(*call, "head.npz", "--count", "8").json["samples"] == 8
    tail = edge_bench(*call, "tail.npz", "--start", "8").json
    assert (tail["start"], tail["samples"]) == (8, 12)
    whole, head, tail = (np.load(tmp_path / f"{name}.npz")["output_0"] for name in ("whole", "head", "tail"))
    assert np.array_equal(whole, np.concatenate([head, tail]))


def test_an_integer_model_accepts_integers_and_refuses_fractions(edge_bench: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.array([[1.0, 2.0, 3.0, 3.0]]))
    np.save(tmp_path / "half.npy", np.array([[1.0, 2.0, 3.0, 3.0], [0.5, 0.0, 0.0, 0.0]]))
    edge_bench("predict", "looks.onnx", "--inputs", "whole.npy", "--out", "p.npz").json  # noqa: B018
    rows = np.load(tmp_path / "p.npz")["output_0"]
    assert rows.shape == (1, 4, 3)
    assert np.array_equal(rows[0, 2], rows[0, 3])
    error = edge_bench("predict", "looks.onnx", "--inputs", "half.npy", "--out", "q.npz").error
    assert error.startswith("half.npy: sample 1 ") and "int64" in error
    assert not (tmp_path / "q.npz").exists()


def test_a_model_with_two_inputs_can_be_measured_but_takes_no_samples(edge_bench: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros((4, 2), np.float32))
    short = ("--min-runs", "1", "--min-seconds", "0", "--warmup-seconds", "0")
    assert len(edge_bench("run", "adds.onnx", *short).json["runs"]) == 1
    assert "2 inputs (x, y)" in edge_bench("predict", "adds.onnx", "--inputs", "s.npy", "--out", "p.npz").error


def test_a_failed_write_keeps_the_old_file(models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((500, 8, 8, 3), np.uint8))
    (tmp_path / "p.npz").write_text("earlier")
    # A limit on the file size makes the write fail, as a full disk does.
    script = 'ulimit -f 4; exec "$0" -m edge_bench predict "$1" --inputs many.npy --out p.npz'
    command = ["bash", "-c", script, sys.executable, str(models / "net.tflite")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("edge-bench: cannot write p.npz: File too large") and done.stderr.count("\n") == 1
    assert (tmp_path / "p.npz").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.npy", "p.npz"]


def test_ctrl_c_leaves_no_traceback_and_no_file(models: Path, tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "many.npy", "w+", np.uint8, (400_000, 8, 8, 3)).flush()
    command = [sys.executable, "-m", "edge_bench", "predict", str(models / "net.tflite"), "--progress"]
    command += ["--inputs", "many.npy", "--out", "p.npz"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "edge-bench: 4000 of 400000 samples\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["many.npy"]


def test_keep_input_writes_the_inputs_too(edge_bench: Call, samples: np.ndarray, tmp_path: Path) -> None:
    call = ("predict", "net.tflite", "--inputs", "samples.npy", "--count", "3", "--out")
    edge_bench(*call, "with.npz", "--keep-input").json  # noqa: B018
    edge_bench(*call, "without.npz").json  # noqa: B018
    with np.load(tmp_path / "with.npz") as kept, np.load(tmp_path / "without.npz") as plain:
        assert np.array_equal(kept["input_0"], samples[:3].astype(np.float32))
        assert np.array_equal(kept["output_0"], plain["output_0"])
        assert "input_0" not in plain
