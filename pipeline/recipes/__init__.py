"""Quantization recipes: each module here holds one RECIPE, which is data. How it is done is the targets' affair."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

from pipeline.core import Recipe

WEIGHTS = ("float32", "float16", "int8")
ACTIVATIONS = ("float32", "float16", "int8", "int8_dynamic")
"""The values that targets know. A recipe combines them; each target says which combinations it supports."""


class RecipeModule(Protocol):
    """What a module in this folder holds."""

    RECIPE: Recipe


def wrong(name: str, module: ModuleType) -> str | None:
    """Why the recipe of a module cannot be used under this name; None where it can."""
    recipe = module.RECIPE
    if not isinstance(recipe, Recipe):
        return f"RECIPE is a {type(recipe).__name__}, not a pipeline.core.Recipe"
    if recipe.name != name:
        return f"RECIPE.name is {recipe.name!r}, and must be the plug-in's name"
    if recipe.weights not in WEIGHTS:
        return f"RECIPE.weights {recipe.weights!r} is not one of {', '.join(WEIGHTS)}"
    if recipe.activations not in ACTIVATIONS:
        return f"RECIPE.activations {recipe.activations!r} is not one of {', '.join(ACTIVATIONS)}"
    if recipe.static != (recipe.calibration > 0):
        return f"RECIPE.calibration is {recipe.calibration}: int8 activations need samples, others need none"
    return None
