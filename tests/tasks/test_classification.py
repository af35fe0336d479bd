"""Top-1 accuracy and macro F1, held to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.tasks import image_classification, time_series_classification


@pytest.mark.parametrize("task", [image_classification, time_series_classification])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_metrics_are_those_of_scikit_learn(task: object, classes: int) -> None:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 300)
    outputs = random.normal(size=(300, classes)) + 1.5 * np.eye(classes)[labels]
    predicted = outputs.argmax(1)
    assert task.scores([outputs], labels).mean() == accuracy_score(labels, predicted)  # type: ignore[attr-defined]
    found = task.figures([outputs], labels)["macro_f1"]  # type: ignore[attr-defined]
    assert found == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count() -> None:
    outputs = np.eye(4)[[0, 1, 1]]
    assert image_classification.figures([outputs], np.array([0, 1, 1]))["macro_f1"] == 1.0
