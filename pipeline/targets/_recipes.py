"""The recipes that the converters support. A recipe from another package may combine the same values differently."""

from __future__ import annotations

from pipeline.core import Recipe
from pipeline.recipes import INT16

SUPPORTED = (
    ("float32", "float32"),
    ("float16", "float16"),
    ("int8", "int8"),
    ("int8", "int8_dynamic"),
    ("int8", "float32"),
    ("int4", "int8"),
)
"""(weights, activations)."""


def unsupported(recipe: Recipe) -> str | None:
    """The reason why the converters do not support a recipe; None if they do."""
    if recipe.activations == "int16":
        return INT16
    if (recipe.weights, recipe.activations) not in SUPPORTED:
        return f"its converter does not support {recipe.weights} weights with {recipe.activations} activations"
    if recipe.exceptions and not recipe.static:
        return "layers cannot be left out yet"
    if recipe.block is not None:
        return f"{recipe.weights} weights have one scale per output channel, not one per block"
    return None
