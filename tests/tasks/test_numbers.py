"""Models that take no images and return no classes: from training to the results, in both frameworks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import Cell, Measurement
from pipeline.errors import BadData, BadModel, Unsupported
from pipeline.report.document import write_report
from pipeline.results import collect
from pipeline.stages import ship, train
from pipeline.stages.export import export
from pipeline.stages.measure import bench
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.datasets import synthetic

SERIES = {
    "__init__.py": '''"""A small network for series."""

from pipeline.core import ModelSpec, Standardization, Tensor, Training

SPEC = ModelSpec(
    name="series",
    task="time_series_classification",
    inputs=(Tensor("window", (16, 2)),),
    outputs=(Tensor("logits", (2,)),),
    labels=(),
    preprocessing=Standardization(mean=(0.0, 0.5), std=(1.5,)),
    dataset="arrays",
    training=Training(epochs=8, batch_size=8, lr=1e-2),
)
''',
    "torch.py": """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8 * 16, 2)

    def forward(self, window):
        return self.head(self.features(window.transpose(1, 2)).flatten(1))


def build(spec):
    return Net()
""",
}
MEASURED = ("tflite", "executorch", "onnx")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "model"
    folder.mkdir()
    for name, text in SERIES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.as_arrays(tmp_path_factory.mktemp("data") / "arrays", {"still": 60, "moving": 60})


def cells(build: Store, targets: tuple[str, ...], **more: object) -> dict[tuple[str, str], Cell]:
    """The measured cells of fp32 and int8, by recipe and target."""
    bench(build, plans.plan(targets, ("fp32", "int8"), devices="local", **more), plans.QUICK)
    return {(row.cell.recipe, row.cell.target): row.cell for row in collect.rows(build) if row.cell.status == "ok"}


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_regression_is_trained_exported_and_measured_by_its_own_metric(framework: str, tmp_path: Path) -> None:
    build = Store(tmp_path)
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    found = cells(build, targets, model="diabetes_mlp", frameworks=framework, epochs=10)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    for (recipe, _), cell in found.items():
        assert cell.metric == "r2" and cell.accuracy is not None and 0.3 < cell.accuracy < 0.7
        assert cell.drop_points is not None and abs(cell.drop_points) < (0.01 if recipe == "fp32" else 2)
        assert 35 < cell.figures["mae"] < 60
        assert (cell.agreement, cell.lost, cell.gained) == (None, None, None)
        assert cell.parity is not None and cell.parity.top1_agreement is None and cell.parity.snr_db > 60
    graphs = {cell.graph_parity.snr_db for cell in found.values() if cell.graph_parity}
    assert len(graphs) == 1 and min(graphs) > 30  # one graph for all targets
    assert all(cell.coverage is None or cell.coverage.multiply_adds == 1 for cell in found.values())


def test_a_report_of_a_regression_names_no_classes(tmp_path: Path) -> None:
    build = Store(tmp_path)
    cells(build, ("onnx",), model="diabetes_mlp", epochs=3)
    write_report(build)
    text = (tmp_path / "report.md").read_text()
    assert "R², %" in text and "mean absolute error" in text
    assert "top-1" not in text.partition("## Method")[0] and "class" not in text.partition("## Not measured")[0]
    results = json.loads((tmp_path / "results.json").read_text())
    assert [cell["metric"] for cell in results if cell["status"] == "ok"] == ["r2", "r2"]


def test_series_are_classified_on_every_target(series: Path, data: Path, tmp_path: Path) -> None:
    build = Store(tmp_path)
    found = cells(build, MEASURED, model=series, data=data)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in MEASURED}
    assert all(cell.metric == "top1" and (cell.accuracy or 0) > 0.9 for cell in found.values())
    assert all((cell.figures["macro_f1"]) > 0.9 for cell in found.values())
    checkpoint = train.ready(build, plans.job(model=series, data=data))
    assert checkpoint is not None and checkpoint.spec.labels == ("moving", "still")
    (place,) = tmp_path.glob("series.torch/int8/onnx/local/measurement.json")
    measurement = store.read(Measurement, place)
    assert measurement is not None and measurement.accuracy.metric == "top1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_core_ml_file_takes_an_array_instead_of_an_image(series: Path, data: Path, tmp_path: Path) -> None:
    import coremltools

    (outcome,) = export(Store(tmp_path), plans.plan(("coreml",), ("fp32",), model=series, data=data, epochs=1))
    assert outcome.artifact is not None and outcome.path is not None
    (port,) = outcome.artifact.inputs
    assert (port.shape, port.dtype, port.layout) == ((1, 16, 2), "float32", None)
    (described,) = coremltools.utils.load_spec(str(outcome.path)).description.input
    assert list(described.type.multiArrayType.shape) == [1, 16, 2]


def test_only_image_classifiers_are_shipped(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="regression"):
        ship.ship(Store(tmp_path), plans.plan(model="diabetes_mlp"), ship.Options(version="1.0.0"))


# -- what bad input gets -----------------------------------------------------------------------------------------------


def arrays(folder: Path, **found: np.ndarray) -> Path:
    folder.mkdir()
    np.savez(folder / "train.npz", **found)
    return folder


INPUTS = np.zeros((20, 16, 2), np.float32)
LABELS = np.arange(20) % 2


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"inputs": INPUTS}, "labels"),
        ({"inputs": INPUTS[0], "labels": LABELS[:16], "more": LABELS}, r"\(16, 2\)|labels"),
        ({"inputs": INPUTS, "labels": LABELS[:5]}, "20 inputs and 5 labels"),
        ({"inputs": INPUTS.astype("U1"), "labels": LABELS}, "<U1"),
        ({"inputs": INPUTS, "labels": LABELS.reshape(10, 2)}, r"\(10, 2\)"),
        ({"inputs": np.where(LABELS[:, None, None], np.nan, INPUTS), "labels": LABELS}, r"inputs\[1\]"),
        ({"inputs": INPUTS, "labels": LABELS / 2}, "needs classes"),
        ({"inputs": INPUTS[:, :8], "labels": LABELS}, r"\(8, 2\).*\(16, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    found: dict[str, np.ndarray], named: str, series: Path, tmp_path: Path
) -> None:
    folder = arrays(tmp_path / "data", **found)
    with pytest.raises(BadData, match=named):
        train.train(Store(tmp_path / "build"), plans.plan(model=series, data=folder))


def test_a_pickle_in_an_array_file_is_not_read(series: Path, tmp_path: Path) -> None:
    folder = arrays(tmp_path / "data", inputs=INPUTS, labels=np.array([{}] * 20, dtype=object))
    with pytest.raises(BadData, match=r"train\.npz"):
        train.train(Store(tmp_path / "build"), plans.plan(model=series, data=folder))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('dataset="arrays"', 'dataset="digits"', "Preprocessing"),
        ("(16, 2)", "(16, 2, 1, 1)", r"\(16, 2, 1, 1\)"),
        ("std=(1.5,)", "std=(1.5, 1.0, 1.0)", "std has 3 values"),
        ("std=(1.5,)", "std=(0.0,)", "above 0"),
        ('"time_series_classification"', '"regresion"', "regression"),
        ("lr=1e-2", 'lr=1e-2, augment=("flip",)', "flip"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(old: str, new: str, named: str, series: Path, tmp_path: Path) -> None:
    for name, text in SERIES.items():
        (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(BadModel, match=named):
        plans.plan(model=tmp_path)
