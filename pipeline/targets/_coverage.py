"""How much of a quantized file is quantized: counted layer by layer, in the graph it was made from or in the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core import Coverage, FloatLayer

UNKNOWN = "the quantizer has no rule for this operator"
TWO_ACTIVATIONS = "both factors are activations, and the quantizer knows only layers with weights"
TABLE = "a table is read, not multiplied"
COMPUTED = "its weight is computed from the input"
FLOAT_INPUT = "its input is not quantized"


@dataclass(frozen=True)
class Layer:
    """A layer with its cost.

    Attributes:
        weights: number of its weights.
        reason: why it stays in float; None if it is quantized.
        place: how the file's quantizer names it, if not by `name`.
    """

    name: str
    operator: str
    weights: int
    multiply_adds: int
    reason: str | None
    place: str = ""


def total(layers: Iterable[Layer]) -> Coverage:
    """The coverage of a file with these layers."""
    found = list(layers)
    left = sorted((layer for layer in found if layer.reason), key=lambda layer: -layer.multiply_adds)
    weights, multiply_adds = sum(layer.weights for layer in found), sum(layer.multiply_adds for layer in found)
    return Coverage(
        1 - sum(layer.weights for layer in left) / max(weights, 1),
        1 - sum(layer.multiply_adds for layer in left) / max(multiply_adds, 1),
        tuple(FloatLayer(layer.name, layer.operator, layer.multiply_adds, layer.reason or "") for layer in left),
    )
