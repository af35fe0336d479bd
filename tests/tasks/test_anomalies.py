"""Anomaly detection: AUC held to scikit-learn's, series with labelled anomalies, and the way to the results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import sources
from pipeline.core import Standardization
from pipeline.datasets import seriescsv
from pipeline.errors import BadData
from pipeline.system.store import Store
from pipeline.tasks import anomaly_detection
from tests.datasets import synthetic
from tests.tasks.test_numbers import MEASURED, cells

SPEC = sources.find("autoencoder_series").spec
NONE = Standardization((0.0,), (1.0,))


def case(samples: int, digits: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Outputs that are somewhat larger for anomalies. Args: digits: fewer make more of them equal."""
    random = np.random.default_rng(seed)
    labels = (random.uniform(size=samples) < 0.2).astype(np.int64)
    return [(random.normal(size=samples) + labels).round(digits)[:, None]], labels


@pytest.mark.parametrize(("samples", "digits"), [(300, 6), (300, 1), (300, 0), (12, 0)])
def test_the_metrics_are_those_of_scikit_learn(samples: int, digits: int) -> None:
    from sklearn.metrics import roc_auc_score

    outputs, labels = case(samples, digits, 3)
    expected = [roc_auc_score(labels, outputs[0][:, 0], max_fpr=most) for most in (None, 0.1)]
    assert anomaly_detection.scores(outputs, labels).mean() == pytest.approx(expected[0], abs=1e-9)
    assert anomaly_detection.figures(outputs, labels)["pauc"] == pytest.approx(expected[1], abs=1e-9)


def test_each_score_is_that_of_the_jackknife() -> None:
    from sklearn.metrics import roc_auc_score

    outputs, labels = case(40, 1)
    whole = roc_auc_score(labels, outputs[0][:, 0])
    without = np.array([roc_auc_score(np.delete(labels, i), np.delete(outputs[0][:, 0], i)) for i in range(40)])
    expected = whole + 39 * (without.mean() - without)
    assert anomaly_detection.scores(outputs, labels) == pytest.approx(expected, abs=1e-9)


def test_the_scores_have_the_standard_error_of_a_bootstrap() -> None:
    outputs, labels = case(300, 6)
    random = np.random.default_rng(0)
    drawn = (random.integers(0, 300, 300) for _ in range(300))
    means = [anomaly_detection.scores([outputs[0][some]], labels[some]).mean() for some in drawn]
    error = anomaly_detection.scores(outputs, labels).std(ddof=1) / np.sqrt(300)
    assert error == pytest.approx(np.std(means, ddof=1), rel=0.2)


@pytest.mark.parametrize("label", [0, 1])
def test_samples_of_one_class_have_no_area(label: int) -> None:
    outputs, labels = [np.arange(5.0)[:, None]], np.full(5, label)
    assert anomaly_detection.scores(outputs, labels).tolist() == [0.0] * 5
    assert anomaly_detection.figures(outputs, labels) == {"pauc": 0.0}


def test_the_only_anomaly_has_a_finite_score() -> None:
    scores = anomaly_detection.scores([np.arange(4.0)[:, None]], np.array([0, 0, 1, 0]))
    assert np.isfinite(scores).all() and scores.mean() == pytest.approx(2 / 3)


@pytest.mark.parametrize("labels", [(), ("normal",), ("normal", "normal"), ("a", "b", "c")])
def test_a_spec_needs_two_labels(labels: tuple[str, ...]) -> None:
    assert anomaly_detection.check(SPEC) is None
    assert anomaly_detection.check(replace(SPEC, labels=labels)) is not None


@pytest.mark.usefixtures("imported")
def test_a_loss_is_the_mean_output_of_normal_samples_in_both_frameworks() -> None:
    import tensorflow as tf
    import torch

    from pipeline.frameworks import _keras_losses, _torch_losses

    outputs, labels = np.array([[1.0], [3.0], [90.0], [5.0]], np.float32), np.array([0, 0, 1, 0])
    assert float(_torch_losses.of(SPEC, labels)(torch.from_numpy(outputs), torch.from_numpy(labels))) == 3
    assert float(tf.reduce_mean(_keras_losses.loss(SPEC, labels)(tf.constant(labels), tf.constant(outputs)))) == 3
    for of in (_torch_losses.of, _keras_losses.loss):
        with pytest.raises(BadData, match="no normal samples"):
            of(SPEC, np.ones(4, np.int64))


# -- series ------------------------------------------------------------------------------------------------------------


def series(folder: Path, values: np.ndarray, periods: list[list[int]]) -> Path:
    """One series, a reading each second; periods by their first and last reading."""
    times = np.datetime64("2024-01-01T00:00:00") + np.arange(len(values)).astype("timedelta64[s]")
    lines = [",".join(map(str, row)) for row in zip(times, *np.atleast_2d(values.T), strict=True)]
    names = ",".join("abc"[: np.atleast_2d(values.T).shape[0]])
    found = {"own.csv": [[str(times[first]), str(times[last])] for first, last in periods]}
    text = "\n".join([f"timestamp,{names}", *lines])
    return synthetic.as_folder(folder, {"own.csv": text.encode(), "windows.json": json.dumps(found).encode()})


