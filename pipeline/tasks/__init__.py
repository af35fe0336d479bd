"""Tasks: what a model is for: what its outputs mean, and how good they are.

A task is a module in this folder with the functions of `Task`. NumPy only: devices return outputs and know no task, so
one definition of a metric serves the framework, the host and every device. Losses live in the frameworks.

A metric is the mean of a score for each sample, where 1 is the best. So two models are compared sample by sample, and
a drop is a number of points (hundredths) in every task. A metric that pools all samples, such as the mean average
precision, has scores too: `stats.jackknife`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline import registry
from pipeline.core import ModelSpec
from pipeline.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECOND = {
    "macro_f1": "macro F1, %",
    "mae": "mean absolute error",
    "miou": "IoU of all pixels, %",
    "dice": "Dice, %",
    "map50": "mAP@.5, %",
    "pauc": "pAUC, %",
}
"""Further metrics as columns of a table; see `Task.figures`."""


@dataclass(frozen=True)
class Truth:
    """The truth of a sample; see `datasets.Split.labels`.

    Attributes:
        kind: "class", "anomaly" (0 or 1 for an anomaly), "numbers", "mask" or "boxes".
        shape: None for an axis of any size.
    """

    kind: str
    shape: tuple[int | None, ...]


class Task(Protocol):
    """The interface of a module in this folder.

    Attributes:
        METRIC: name of the metric in manifests, such as "top1".
        TITLE: its name in tables, such as "top-1".
        NAME: its name in a sentence, such as "accuracy".
        CLASSES: whether a sample's truth is one of the model's labels, and the output one number for each label.
        POOLED: whether a sample's score depends on all samples, so that `scores` needs all of them at once.
        SUMMARY: one line for listings.
    """

    METRIC: str
    TITLE: str
    NAME: str
    CLASSES: bool
    POOLED: bool
    SUMMARY: str

    def check(self, spec: ModelSpec) -> str | None:
        """What is wrong with a spec for this task; None if nothing is. Its input has been checked."""

    def truth(self, spec: ModelSpec) -> Truth:
        """What a sample's truth is."""

    def scores(
        self, outputs: Sequence[NDArray[Any]], labels: NDArray[Any], population: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """The score of each sample, (N,): the metric is their mean.

        Args:
            outputs: the model's, each (N, …).
            labels: the truth of the same samples; see `datasets.Split`.
            population: the labels of all samples that the metric is computed over, if these are a part of them. Not
                for a metric that pools all samples.
        """

    def figures(self, outputs: Sequence[NDArray[Any]], labels: NDArray[Any]) -> Mapping[str, float]:
        """Further metrics over all of these samples, by names of SECOND."""


def of(spec: ModelSpec) -> Task:
    """The task of a model.

    Raises:
        UnknownName: there is no such task.
    """
    return cast(Task, registry.load("tasks", spec.task))


def scores(task: Task, batches: Iterable[Sequence[NDArray[Any]]], labels: NDArray[Any]) -> NDArray[np.float64]:
    """The score of each sample of a split, (N,), from the outputs of its batches in order.

    One batch is in memory, or all of them for a metric that pools all samples.
    """
    import numpy as np

    if task.POOLED:
        return task.scores([np.concatenate(each) for each in zip(*batches, strict=True)], labels)
    found, start = [], 0
    for outputs in batches:
        end = start + len(outputs[0])
        found.append(task.scores(outputs, labels[start:end], labels))
        start = end
    return np.concatenate(found)


def require_image_classes(spec: ModelSpec, command: str) -> None:
    """
    Raises:
        Unsupported: the model does not classify images, the only task of this command so far, or it takes them in a
            letterbox, which the apps' libraries do not have.
    """
    if spec.image and spec.image.fit != "crop":
        raise Unsupported(f"{command} takes models whose images are cropped, and {spec.name} has a {spec.image.fit}")
    if spec.task != "image_classification":
        raise Unsupported(f"{command} takes image classifiers, and {spec.name} is for {spec.task}")


def titles(metrics: Iterable[str | None]) -> str:
    """The names of metrics in a table's head: "top-1", or "top-1 / R²" if models of several tasks share the table."""
    modules = registry.load_all("tasks")[0].values()
    wanted = set(metrics)
    return " / ".join(dict.fromkeys(task.TITLE for task in modules if task.METRIC in wanted)) or "metric"


def name(metric: str | None) -> str:
    """A metric in a sentence."""
    modules = registry.load_all("tasks")[0].values()
    return next((task.NAME for task in modules if metric == task.METRIC), "metric")


def agreement(spec: ModelSpec, value: float | None) -> str:
    """Text on a share of samples with the same top-1, to follow other text; "" for a task without classes."""
    return "" if value is None else f", {of(spec).TITLE} agreement {value:.1%}"
