"""The recipes that our converters can do. A recipe of another package may combine the same values in other ways."""

from __future__ import annotations

from pipeline.core import Recipe

SUPPORTED = (
    ("float32", "float32"),
    ("float16", "float16"),
    ("int8", "int8"),
    ("int8", "int8_dynamic"),
    ("int8", "float32"),
)
"""Pairs of weights and activations."""


def unsupported(recipe: Recipe) -> str | None:
    """Why no converter here can do a recipe; None where one can."""
    if (recipe.weights, recipe.activations) in SUPPORTED:
        return None
    return f"its converter has no {recipe.weights} weights with {recipe.activations} activations"
