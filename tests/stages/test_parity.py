"""Parity: a file whose outputs differ from its graph's is a failure, however they differ."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline import registry
from pipeline.errors import ParityFailed, StageFailed
from pipeline.stages._parity import check, predict
from pipeline.stages.quantize import Graph
from pipeline.system.store import Store, read, write
from pipeline.targets import Target
from tests import plans

SPEC = plans.job().model.spec
ONNX = cast(Target, registry.load("targets", "onnx"))
FP32, INT8 = registry.load("recipes", "fp32").RECIPE, registry.load("recipes", "int8").RECIPE


@pytest.fixture
def file(matrix: Store, tmp_path: Path) -> Path:
    """A copy of the float ONNX file that a test may change."""
    return Path(shutil.copy(matrix.cell("tiny", "torch", "fp32", "onnx") / "model.onnx", tmp_path))


@pytest.fixture
def graph(matrix: Store, tmp_path: Path) -> Path:
    """A copy of the float graph's folder that a test may change."""
    return shutil.copytree(matrix.graphs("tiny", "torch"), tmp_path / "graphs")


@pytest.fixture
def quantized(matrix: Store, tmp_path: Path) -> Path:
    """A copy of the int8 graph's folder that a test may change."""
    return shutil.copytree(matrix.graphs("tiny", "torch", "int8"), tmp_path / "quantized")


def change(path: Path, transform: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the weights of the last layer."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    (weight,) = [t for t in model.graph.initializer if t.name.endswith("classifier.weight")]
    weight.CopyFrom(numpy_helper.from_array(transform(numpy_helper.to_array(weight)), weight.name))
    onnx.save(model, path)


def change_reference(folder: Path, transform: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the stored outputs of a graph."""
    with np.load(folder / "reference.npz") as kept:
        arrays: dict[str, Any] = dict(kept)
    np.savez(folder / "reference.npz", samples=arrays["samples"], output_0=transform(arrays["output_0"]))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_correct_file_passes_and_leaves_no_other_files(file: Path, graph: Path) -> None:
    parity = check(file, ONNX, SPEC, FP32, graph)
    assert parity.snr_db > 100
    assert (parity.samples, parity.top1_agreement, parity.against) == (128, 1.0, "float model")
    assert names(file.parent) == ["graphs", "model.onnx"]


def test_temporary_files_of_another_check_are_left_alone(file: Path, graph: Path) -> None:
    others = [file.with_name(f".tmp-{name}") for name in ("samples.npy", "outputs.npz")]
    for other in others:
        other.write_text("another's")
    check(file, ONNX, SPEC, FP32, graph)
    assert [other.read_text() for other in others] == ["another's"] * 2


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda w: -w, r"outputs differ from the float model's: -?\d+\.\d dB, and a correct export has at least 60 dB"),
        (lambda w: w[::-1].copy(), "outputs differ from the float model's"),
        (lambda w: w * np.float32(1.002), "outputs differ from the float model's: 5"),
        (np.zeros_like, "outputs differ from the float model's"),
        (lambda w: np.full_like(w, np.nan), "outputs differ from the float model's|NaN|not finite"),
    ],
    ids=["negative", "reversed classes", "off by 0.2 %", "zero", "NaN"],
)
def test_changed_weights_fail(
    transform: Callable[[np.ndarray], np.ndarray], message: str, file: Path, graph: Path
) -> None:
    change(file, transform)
    with pytest.raises(ParityFailed, match=message):
        check(file, ONNX, SPEC, FP32, graph)
    assert names(file.parent) == ["graphs", "model.onnx"]


def test_one_wrong_sample_in_128_fails(file: Path, graph: Path) -> None:
    def reverse_one(outputs: np.ndarray) -> np.ndarray:
        outputs[77] = outputs[77, ::-1]
        return outputs

    change_reference(graph, reverse_one)
    with pytest.raises(ParityFailed, match="outputs differ from the float model's"):
        check(file, ONNX, SPEC, FP32, graph)


def test_a_static_file_may_be_as_far_from_the_graph_as_the_graph_is_from_the_float_model(
    matrix: Store, quantized: Path
) -> None:
    """The number of output steps says nothing: it grows with a network's depth."""
    path = matrix.cell("tiny", "torch", "int8", "onnx") / "model.onnx"
    exact = predict(path, ONNX, np.load(quantized / "reference.npz")["samples"])[0]
    graph = read(Graph, quantized / "graph.json")
    assert graph is not None and graph.steps[0] is not None

    def with_noise(decibels: float) -> Any:
        noise = np.random.default_rng(0).normal(size=exact.shape).astype(np.float32)
        noise *= np.sqrt((exact**2).sum() / (noise**2).sum() / 10 ** (decibels / 10))
        change_reference(quantized, lambda _: exact + noise)
        return check(path, ONNX, SPEC, INT8, quantized)

    def measured(decibels: float, agreement: float = 0.9) -> None:
        parity = replace(graph.parity, snr_db=decibels, top1_agreement=agreement)
        write(quantized / "graph.json", replace(graph, parity=parity))

    measured(24.0)
    found = with_noise(25.0)
    assert found.snr_db == pytest.approx(25, abs=0.2) and found.max_steps > 4
    measured(26.0)
    with pytest.raises(ParityFailed, match=r"2[45]\.\d dB.* at least 26 dB"):
        with_noise(25.0)
    measured(200.0)  # a graph that loses nothing
    assert with_noise(31.0).snr_db > 30
    with pytest.raises(ParityFailed, match="at least 30 dB"):
        with_noise(29.0)
    measured(5.0)
    with pytest.raises(ParityFailed, match="at least 10 dB"):
        with_noise(8.0)
    measured(10.0, agreement=1.0)
    with pytest.raises(ParityFailed, match=r"top-1 agreement .* of 95\.0% needed$"):
        with_noise(11.0)


def test_one_wrong_sample_in_128_fails_for_a_static_file_too(matrix: Store, quantized: Path) -> None:
    def reverse_one(outputs: np.ndarray) -> np.ndarray:
        outputs[77] = outputs[77, ::-1]
        return outputs

    change_reference(quantized, reverse_one)
    with pytest.raises(ParityFailed, match="outputs differ from the quantized graph's"):
        check(matrix.cell("tiny", "torch", "int8", "onnx") / "model.onnx", ONNX, SPEC, INT8, quantized)


def test_a_file_that_the_runtime_cannot_run_fails_with_the_runtimes_message(file: Path, graph: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(StageFailed, match=r"^onnxruntime cannot run the file: ") as caught:
        check(file, ONNX, SPEC, FP32, graph)
    assert not isinstance(caught.value, ParityFailed)
    assert names(file.parent) == ["graphs", "model.onnx"]
