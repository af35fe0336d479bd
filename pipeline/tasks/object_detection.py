"""Object detection: boxes with a class in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.core import ModelSpec
from pipeline.tasks import Truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METRIC, TITLE, NAME = "map", "mAP", "mAP"
CLASSES = False
POOLED = True
SUMMARY = "boxes with a class in images"

OUTPUTS = ("boxes", "scores")
LEAST_SCORE, OVERLAP, CANDIDATES, MOST = 0.01, 0.6, 400, 100
"""Of a detection: the smallest score, the largest IoU with a better box of its class, and how many boxes of an image
are candidates and are kept."""

THRESHOLDS, RECALLS = 10, 101
"""IoU of 0.5 to 0.95, recall of 0 to 1. Source: pycocotools.cocoeval.Params."""


def check(spec: ModelSpec) -> str | None:
    """See `Task`: outputs "boxes" (anchors, 4) and "scores" (anchors, classes), and a label for each class."""
    found = [(output.name, output.shape) for output in spec.outputs]
    boxes, scores = (dict(found).get(name, ()) for name in OUTPUTS)
    fits = tuple(name for name, _ in found) == OUTPUTS and len(boxes) == 2 == len(scores)
    if spec.image is None or not fits or boxes[1] != 4 or boxes[0] != scores[0]:
        return f"detection takes an image and has outputs boxes (anchors, 4) and scores (anchors, classes), not {found}"
    if not len(spec.labels) == len(set(spec.labels)) == scores[1]:
        return f"SPEC.labels has {len(set(spec.labels))} different names, and the scores {scores[1]} classes"
    return None


def truth(spec: ModelSpec) -> Truth:
    """See `Task`: the boxes of an image."""
    return Truth("boxes", (None, 6))


def scores(
    outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """See `Task`: each image's part of the mean average precision over IoU thresholds from 0.5 to 0.95 and the classes,
    as pycocotools defines it; see `stats.jackknife`. An image whose outputs are not finite has no detections."""
    import numpy as np

    classes = _matched(outputs, labels)
    whole = _mean(classes, range(THRESHOLDS))
    concerned: list[list[_Class]] = [[] for _ in labels]
    for one in classes:
        for image in one.images:
            concerned[image].append(one)
    found = np.array([one.precision() for one in classes]).reshape(len(classes), THRESHOLDS)
    sizes = np.array([one.positives for one in classes])
    without = []
    for image, own in enumerate(concerned):
        changed, counts = found.copy(), sizes.copy()
        for one in own:
            rest = one.without(image)
            changed[one.label], counts[one.label] = rest.precision(), rest.positives
        without.append(changed[counts > 0].mean() if (counts > 0).any() else 0.0)
    return stats.jackknife(whole, np.array(without))


def figures(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
    """See `Task`: the mean average precision at an IoU of 0.5."""
    return {"map50": _mean(_matched(outputs, labels), range(1))}


def detections(boxes: NDArray[Any], logits: NDArray[Any]) -> NDArray[np.float64]:
    """What a model has detected in one image, (detections, 6), best first: class, score, top, left, bottom, right.

    The score is the sigmoid of the class's output. Of boxes of one class that overlap by more than OVERLAP, the best is
    kept (non-maximum suppression).

    Args:
        boxes: (anchors, 4) top, left, bottom and right as shares of the image's height and width.
        logits: (anchors, classes).
    """
    import numpy as np

    if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
        return np.zeros((0, 6))
    probabilities = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    anchors, classes = np.nonzero(probabilities >= LEAST_SCORE)
    order = np.argsort(-probabilities[anchors, classes], kind="stable")[:CANDIDATES]
    anchors, classes = anchors[order], classes[order]
    chosen = np.asarray(boxes[anchors], np.float64)
    rivals = (overlap(chosen, chosen) > OVERLAP) & (classes[:, None] == classes)
    kept = np.ones(len(chosen), bool)
    for place in range(len(chosen)):
        if kept[place]:
            kept[place + 1 :] &= ~rivals[place, place + 1 :]
    rows = np.column_stack([classes, probabilities[anchors, classes], chosen])
    return np.asarray(rows[kept][:MOST])


def overlap(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The intersection over union of each two boxes, (len(boxes), len(others))."""
    import numpy as np

    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1] - common
    return np.asarray(np.divide(common, union, out=np.zeros(common.shape), where=union > 0))


