"""Regression: one number or several for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core import ModelSpec
from pipeline.tasks import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC, TITLE, NAME = "r2", "R²", "R²"
CLASSES = False
POOLED = False
SUMMARY = "one number or several for each sample"

WORST = -1e6
"""The score of a sample whose outputs are not finite."""


def check(spec: ModelSpec) -> str | None:
    """See `Task`: one output of shape (numbers,), and no labels."""
    if len(spec.outputs) != 1 or len(spec.outputs[0].shape) != 1:
        return f"regression has one output of shape (numbers,), not {[output.shape for output in spec.outputs]}"
    if spec.labels:
        return "regression has no labels: omit SPEC.labels"
    return None


def truth(spec: ModelSpec) -> Truth:
    """See `Task`: as many numbers as the model returns."""
    return Truth("numbers", spec.outputs[0].shape)


def scores(
    outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """See `Task`: 1 - (error / standard deviation of the truth)², averaged over the numbers to predict.

    The mean over all samples is R², the share of the truth's variance that the model explains: 1 for a perfect model,
    0 for one that always returns the mean. Several numbers count alike, as in scikit-learn's r2_score
    (multioutput="uniform_average"). A number that never varies has no R² and is left out.
    """
    import numpy as np

    truth = np.asarray(labels, np.float64).reshape(len(labels), -1)
    whole = truth if population is None else np.asarray(population, np.float64).reshape(len(population), -1)
    variance = whole.var(axis=0)
    varies = variance > 0
    if not varies.any():
        return np.zeros(len(truth))
    errors = np.asarray(outputs[0], np.float64).reshape(truth.shape) - truth
    found = (1 - errors[:, varies] ** 2 / variance[varies]).mean(axis=1)
    return np.where(np.isfinite(found), found, WORST)


def figures(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
    """See `Task`: the mean absolute error, in the unit of the truth."""
    import numpy as np

    truth = np.asarray(labels, np.float64).reshape(len(labels), -1)
    return {"mae": float(np.abs(np.asarray(outputs[0], np.float64).reshape(truth.shape) - truth).mean())}
