"""Quantization recipes: each module here holds one RECIPE, which is data. How it is done is the targets' affair."""

from __future__ import annotations

from typing import Protocol

from pipeline.core import Recipe


class RecipeModule(Protocol):
    """What a module in this folder holds."""

    RECIPE: Recipe
