"""The loss of each task in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline import tasks
from pipeline.core import ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def of(spec: ModelSpec, labels: NDArray[Any]) -> Loss:
    """The mean loss of a batch, from outputs and labels.

    Classes have the cross entropy, masks its mean over the pixels. Numbers have the squared error in units of their
    variance, so that a learning rate fits numbers of any size.

    Args:
        labels: of the training split.
    """
    entropy = nn.CrossEntropyLoss(label_smoothing=spec.training.label_smoothing)
    kind, _ = tasks.of(spec).truth(spec)
    if kind == "i":
        return entropy
    if kind == "u":  # outputs (n, height, width, classes)
        return lambda outputs, truth: entropy(outputs.movedim(-1, 1), truth.long())
    variance = torch.from_numpy(labels.reshape(len(labels), -1).var(axis=0).clip(1e-12))

    def loss(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        squares = (outputs.float() - truth).square().flatten(1)
        return (squares / variance.to(squares.device)).mean()

    return loss
