"""A training step before training starts: it finds what a network needs, and what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.errors import BadModel, PipelineError, described
from pipeline.frameworks._normalization import joined, real, tensors
from pipeline.frameworks._torch_losses import Loss

if TYPE_CHECKING:
    from pipeline.frameworks import Outputs

Autocast = Callable[[], AbstractContextManager[object]]

TOLERANCE = 1e-2
"""Largest relative difference of a network's outputs in two memory formats; GPUs round products to 10 bits (TF32)."""


@dataclass(frozen=True)
class Trial:
    """What a training step on two images has shown.

    Attributes:
        memory_format: channels_last, which is faster, or contiguous_format where the network's code requires it, such
            as x.view(x.size(0), -1) after a convolution.
        unused: whether a trainable tensor got no gradient.
        more_outputs: whether the network returns more than the main output in training.
        outputs: of the two images, in inference.
        sigmoid: whether a sigmoid is the last operation.
    """

    memory_format: torch.memory_format
    unused: bool
    more_outputs: bool
    outputs: Outputs
    sigmoid: bool


def attempt(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: Loss, autocast: Autocast) -> Trial:
    """Takes a training step in both memory formats, or in one if the samples are no images, and leaves the network's
    weights as they were.

    Args:
        network: a `WithNormalization` on the images' device.
        images: uint8 (n, channels, height, width), or samples of another kind.
        autocast: returns the context of a forward pass.

    Raises:
        BadModel: the network cannot be trained.
    """
    returned: list[object] = []
    hook = network.get_submodule("net").register_forward_hook(lambda _, __, outputs: returned.append(outputs))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        expected, last = _step(network, real(images), labels, torch.contiguous_format, loss, autocast)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        count = "one sample" if len(images) == 1 else f"{len(images)} samples"
        raise BadModel(f"the network fails in training on a batch of {count}: {described(error)}") from error
    unused = any(one.requires_grad and one.grad is None for one in network.parameters())
    chosen = torch.contiguous_format
    network.load_state_dict(before)
    try:
        if images.dim() == 4:
            found, _ = _step(network, real(images), labels, torch.channels_last, loss, autocast)
            if all((a - b).norm() <= TOLERANCE * b.norm() for a, b in zip(found, expected, strict=True)):
                chosen = torch.channels_last
    except (Exception, SystemExit):
        pass  # the same step in the other format has succeeded: this format is what the network does not take
    hook.remove()
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    converted(network, chosen).train()
    more = len(expected) == 1 and not all(isinstance(one, torch.Tensor) for one in returned)
    return Trial(chosen, unused, more, joined([expected]), last == "SigmoidBackward0")


def arranged(images: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    """Images in a memory format.

    contiguous() would keep the strides of images with one channel, which fit both formats; a convolution's output would
    then be in channels_last.
    """
    if memory_format is torch.contiguous_format:
        return images.clone(memory_format=memory_format)
    return images.contiguous(memory_format=memory_format)


def converted(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The network itself, with its tensors in a memory format."""
    same: nn.Module = network.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs
    return same


def _step(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, memory_format: torch.memory_format, loss: Loss,
    autocast: Autocast,
) -> tuple[tuple[torch.Tensor, ...], str]:  # fmt: skip
    """One training step without the optimizer; returns the outputs of inference before it, and the last operation of
    the first output."""
    images = arranged(images, memory_format)
    converted(network, memory_format).eval()
    with torch.no_grad():
        outputs = tuple(each.float() for each in tensors(network(images)))
    network.train()
    network.zero_grad(set_to_none=True)
    with autocast():
        trained = network(images)
        shapes = [", ".join(str(tuple(tensor.shape)) for tensor in each) for each in (tensors(trained), outputs)]
        if shapes[0] != shapes[1]:
            raise BadModel(f"the network returns {shapes[0]} in training and {shapes[1]} in inference")
        value = loss(trained, labels)
    value.backward()  # type: ignore[no-untyped-call]
    first = tensors(trained)[0].grad_fn
    return outputs, first.name() if first is not None else ""
