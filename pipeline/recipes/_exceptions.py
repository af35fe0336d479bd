"""Which operators of a graph a recipe's exceptions are about."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from pipeline.core import Operation, Recipe
from pipeline.errors import BadRecipe
from pipeline.recipes import FIRST, LAST


def matched(recipe: Recipe, operations: Sequence[Operation]) -> list[str | None]:
    """For each operator the dtype of the first exception that matches it; None if none does.

    A pattern is matched against the operator's name, the names of the modules that contain it, and the kind of the
    operator. Only a static recipe has exceptions for operators without weights.
    """
    layers = [place for place, operation in enumerate(operations) if operation.weights]
    ends = {FIRST: layers[:1], LAST: layers[-1:]}
    found: list[str | None] = [None] * len(operations)
    for pattern, dtype in reversed(recipe.exceptions):
        for place, operation in enumerate(operations):
            if not (recipe.static or operation.weights):
                continue
            if place in ends[pattern] if pattern in ends else _matches(pattern, operation):
                found[place] = dtype
    return found


def check(recipe: Recipe, operations: Sequence[Operation], float_modules: Sequence[str] = ()) -> None:
    """
    Args:
        float_modules: the model's, for which an operator without weights suffices in every recipe.

    Raises:
        BadRecipe: a pattern matches nothing; names the nearest layers.
    """
    for pattern, dtype in recipe.exceptions:
        activations = "int8" if pattern in float_modules else recipe.activations
        alone = Recipe(recipe.name, recipe.weights, activations, 0, "", exceptions=((pattern, dtype),))
        if any(matched(alone, operations)):
            continue
        names = list(dict.fromkeys(operation.name for operation in operations if operation.weights))
        near = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
        which = f"the nearest layers are {', '.join(near)}" if near else "the network has no layer with weights"
        raise BadRecipe(f"recipe {recipe.name}: the exception {pattern!r} matches no layer and no operator; {which}")


def _matches(pattern: str, operation: Operation) -> bool:
    parts = operation.name.split(".")
    modules = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(fnmatchcase(name, pattern) for name in (operation.operator, *modules))
