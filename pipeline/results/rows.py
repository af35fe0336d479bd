"""A row of the results: a cell together with the manifests it was read from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import formatting, tasks
from pipeline.core import Artifact, Cell, Checkpoint, Measurement
from pipeline.errors import Broken, PipelineError
from pipeline.results import predictions

READ_ERRORS = (PipelineError, OSError, ValueError)
"""What reading a broken build folder raises. Each becomes the reason of a failed cell."""


@dataclass(frozen=True)
class Row:
    """A cell and those of its manifests that exist and are valid.

    Attributes:
        home: the measurement's folder.
        classes: for each class its number of samples, the drop in points and its interval (see stats.class_drops).
    """

    cell: Cell
    checkpoint: Checkpoint | None = None
    artifact: Artifact | None = None
    measurement: Measurement | None = None
    home: Path | None = None
    classes: tuple[tuple[int, float | None, tuple[float, float] | None], ...] = ()


def outputs(row: Row) -> tuple[Any, ...]:
    """The outputs of every sample, one array per output, of a row with a `home`.

    Raises:
        Broken: the predictions file does not match its manifest.
    """
    assert row.home is not None and row.measurement is not None
    accuracy = row.measurement.accuracy
    return predictions.read(row.home, accuracy.predictions, accuracy.predictions_sha256)[0]


def has_classes(row: Row) -> bool:
    """Whether the model's task has classes; see `Task`."""
    return row.checkpoint is not None and tasks.of(row.checkpoint.spec).CLASSES


def failed(cell: Cell, reason: object) -> Cell:
    """The cell, marked as failed for this reason."""
    return replace(cell, status="failed", reason=formatting.one_line(str(reason)))


def require_same(what: str, folder: tuple[Any, ...], manifest: tuple[Any, ...]) -> None:
    """
    Raises:
        Broken: a manifest names another cell than the folder that holds it.
    """
    if folder != manifest:
        raise Broken(f"the {what} in the folder of {'/'.join(map(str, folder))} is of {'/'.join(map(str, manifest))}")