@dataclass(frozen=True)
class _Class:
    """The detections of one class in all images, best first.

    Attributes:
        positives: number of true boxes that count.
        image: (D,) each detection's image.
        hit, counts: (THRESHOLDS, D) whether it has found a true box, and whether it counts.
        of_image: each image's number of true boxes that count.
    """

    label: int
    positives: int
    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    of_image: NDArray[np.int64]

    @property
    def images(self) -> list[int]:
        """The images that the precision depends on."""
        import numpy as np

        return [int(i) for i in np.union1d(self.image, np.flatnonzero(self.of_image))]

    def without(self, image: int) -> _Class:
        """The same without an image."""
        kept = self.image != image
        positives = self.positives - int(self.of_image[image])
        return _Class(self.label, positives, self.image[kept], self.hit[:, kept], self.counts[:, kept], self.of_image)

    def precision(self) -> NDArray[np.float64]:
        """The average precision at each threshold; 0 without true boxes. Source: pycocotools, COCOeval.accumulate."""
        import numpy as np

        found = np.zeros(THRESHOLDS)
        if not self.positives or not self.image.size:
            return found
        right = (self.hit & self.counts).cumsum(axis=1, dtype=np.float64)
        wrong = (~self.hit & self.counts).cumsum(axis=1, dtype=np.float64)
        precision = right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for place in range(THRESHOLDS):
            reached = np.searchsorted(right[place] / self.positives, np.linspace(0, 1, RECALLS), side="left")
            found[place] = precision[place][reached[reached < precision.shape[1]]].sum() / RECALLS
        return found


def _mean(classes: Sequence[_Class], thresholds: range) -> float:
    """The mean of the classes that occur in the truth."""
    import numpy as np

    found = [one.precision()[thresholds.start : thresholds.stop] for one in classes if one.positives]
    return float(np.mean(found)) if found else 0.0


def _matched(outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> list[_Class]:
    """The detections in all images, matched with the true boxes."""
    import numpy as np

    boxes, logits = outputs
    detected = [detections(*one) for one in zip(boxes, logits, strict=True)]
    found = []
    for label in range(logits.shape[2]):
        parts, positives = [], np.zeros(len(labels), np.int64)
        for place, (rows, truth) in enumerate(zip(detected, labels, strict=True)):
            own, true = rows[rows[:, 0] == label], truth[truth[:, 0] == label]
            true = true[np.argsort(true[:, 5], kind="stable")]  # those that count first
            positives[place] = int((true[:, 5] == 0).sum())
            parts.append((own[:, 1], np.full(len(own), place), *_match(own[:, 2:], true[:, 1:5], true[:, 5] > 0)))
        scores, image, hit, counts = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        found.append(_Class(label, int(positives.sum()), image[order], hit[:, order], counts[:, order], positives))
    return found


def _match(
    boxes: NDArray[np.float64], true: NDArray[Any], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each box, best first, has found a true box, and whether it counts: (THRESHOLDS, len(boxes)) each.

    A box takes the free true box that it overlaps most, one that counts if it can. As COCOeval.evaluateImg.
    """
    import numpy as np

    hit, counts = np.zeros((THRESHOLDS, len(boxes)), bool), np.ones((THRESHOLDS, len(boxes)), bool)
    overlaps = overlap(boxes, np.asarray(true, np.float64))
    for place, threshold in enumerate(np.linspace(0.5, 0.95, THRESHOLDS)):
        free = np.ones(len(true), bool)
        for box, own in enumerate(overlaps):
            for among in (free & ~ignored, free & ignored):
                fits = among & (own >= min(threshold, 1 - 1e-10))
                if fits.any():
                    best = int(len(own) - 1 - np.where(fits, own, -1)[::-1].argmax())  # the last of equal ones
                    free[best], hit[place, box], counts[place, box] = False, True, not ignored[best]
                    break
    return hit, counts
