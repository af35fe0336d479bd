"""Tasks: what a model is for: what its outputs mean, and how good they are.

A task is a module in this folder with the functions of `Task`. NumPy only: devices return outputs and know no task, so
one definition of a metric serves the framework, the host and every device. Losses live in the frameworks.

A metric is the mean of a score for each sample, where 1 is the best. So two models are compared sample by sample, and
a drop is a number of points (hundredths) in every task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
}
"""Further metrics as columns of a table; see `Task.figures`."""


class Task(Protocol):
    """The interface of a module in this folder.

    Attributes:
        METRIC: name of the metric in manifests, such as "top1".
        TITLE: its name in tables, such as "top-1".
        NAME: its name in a sentence, such as "accuracy".
        CLASSES: whether a sample's truth is one of the model's labels, and the output one number for each label.
        SUMMARY: one line for listings.
    """

    METRIC: str
    TITLE: str
    NAME: str
    CLASSES: bool
    SUMMARY: str

    def check(self, spec: ModelSpec) -> str | None:
        """What is wrong with a spec for this task; None if nothing is. Its input has been checked."""

    def truth(self, spec: ModelSpec) -> tuple[str, tuple[int, ...]]:
        """The kind (NumPy's: "i" of classes, "f" of numbers, "u" of a mask) and the shape of a sample's truth."""

    def scores(
        self, output: NDArray[Any], labels: NDArray[Any], population: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """The score of each sample, (N,): the metric is their mean.

        Args:
            output: (N, …) the model's first output.
            labels: the truth of the same samples; see `datasets.Split`.
            population: the labels of all samples that the metric is computed over, if these are a part of them.
        """

    def figures(self, output: NDArray[Any], labels: NDArray[Any]) -> Mapping[str, float]:
        """Further metrics over all of these samples, by names of SECOND."""


def of(spec: ModelSpec) -> Task:
    """The task of a model.

    Raises:
        UnknownName: there is no such task.
    """
    return cast(Task, registry.load("tasks", spec.task))


def require_image_classes(spec: ModelSpec, command: str) -> None:
    """
    Raises:
        Unsupported: the model does not classify images, the only task of this command so far.
    """
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
