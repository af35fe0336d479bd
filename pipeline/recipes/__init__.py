"""Quantization recipes: each module in this folder defines one RECIPE, which is data. Targets implement it."""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

from pipeline.core import Recipe

WEIGHTS = ("float32", "float16", "int8")
ACTIVATIONS = ("float32", "float16", "int8", "int8_dynamic")
"""The possible values. A recipe combines them; each target defines which combinations it supports."""


class RecipeModule(Protocol):
    """The interface of a module in this folder."""

    RECIPE: Recipe


def wrong(name: str, module: ModuleType) -> str | None:
    """The reason why a module's recipe is invalid under this name; None if it is valid."""
    recipe = module.RECIPE
    if not isinstance(recipe, Recipe):
        return f"RECIPE is a {type(recipe).__name__}, not a pipeline.core.Recipe"
    if recipe.name != name:
        return f"RECIPE.name is {recipe.name!r}, but must be the plug-in's name"
    if recipe.weights not in WEIGHTS:
        return f"RECIPE.weights {recipe.weights!r} is not one of {', '.join(WEIGHTS)}"
    if recipe.activations not in ACTIVATIONS:
        return f"RECIPE.activations {recipe.activations!r} is not one of {', '.join(ACTIVATIONS)}"
    if recipe.static != (recipe.calibration > 0):
        return f"RECIPE.calibration is {recipe.calibration}: only int8 activations need calibration samples"
    return None