def starts(data: Path, values: np.ndarray, split: str) -> dict[int, int]:
    """Where each window of a split begins in a series without equal values, and its label."""
    loaded = seriescsv.load(data, split, NONE)
    known = values[: int(0.15 * len(values))]
    scaled = ((values - known.mean()) / known.std()).astype(np.float32)
    found = {}
    for window, label in zip(loaded.inputs(range(len(loaded)))[..., 0], loaded.labels.tolist(), strict=True):
        place = int(np.abs(scaled - window[0]).argmin())
        assert window == pytest.approx(scaled[place : place + 64])
        found[place] = label
    return dict(sorted(found.items()))


def test_a_series_is_divided_in_time_and_no_reading_is_in_two_splits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=2000)
    data = series(tmp_path / "data", values, [])
    assert list(starts(data, values, "train")) == list(range(0, 1296 - 63, 16))
    assert list(starts(data, values, "validation")) == [1296, 1360]
    assert list(starts(data, values, "test")) == list(range(1440, 2000 - 63, 64))


def test_a_window_that_a_labelled_period_touches_is_an_anomaly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=2000)
    data = series(tmp_path / "data", values, [[1503, 1503], [1600, 1700]])
    expected = {1440: 1, 1504: 0, 1568: 1, 1632: 1, 1696: 1, 1760: 0, 1824: 0, 1888: 0}
    assert starts(data, values, "test") == expected


def test_values_are_cut_and_a_constant_beginning_has_a_scale(tmp_path: Path) -> None:
    values = np.full((2000, 2), 50.0)
    values[1500], values[:, 1] = 50.1, 0.0
    values[1510, 1] = 1e30
    data = series(tmp_path / "data", values, [])
    inputs = [seriescsv.load(data, split, NONE) for split in ("train", "test")]
    found = np.concatenate([split.inputs(range(len(split))) for split in inputs])
    assert found.shape[1:] == (64, 2) and np.isfinite(found).all()
    assert (found[..., 0].max(), found[..., 1].max()) == (pytest.approx(2, rel=1e-4), 10)


def test_a_window_of_a_series_without_noise_is_in_the_earliest_split_only(tmp_path: Path) -> None:
    values = np.tile(np.arange(16.0), 125)
    values[1504:1568] = 3
    data = series(tmp_path / "data", values, [])
    assert len(seriescsv.load(data, "test", NONE)) == 1 < len(seriescsv.load(data, "train", NONE))


GOOD = "timestamp,value\n" + "".join(f"2024-01-01 00:{i // 60:02}:{i % 60:02},{i}\n" for i in range(900))


@pytest.mark.parametrize(
    ("text", "periods", "named"),
    [
        ("", "{}", "a.csv, line 1"),
        ("time,value\n1,2\n", "{}", "a.csv, line 1"),
        (GOOD.replace("00:00:07,7", "00:00:07,x"), "{}", "a.csv, line 9.*'x'"),
        (GOOD.replace("00:00:07,7", "00:00:07,nan"), "{}", "a.csv, line 9"),
        (GOOD.replace("00:00:07,7", "00:00:07"), "{}", "a.csv, line 9"),
        (GOOD.replace("2024-01-01 00:00:07", "yesterday"), "{}", "a.csv, line 9.*yesterday"),
        (GOOD[: GOOD.index("00:01:00") - 11], "{}", "64"),
        (GOOD, "{", "windows.json is not JSON"),
        (GOOD, "[]", "windows.json"),
        (GOOD, '{"b.csv": []}', "windows.json.*b.csv"),
        (GOOD, '{"a.csv": [["2024-01-01"]]}', "windows.json.*a.csv"),
        (GOOD, '{"a.csv": 3}', "windows.json.*a.csv"),
        (GOOD, '{"a.csv": [["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]]}', "a.csv.*time zone"),
        (GOOD, None, "windows.json"),
    ],
)
def test_series_that_do_not_fit_are_refused_by_file_and_line(
    text: str, periods: str | None, named: str, tmp_path: Path
) -> None:
    files = {"a.csv": text.encode()} | ({} if periods is None else {"windows.json": periods.encode()})
    with pytest.raises(BadData, match=named):
        seriescsv.classes(synthetic.as_folder(tmp_path / "data", files))


def test_series_of_different_widths_are_refused(tmp_path: Path) -> None:
    wide = GOOD.replace("value\n", "value,more\n", 1).replace("0\n", "0,1\n")
    with pytest.raises(BadData, match=r"b\.csv"):
        files = {"a.csv": GOOD.encode(), "b.csv": wide.encode(), "windows.json": b"{}"}
        seriescsv.classes(synthetic.as_folder(tmp_path / "data", files))


# -- the way to the results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_detector_learns_what_is_normal_and_is_measured_by_its_auc(framework: str, tmp_path: Path) -> None:
    data = synthetic.as_folder(tmp_path / "data", synthetic.series_files())
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    more = {"model": "autoencoder_series", "data": data, "frameworks": framework, "epochs": 15, "batch_size": 32}
    found = cells(Store(tmp_path / "build"), targets, **more)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    for (recipe, _), cell in found.items():
        assert cell.metric == "auc" and (cell.accuracy or 0) > 0.8
        assert cell.drop_points is not None and abs(cell.drop_points) < (0.01 if recipe == "fp32" else 5)
        assert cell.drop_interval is not None and cell.drop_interval[0] <= cell.drop_points <= cell.drop_interval[1]
        assert 0.5 < cell.figures["pauc"] <= 1 and cell.agreement is None
        assert recipe == "fp32" or (cell.coverage is not None and cell.coverage.multiply_adds == 1)
