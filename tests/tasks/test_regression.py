"""R² and the mean absolute error, held to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from pipeline.tasks import regression


@pytest.mark.parametrize("numbers", [1, 3])
def test_the_mean_score_is_r2_and_the_errors_are_those_of_scikit_learn(numbers: int) -> None:
    random = np.random.default_rng(0)
    labels = random.normal(100, 20, (200, numbers)).astype(np.float32)
    outputs = (labels + random.normal(0, 10, labels.shape)).astype(np.float32)
    assert regression.scores([outputs], labels).mean() == pytest.approx(
        r2_score(labels.astype(float), outputs), abs=1e-9
    )
    assert regression.figures([outputs], labels)["mae"] == pytest.approx(mean_absolute_error(labels, outputs), rel=1e-6)


def test_a_model_that_returns_the_mean_has_an_r2_of_0() -> None:
    labels = np.arange(10, dtype=np.float32)[:, None]
    assert regression.scores([np.full((10, 1), labels.mean())], labels).mean() == pytest.approx(0)


def test_a_number_that_never_varies_is_left_out() -> None:
    labels = np.stack([np.arange(10.0), np.full(10, 7.0)], axis=1)
    outputs = labels + np.array([[0.0, 5.0]])
    assert regression.scores([outputs], labels).tolist() == [1.0] * 10
    assert regression.scores([outputs[:, 1:]], labels[:, 1:]).tolist() == [0.0] * 10
