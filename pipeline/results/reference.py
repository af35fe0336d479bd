"""The float model that all cells of one model and framework are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline import formatting, stats, tasks
from pipeline.core import Cell, Checkpoint, command_options
from pipeline.errors import Broken
from pipeline.results import predictions
from pipeline.results.rows import READ_ERRORS, require_same
from pipeline.system import store
from pipeline.system.store import Store
from pipeline.tasks import Task


@dataclass(frozen=True)
class Reference:
    """A checkpoint with the float model's outputs.

    Attributes:
        labels: (N, …) the truth; see `datasets.Split`.
        problem: why there is no checkpoint; None if there is one.
        status: the status of cells that cannot be compared because of the problem.
    """

    checkpoint: Checkpoint | None = None
    outputs: tuple[Any, ...] = ()
    labels: Any = None
    problem: str | None = None
    status: str = "failed"

    def options(self, cell: Cell) -> str:
        """The command-line options that select a cell."""
        which = self.checkpoint.options if self.checkpoint else command_options(cell.model, cell.framework)
        return f"{which} --target {cell.target} --recipe {cell.recipe}"

    def subset(self, samples: int) -> Reference:
        """The same reference over the stratified subset that a measurement of so many samples ran."""
        if not 0 < samples < len(self.labels):
            return self
        chosen = stats.stratified(self.labels, samples)
        return replace(
            self,
            outputs=tuple(output[chosen] for output in self.outputs),
            labels=self.labels[chosen],
        )

    @property
    def task(self) -> Task:
        """The task of the model."""
        assert self.checkpoint is not None  # a reference without one has no outputs either
        return tasks.of(self.checkpoint.spec)

    @property
    def scores(self) -> Any:
        """(N,) the score of each sample; see `Task.scores`."""
        return self.task.scores(self.outputs, self.labels)

    @property
    def top1(self) -> Any:
        """(N,) class indices."""
        return stats.top1(self.outputs[0])


def read(build: Store, model: str, framework: str) -> Reference:
    """The reference of a model, or one that says why there is none."""
    folder = build.checkpoint(model, framework)
    try:
        checkpoint = store.read(Checkpoint, folder / "checkpoint.json")
        if checkpoint is None:
            problem = f"not trained yet: inv train{command_options(model, framework)}"
            return Reference(problem=problem, status="missing")
        require_same("checkpoint", (model, framework), (checkpoint.spec.name, checkpoint.framework))
        outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
        if labels is None or labels.shape[:1] != (checkpoint.samples,) or len(outputs[0]) != checkpoint.samples:
            raise Broken(f"{checkpoint.predictions} lacks outputs or labels for some of {checkpoint.samples} samples")
    except READ_ERRORS as error:
        return Reference(problem=formatting.one_line(f"the float model's checkpoint is broken: {error}"))
    return Reference(checkpoint, outputs, labels)
