"""The contract of all tasks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry, sources, tasks
from pipeline.core import ModelSpec, Tensor
from pipeline.tasks import SECOND, Task

NAMES = registry.names("tasks")
DIGITS, DIABETES, UNET, SSD, TEXT, AUTOENCODER = (
    sources.find(name).spec
    for name in (
        "digits_cnn",
        "diabetes_mlp",
        "unet_small",
        "ssdlite_tiny",
        "text_tiny_transformer",
        "autoencoder_series",
    )
)
ROOT = Path(__file__).parents[2]
Outputs = list[np.ndarray]


def kind_of(task: Task) -> str:
    """What its truth is; see `Truth`."""
    return task.truth(DIGITS).kind


def spec_of(task: Task) -> ModelSpec:
    if task.check(DIGITS) and task.check(TEXT) is None:
        return TEXT
    return {"class": DIGITS, "numbers": DIABETES, "mask": UNET, "boxes": SSD, "anomaly": AUTOENCODER}[kind_of(task)]


def labels_of(task: Task, count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    return {
        "class": random.integers(0, 10, count),
        "anomaly": np.arange(count) % 2,
        "numbers": random.normal(size=(count, 2)).astype(np.float32),
        "mask": random.integers(0, 3, (count, 8, 8)).astype(np.uint8),
        "boxes": boxes(count),
    }[kind_of(task)]


def boxes(count: int) -> np.ndarray:
    """Four boxes in each image, a class each, one of which is none in every third image."""
    corners = np.array([(0.1, 0.1), (0.1, 0.6), (0.6, 0.1), (0.6, 0.6)])
    found = np.zeros((count, 4, 6), np.float32)
    found[:, :, 0], found[:, :, 1:3], found[:, :, 3:5] = range(4), corners, corners + 0.3
    found[::3, 3, 0] = -1
    return found


def perfect(task: Task, labels: np.ndarray) -> Outputs:
    if kind_of(task) == "boxes":
        scores = 20 * np.eye(10, dtype=np.float32)[labels[:, :, 0].astype(int)] - 10
        scores[labels[:, :, 0] < 0] = -10
        return [labels[:, :, 1:5].astype(np.float64), scores]
    if kind_of(task) == "anomaly":
        return [labels[:, None].astype(np.float32)]
    return [labels if kind_of(task) == "numbers" else np.eye(10, dtype=np.float32)[labels]]


def noisy(outputs: Outputs, size: float) -> Outputs:
    random = np.random.default_rng(2)
    units = (0.05, 1.0) if len(outputs) > 1 else (1.0,)  # boxes are shares of an image
    return [each + size * unit * random.normal(size=each.shape) for each, unit in zip(outputs, units, strict=True)]


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    module: Task = registry.load("tasks", request.param)
    return module


def test_importing_them_loads_no_heavy_package() -> None:
    code = "import sys; from pipeline import registry\nfor n in registry.names('tasks'): registry.load('tasks', n)\n"
    code += "print([m for m in ('numpy', 'sklearn', 'scipy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_its_names_are_short(task: Task) -> None:
    assert all(name and "\n" not in name for name in (task.SUMMARY, task.METRIC, task.TITLE, task.NAME))
    assert task.METRIC.isidentifier()


def test_perfect_outputs_have_the_score_1(task: Task) -> None:
    labels = labels_of(task, 30)
    scores = task.scores(perfect(task, labels), labels)
    assert scores.dtype == np.float64 and scores.tolist() == [1.0] * 30


def test_worse_outputs_have_lower_scores(task: Task) -> None:
    labels = labels_of(task, 30)
    means = [task.scores(noisy(perfect(task, labels), size), labels).mean() for size in (0.0, 0.5, 2.0)]
    assert means[0] > means[1] > means[2]


def test_outputs_that_are_not_finite_are_worse_than_any_other(task: Task) -> None:
    labels = labels_of(task, 30)
    outputs = [each.copy() for each in perfect(task, labels)]
    outputs[-1][3, 0] = np.nan
    scores = task.scores(outputs, labels)
    assert np.isfinite(scores).all() and scores[3] < 0.5 < np.delete(scores, 3).min()
    assert task.POOLED or (scores[3] <= 0 and np.delete(scores, 3).min() == 1)


def test_parts_have_the_scores_of_the_whole(task: Task) -> None:
    labels = labels_of(task, 30)
    outputs = noisy(perfect(task, labels), 1.0)
    batches = ([each[some] for each in outputs] for some in (slice(0, 7), slice(7, 30)))
    assert tasks.scores(task, batches, labels) == pytest.approx(task.scores(outputs, labels))


def test_its_further_metrics_have_names_for_tables(task: Task) -> None:
    labels = labels_of(task, 30)
    figures = task.figures(perfect(task, labels), labels)
    assert set(figures) <= set(SECOND) and all(isinstance(value, float) for value in figures.values())


def test_it_accepts_a_spec_of_its_kind_and_refuses_outputs_of_another_shape(task: Task) -> None:
    spec = spec_of(task)
    assert task.check(spec) is None
    assert "(4, 4)" in str(task.check(replace(spec, outputs=(Tensor("map", (4, 4)),), labels=())))
    truth = task.truth(spec)
    assert (
        truth.shape == {"class": (), "anomaly": (), "numbers": (1,), "mask": (96, 96), "boxes": (None, 6)}[truth.kind]
    )


def test_a_task_has_labels_or_none(task: Task) -> None:
    wrong = replace(spec_of(task), labels=("a", "b", "c", "d"))
    assert task.check(wrong) is not None


def test_the_titles_of_several_metrics_stand_side_by_side() -> None:
    assert (tasks.titles(["top1", "top1"]), tasks.titles(["r2", "top1"])) == ("top-1", "top-1 / R²")
    assert tasks.name("r2") == "R²"
