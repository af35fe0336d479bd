"""Semantic segmentation: a class for each pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core import ModelSpec
from pipeline.tasks import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC, TITLE, NAME = "iou", "IoU", "IoU"
CLASSES = False
POOLED = False
SUMMARY = "a class for each pixel of an image"


def check(spec: ModelSpec) -> str | None:
    """See `Task`: an output (height, width, classes) of the input's height and width, and a label for each class."""
    shapes = [output.shape for output in spec.outputs]
    if spec.image is None or len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][:2] != spec.inputs[0].shape[:2]:
        return f"segmentation takes an image and has one output (height, width, classes) of its size, not {shapes}"
    if len(set(spec.labels)) != shapes[0][2]:
        return f"SPEC.labels has {len(set(spec.labels))} different names, and the output {shapes[0][2]} classes"
    return None


def truth(spec: ModelSpec) -> Truth:
    """See `Task`: a mask with the class of each pixel."""
    return Truth("mask", spec.outputs[0].shape[:2])


def scores(
    outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """See `Task`: the intersection over union in each image, averaged over the classes in its truth or its prediction.

    An image whose outputs are not all finite has 0.
    """
    import numpy as np

    overlaps, sizes = _overlaps(outputs[0], labels)
    unions = sizes - overlaps
    found = np.divide(overlaps, unions, out=np.zeros(overlaps.shape), where=unions > 0)
    mean = found.sum(axis=1) / np.maximum((unions > 0).sum(axis=1), 1)
    return np.where(_finite(outputs[0]), mean, 0.0)


def figures(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
    """See `Task`: the IoU of the pixels of all images together, averaged over the classes, as is usual for benchmarks;
    and the Dice coefficient of each image, averaged over its classes but the first, which is the background."""
    import numpy as np

    overlaps, sizes = _overlaps(outputs[0], labels)
    union = (sizes - overlaps).sum(axis=0)
    miou = (overlaps.sum(axis=0)[union > 0] / union[union > 0]).mean()
    present = sizes[:, 1:] > 0
    dice = np.divide(2 * overlaps[:, 1:], sizes[:, 1:], out=np.zeros(present.shape), where=present)
    counts = present.sum(axis=1)
    each = np.where(counts > 0, dice.sum(axis=1) / np.maximum(counts, 1), 1.0)  # nothing there, and nothing found
    return {"miou": float(miou), "dice": float(each.mean())}


def _overlaps(output: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each image and class (N, classes): the pixels in both masks, and the sum of the pixels in each."""
    import numpy as np

    predicted = output.argmax(axis=-1)
    overlaps, sizes = (np.zeros((len(labels), output.shape[-1])) for _ in range(2))
    for i in range(output.shape[-1]):
        own, other = predicted == i, labels == i
        overlaps[:, i] = (own & other).sum(axis=(1, 2))
        sizes[:, i] = own.sum(axis=(1, 2)) + other.sum(axis=(1, 2))
    return overlaps, sizes


def _finite(output: NDArray[Any]) -> NDArray[np.bool_]:
    import numpy as np

    return np.asarray(np.isfinite(output).all(axis=(1, 2, 3)))
