"""The labels as a file with one line for each, which TFLite metadata and inference servers read."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core import ModelSpec, Port


def lines(labels: Sequence[str]) -> str | None:
    """The content of the file; None if there are no labels, or if one has a line break."""
    if not labels or any(len(label.splitlines()) > 1 for label in labels):
        return None
    return "\n".join(labels) + "\n"


def belong(port: Port, spec: ModelSpec) -> bool:
    """Whether an output has a score for each label, and the labels are in the file."""
    return bool(port.shape) and port.shape[-1] == len(spec.labels) and lines(spec.labels) is not None
