"""The recipes that the converters support. A recipe from another package may combine the same values differently."""

from __future__ import annotations

from pipeline.core import Recipe

SUPPORTED = (
    ("float32", "float32"),
    ("float16", "float16"),
    ("int8", "int8"),
    ("int8", "int8_dynamic"),
    ("int8", "float32"),
)
"""(weights, activations)."""


def unsupported(recipe: Recipe) -> str | None:
    """The reason why the converters do not support a recipe; None if they do."""
    if (recipe.weights, recipe.activations) in SUPPORTED:
        return None
    return f"its converter does not support {recipe.weights} weights with {recipe.activations} activations"
