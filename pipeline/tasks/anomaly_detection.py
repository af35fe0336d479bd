"""Anomaly detection: one number for each sample, the larger the less usual.

The network returns the anomaly score itself; of an autoencoder, its last operation is the error of the reconstruction.
So a device needs only the outputs, as in every other task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.core import ModelSpec
from pipeline.errors import BadData
from pipeline.tasks import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC, TITLE, NAME = "auc", "AUC", "AUC"
CLASSES = False
POOLED = True
SUMMARY = "a score for each sample that is larger the less usual it is, trained on normal samples"

FALSE_POSITIVES = 0.1
"""pAUC is the area up to this rate of false positives."""


def check(spec: ModelSpec) -> str | None:
    """See `Task`: one output of shape (1,), and two labels, the normal one first."""
    if len(spec.outputs) != 1 or spec.outputs[0].shape != (1,):
        return f"anomaly detection has one output of shape (1,), not {[output.shape for output in spec.outputs]}"
    if len(set(spec.labels)) != 2 or len(spec.labels) != 2:
        return f"anomaly detection has two labels, the normal one first, not {spec.labels}"
    return None


def truth(spec: ModelSpec) -> Truth:
    """See `Task`: 0 for a normal sample, 1 for an anomaly."""
    return Truth("anomaly", ())


def normal_share(labels: NDArray[Any]) -> float:
    """The share of normal samples in the training split, which are the only ones that a loss counts.

    Raises:
        BadData: there are none.
    """
    share = float((labels == 0).mean())
    if not share:
        raise BadData("the training split has no normal samples, and anomaly detection learns from nothing else")
    return share


def scores(
    outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """See `Task`: their mean is the area under the ROC curve: how often an anomaly has a larger output than a normal
    sample; equal outputs count half. 0 where all samples are normal, or all anomalies.
    """
    import numpy as np

    found, anomalous = _sane(outputs[0], labels), labels == 1
    anomalies, normal = np.sort(found[anomalous]), np.sort(found[~anomalous])
    if not len(anomalies) or not len(normal):
        return np.zeros(len(labels))
    # How often each sample is on the right side of the samples of the other class.
    right = np.empty(len(labels))
    right[anomalous] = _below(normal, found[anomalous])
    right[~anomalous] = 1 - _below(anomalies, found[~anomalous])
    area = float(right[anomalous].mean())
    size = np.where(anomalous, len(anomalies), len(normal))
    without = np.divide(size * area - right, size - 1, out=np.full(len(labels), area), where=size > 1)
    return stats.jackknife(area, without)


def figures(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
    """See `Task`: the partial AUC up to FALSE_POSITIVES, standardised so that chance is 0.5.

    Source: McClish, Analyzing a Portion of the ROC Curve, 1989; as scikit-learn's roc_auc_score with max_fpr.
    """
    import numpy as np

    found, anomalous = _sane(outputs[0], labels), labels == 1
    if anomalous.all() or not anomalous.any():
        return {"pauc": 0.0}
    order = np.argsort(-found, kind="stable")
    ends = np.append(np.flatnonzero(found[order][1:] != found[order][:-1]), len(order) - 1)  # of equal outputs
    hits = np.append(0, anomalous[order].cumsum()[ends]) / anomalous.sum()
    alarms = np.append(0, (~anomalous[order]).cumsum()[ends]) / (~anomalous).sum()
    end = int(np.searchsorted(alarms, FALSE_POSITIVES, "right"))
    last = np.interp(FALSE_POSITIVES, alarms[end - 1 : end + 1], hits[end - 1 : end + 1])
    area = float(np.trapezoid(np.append(hits[:end], last), np.append(alarms[:end], FALSE_POSITIVES)))
    chance = 0.5 * FALSE_POSITIVES**2
    return {"pauc": 0.5 * (1 + (area - chance) / (FALSE_POSITIVES - chance))}


def _sane(output: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The outputs (N,); those that are not finite are as wrong as they can be."""
    import numpy as np

    found = np.asarray(output, np.float64).reshape(len(labels))
    return np.where(np.isfinite(found), found, np.where(labels == 1, -np.inf, np.inf))


def _below(values: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the sorted values below each limit; equal ones count half."""
    import numpy as np

    return np.asarray((np.searchsorted(values, limits, "left") + np.searchsorted(values, limits, "right")) / 2) / len(
        values
    )
