"""Fixes the constants of a static int8 graph so that every runtime computes with the same integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torchao.quantization.pt2e.observer import MinMaxObserver

from pipeline.frameworks import _quantizer

FEWEST_INPUTS = 4
"""Weights with fewer input channels per group keep 8 bits under int4: those of depthwise layers, which are few and lose
most, and of layers that see the image's channels."""


def narrow_weights(prepared: Any, keeps_8_bits: Callable[[Any], bool]) -> None:
    """Gives the weight observers of a prepared int4 graph 15 values, -7 to 7. They are stored as int8: no runtime of a
    phone computes convolutions on packed 4-bit weights."""
    for node in prepared.graph.nodes:
        if node.op == "call_module" and node.args[0].op == "get_attr" and not any(map(keeps_8_bits, node.users)):
            weight = _attribute(prepared, node.args[0])
            if weight.dim() > 1 and weight.shape[1] >= FEWEST_INPUTS:
                found = prepared.get_submodule(str(node.target))
                found.quant_min, found.quant_max = -7, 7


def pin_input_ranges(prepared: Any, value_range: tuple[float, float]) -> None:
    """Sets the scales of the input and the normalised input by their known ranges instead of the calibration set.

    Pixels 0–255 then become int8 without rounding (scale 1, zero point -128). The range of the normalised input is
    widened by 1/256. Without that, a mean of 127.5 puts every pixel halfway between two int8 values: rounding half to
    even would leave half of the values, and runtimes round ties differently.
    """
    placeholder = next(node for node in prepared.graph.nodes if node.op == "placeholder")
    for observed in _pin(prepared, placeholder, torch.tensor(value_range)):
        for layer in observed.users:
            if layer.op == "call_function" and "normalize.bias" in [str(getattr(a, "target", "")) for a in layer.args]:
                weight = prepared.get_parameter("normalize.weight").flatten()[:, None]
                normalised = weight * torch.tensor(value_range) + prepared.get_parameter("normalize.bias")[:, None]
                _pin(prepared, layer, normalised.detach() * (1 + 1 / 256))


def _pin(prepared: Any, node: Any, values: torch.Tensor) -> list[Any]:
    """Fixes the range of a node's observers to that of `values`, and returns the observers' nodes.

    Replaces the observer, because the quantizer's own computes its scale from a histogram and may clip the range.
    """
    observers = [user for user in node.users if user.op == "call_module" and "activation_post" in str(user.target)]
    for user in observers:
        found = prepared.get_submodule(str(user.target))
        pinned = MinMaxObserver(found.dtype, found.qscheme, quant_min=found.quant_min, quant_max=found.quant_max)
        pinned(values)
        prepared.set_submodule(str(user.target), pinned)
    return observers


def round_constants(converted: Any) -> None:
    """Rounds weights and biases to the integers that runtimes store, so that converters have nothing left to round.

    Otherwise a weight halfway between two integers, or a bias (stored as round(bias / (input scale * weight scale)) in
    32 bits), could differ by one between targets, and with it the sums.
    """
    ops, quantized = torch.ops.aten, torch.ops.quantized_decomposed
    for node in converted.graph.nodes:
        if node.target is quantized.quantize_per_channel.default:  # only the unfolded graph has float weights
            weight = _attribute(converted, node.args[0])
            params = [_attribute(converted, a) if isinstance(a, torch.fx.Node) else a for a in node.args[1:]]
            stored = quantized.quantize_per_channel.default(weight.detach(), *params)
            weight.data = quantized.dequantize_per_channel.default(stored, *params)
        layers = (ops.conv1d.default, ops.conv2d.default, ops.linear.default)
        if node.target in layers and len(node.args) > 2 and node.args[2] is not None:
            image, weight, bias = node.args[:3]
            if "dequantize_per_tensor" in str(image.target) and "dequantize_per_channel" in str(weight.target):
                scale = image.args[1] * _attribute(converted, weight.args[1]).double()
                values = _attribute(converted, bias)
                values.data = ((values.double() / scale).round() * scale).float()


def drop_clamps(converted: Any) -> None:
    """Removes clamps that the scale of their result makes needless: quantizing to [0, 3] clamps to [0, 3].

    TFLite's layers take only ReLU, ReLU6 and [-1, 1] in; with other limits, the layer before them would be in float.
    """
    known = {(0.0, math.inf), (0.0, 6.0), (-1.0, 1.0)}
    for node in list(converted.graph.nodes):
        limits = _quantizer.limits(node)
        if limits is None or limits in known or "dequantize" in str(node.args[0].target):
            continue
        low, high = limits
        if all(_within(user, low, high) for user in node.users):
            node.replace_all_uses_with(node.args[0])
            converted.graph.erase_node(node)
    converted.recompile()


def _within(node: Any, low: float, high: float) -> bool:
    """Whether a node quantizes to values between two limits, but for the rounding of the zero point."""
    if node.target is not torch.ops.quantized_decomposed.quantize_per_tensor.default:
        return False
    _, scale, zero_point, least, most, _ = node.args
    return bool(low - scale <= (least - zero_point) * scale and (most - zero_point) * scale <= high + scale)


def _attribute(module: Any, node: Any) -> torch.Tensor:
    """The tensor behind a get_attr node."""
    path, _, name = str(node.target).rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(path), name)
    return tensor
