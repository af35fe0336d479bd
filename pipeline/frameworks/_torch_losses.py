"""The loss of each task in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from pipeline import tasks
from pipeline.core import ModelSpec
from pipeline.frameworks import _detection_loss as detection
from pipeline.tasks import anomaly_detection

if TYPE_CHECKING:
    from numpy.typing import NDArray

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""From a network's outputs (a tensor, or a tuple of several) and labels."""


def of(spec: ModelSpec, labels: NDArray[Any]) -> Loss:
    """The mean loss of a batch, from outputs and labels.

    Classes have the cross entropy, masks its mean over the pixels. Numbers have the squared error in units of their
    variance, so that a learning rate fits numbers of any size. Anomaly scores have their mean over the normal samples.
    Boxes: see `_detection_loss`.

    Args:
        labels: of the training split.
    """
    entropy = nn.CrossEntropyLoss(label_smoothing=spec.training.label_smoothing)
    kind = tasks.of(spec).truth(spec).kind
    if kind == "class":
        return entropy
    if kind == "mask":  # outputs (n, height, width, classes)
        return lambda outputs, truth: entropy(outputs.movedim(-1, 1), truth.long())
    if kind == "boxes":
        return _of_boxes
    if kind == "anomaly":
        share = anomaly_detection.normal_share(labels)
        return lambda outputs, truth: (outputs.float()[:, 0] * (truth == 0)).mean() / share
    variance = torch.from_numpy(labels.reshape(len(labels), -1).var(axis=0).clip(1e-12))

    def loss(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        squares = (outputs.float() - truth).square().flatten(1)
        return (squares / variance.to(squares.device)).mean()

    return loss


def _of_boxes(outputs: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """See `_detection_loss`.

    Args:
        outputs: boxes (n, anchors, 4) and logits (n, anchors, classes).
        labels: (n, most boxes, 6); see `datasets.Split`.
    """
    boxes, logits = (each.float() for each in outputs)
    with torch.no_grad():
        true, quality = _assigned(boxes, logits.sigmoid(), labels)
    classes = functional.one_hot(true[..., 0].long().clamp(min=0), logits.shape[-1])
    entropy = functional.binary_cross_entropy_with_logits(logits, classes * quality[..., None], reduction="none")
    distance = (1 - _giou(boxes, true[..., 1:5])) * quality
    each = detection.CLASSES * entropy.sum((1, 2)) + detection.BOXES * distance.sum(1)
    return (each / quality.sum(1).clamp(min=1)).mean()


def _assigned(boxes: torch.Tensor, probabilities: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The true box that each anchor shall find, (n, anchors, 6), and how well it does: 0 for the background."""
    n, most, anchors = labels.shape[0], labels.shape[1], boxes.shape[1]
    real = (labels[..., 0] >= 0) & (labels[..., 5] == 0)
    overlaps = _iou(labels[:, :, None, 1:5], boxes[:, None]) * real[..., None]  # (n, most, anchors)
    index = labels[..., 0].long().clamp(min=0)[:, None].expand(n, anchors, most)
    scores = probabilities.gather(2, index).transpose(1, 2)
    fit = scores**detection.ALPHA * overlaps**detection.BETA
    best = fit.topk(min(detection.ANCHORS, anchors), dim=2)
    chosen = torch.zeros_like(fit).scatter(2, best.indices, (best.values > 0).float())
    owner = (overlaps * chosen).argmax(1, keepdim=True)  # an anchor that several boxes want gets the nearest
    chosen = chosen * torch.zeros_like(fit).scatter(1, owner, 1.0)
    fit, overlaps = fit * chosen, overlaps * chosen
    quality = fit / fit.amax(2, keepdim=True).clamp(min=1e-12) * overlaps.amax(2, keepdim=True)
    return labels.gather(1, owner.squeeze(1)[..., None].expand(n, anchors, 6)), quality.amax(1)


def _iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    common, union, _ = _areas(a, b)
    return common / union.clamp(min=1e-9)


def _giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Source: Rezatofighi et al., Generalized Intersection over Union, 2019 (arXiv:1902.09630)."""
    common, union, hull = _areas(a, b)
    return common / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def _areas(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the intersection, the union and the smallest box around both."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    common = sides.clamp(min=0).prod(-1)
    own = [(each[..., 2:] - each[..., :2]).clamp(min=0).prod(-1) for each in (a, b)]
    return common, own[0] + own[1] - common, around.prod(-1)
