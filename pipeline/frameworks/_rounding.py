"""The observers of a calibrated pt2e graph as rounding that can be switched off."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization.pt2e.observer import ObserverBase


class Rounding(torch.nn.Module):
    """Rounds as an observer's scale will, while it is on."""

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, observer: Any) -> None:
        super().__init__()
        scale, zero_point = observer.calculate_qparams()
        self.on = True
        self.limits = observer.quant_min, observer.quant_max
        self.axis = observer.ch_axis if "channel" in str(observer.qscheme) else None
        self.register_buffer("scale", scale.detach().float())
        self.register_buffer("zero_point", zero_point.detach().to(torch.int32))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return values
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, *self.limits)
        return torch.fake_quantize_per_channel_affine(values, self.scale, self.zero_point, self.axis, *self.limits)


def simulate(prepared: Any) -> list[Rounding]:
    """Replaces the observers of a prepared graph by what they stand for. Shared observers stay shared."""
    made: dict[int, Rounding] = {}
    for name, module in list(prepared.named_modules(remove_duplicate=False)):
        if isinstance(module, ObserverBase):
            if id(module) not in made:
                made[id(module)] = Rounding(module)
            prepared.set_submodule(name, made[id(module)])
    return list(made.values())


def switch(rounding: list[Rounding], on: bool) -> None:
    """Turns the rounding on, or off: then the graph computes in float."""
    for each in rounding:
        each.on = on
