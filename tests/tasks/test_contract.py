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
DIGITS, DIABETES, UNET, TEXT = (
    sources.find(name).spec for name in ("digits_cnn", "diabetes_mlp", "unet_small", "text_tiny_transformer")
)
ROOT = Path(__file__).parents[2]


def kind_of(task: Task) -> str:
    """What its truth is; see `Task.truth`."""
    return task.truth(DIGITS)[0]


def spec_of(task: Task) -> ModelSpec:
    if task.check(DIGITS) and task.check(TEXT) is None:
        return TEXT
    return {"i": DIGITS, "f": DIABETES, "u": UNET}[kind_of(task)]


def labels_of(task: Task, count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    return {
        "i": random.integers(0, 10, count),
        "f": random.normal(size=(count, 2)).astype(np.float32),
        "u": random.integers(0, 3, (count, 8, 8)).astype(np.uint8),
    }[kind_of(task)]


def perfect(task: Task, labels: np.ndarray) -> np.ndarray:
    return labels if kind_of(task) == "f" else np.eye(10, dtype=np.float32)[labels]


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
    noise = np.random.default_rng(2).normal(size=perfect(task, labels).shape)
    means = [task.scores(perfect(task, labels) + size * noise, labels).mean() for size in (0.0, 0.5, 2.0)]
    assert means[0] > means[1] > means[2]


def test_outputs_that_are_not_finite_are_worse_than_any_other(task: Task) -> None:
    labels = labels_of(task, 30)
    outputs = perfect(task, labels).copy()
    outputs[3, 0] = np.nan
    scores = task.scores(outputs, labels)
    assert scores[3] <= 0 and np.isfinite(scores).all() and np.delete(scores, 3).min() == 1


def test_parts_have_the_scores_of_the_whole(task: Task) -> None:
    labels = labels_of(task, 30)
    outputs = perfect(task, labels) + np.random.default_rng(2).normal(size=perfect(task, labels).shape)
    parts = [task.scores(outputs[some], labels[some], labels) for some in (slice(0, 7), slice(7, 30))]
    assert np.concatenate(parts) == pytest.approx(task.scores(outputs, labels))


def test_its_further_metrics_have_names_for_tables(task: Task) -> None:
    labels = labels_of(task, 30)
    figures = task.figures(perfect(task, labels), labels)
    assert set(figures) <= set(SECOND) and all(isinstance(value, float) for value in figures.values())


def test_it_accepts_a_spec_of_its_kind_and_refuses_outputs_of_another_shape(task: Task) -> None:
    spec = spec_of(task)
    assert task.check(spec) is None
    assert "(4, 4)" in str(task.check(replace(spec, outputs=(Tensor("map", (4, 4)),), labels=())))
    kind, shape = task.truth(spec)
    assert kind in "ifu" and shape == {"i": (), "f": (1,), "u": (96, 96)}[kind]


def test_a_task_has_labels_or_none(task: Task) -> None:
    wrong = replace(spec_of(task), labels=("a", "b", "c"))
    assert task.check(wrong) is not None


def test_the_titles_of_several_metrics_stand_side_by_side() -> None:
    assert (tasks.titles(["top1", "top1"]), tasks.titles(["r2", "top1"])) == ("top-1", "top-1 / R²")
    assert tasks.name("r2") == "R²"
