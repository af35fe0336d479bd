"""A keyword spotter with log-mel features in the graph: held to a reference, and from training to the results."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import sources
from pipeline.results import collect
from pipeline.stages.measure import bench
from pipeline.system.store import Store
from tests import plans
from tests.datasets import synthetic
from tests.tasks.test_numbers import MEASURED, cells

TRAINING = {"epochs": 12, "batch_size": 10}
logmel = importlib.import_module("models.kws_dscnn.logmel")


def reference(waveform: np.ndarray) -> np.ndarray:
    """Log-mel features by NumPy's FFT in float64: (mels, frames)."""
    starts = range(0, len(waveform) - logmel.FRAME + 1, logmel.HOP)
    frames = np.stack([waveform[start : start + logmel.FRAME] for start in starts]).astype(np.float64)
    window = np.hanning(logmel.FRAME + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / logmel.FRAME
    features = np.log(power @ logmel.mel().astype(np.float64).T + logmel.SMALLEST)
    return (features.T - logmel.MEAN) / logmel.STD


@pytest.mark.usefixtures("imported")
def test_the_features_are_those_of_a_reference_in_both_frameworks() -> None:
    import torch

    model = sources.find("kws_dscnn")
    waveform = synthetic.tone(700, seconds=1.0)[:, 0]
    expected = reference(waveform)
    assert expected.shape == (32, 61) and expected.std() > 0.5
    with torch.no_grad():
        ours = model.code("torch").LogMel()(torch.from_numpy(waveform)[None]).numpy()[0, 0]
    assert np.abs(ours - expected).max() < 1e-4
    keras = np.asarray(model.code("keras").LogMel()(waveform[None]))[0, :, :, 0]
    assert np.abs(keras - expected).max() < 1e-4


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_spoken_digits_are_learnt_and_measured_with_the_front_end_in_float(framework: str, tmp_path: Path) -> None:
    data = synthetic.as_folder(tmp_path / "fsdd", synthetic.spoken_digits(24))
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    found = cells(Store(tmp_path / "build"), targets, model="kws_dscnn", data=data, frameworks=framework, **TRAINING)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    for (recipe, _), cell in found.items():
        assert cell.metric == "top1" and (cell.accuracy or 0) > 0.8 and abs(cell.drop_points or 0) <= 10
        if recipe == "int8":
            assert cell.coverage is not None and 0 < cell.coverage.multiply_adds < 0.5
            assert cell.coverage.float_layers and all("features" in layer.name for layer in cell.coverage.float_layers)
            assert cell.graph_parity is not None and cell.graph_parity.snr_db > 20
    listed = {(cell.recipe, cell.status) for cell in collect.cells(Store(tmp_path / "build"))}
    assert ("int8_weight_only", "missing") in listed  # modules in float make no recipe special
    again = bench(Store(tmp_path / "build"), plans.plan(targets, ("int8",), devices="local", model="kws_dscnn",
                  frameworks=framework, data=data, **TRAINING), plans.QUICK)  # fmt: skip
    assert all(result.failure is None for result in again)
