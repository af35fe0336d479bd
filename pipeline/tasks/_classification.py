"""Top-1 accuracy and macro F1, for every task whose samples have one of the model's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.core import ModelSpec
from pipeline.tasks import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def check(spec: ModelSpec) -> str | None:
    """See `Task`: one output of shape (classes,), and as many different labels, or none."""
    if len(spec.outputs) != 1 or len(spec.outputs[0].shape) != 1:
        return f"a classifier has one output of shape (classes,), not {[output.shape for output in spec.outputs]}"
    if spec.labels and (len(spec.labels) != spec.classes or len(set(spec.labels)) < spec.classes):
        return (
            f"SPEC.labels has {len(spec.labels)} names, {len(set(spec.labels))} of them different; "
            f"it must have {spec.classes}, one for each value of the output, or be empty"
        )
    return None


def truth(spec: ModelSpec) -> Truth:
    """See `Task`: the index of a class."""
    return Truth("class", ())


def scores(
    outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """See `Task`: 1 where the largest output is the label's, else 0. Outputs that are not finite are wrong."""
    import numpy as np

    return np.asarray(stats.top1(outputs[0]) == labels, np.float64)


def figures(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
    """See `Task`: macro F1, over the classes that occur in the labels or the predictions, as in scikit-learn."""
    import numpy as np

    predicted = stats.top1(outputs[0])
    found = []
    for label in np.union1d(labels, predicted[predicted >= 0]):
        hits = int(((predicted == label) & (labels == label)).sum())
        found.append(2 * hits / (int((predicted == label).sum()) + int((labels == label).sum())))
    return {"macro_f1": float(np.mean(found))}
