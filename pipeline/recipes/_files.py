"""A model's own recipe, from a file: TOML with the fields of `Recipe`, or a recipe of ai-edge-quantizer in JSON."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pipeline import recipes, registry
from pipeline.core import Recipe
from pipeline.errors import BadRecipe
from pipeline.recipes import _ai_edge

SUFFIXES = (".toml", ".json")
TAKEN = ("all", "checkpoint", "graphs", "training", "tensorboard")
"""Names that a recipe cannot have: the option `all`, and folders beside those of recipes."""
CALIBRATION = 256
"""Calibration samples of a static recipe whose file gives no number."""
TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,), "weights": (str,), "activations": (str,), "calibration": (int,), "summary": (str,),
    "block": (int,), "exceptions": (dict, list), "bias_correction": (str, bool), "training": (str,),
}  # fmt: skip
REQUIRED = ("name", "weights", "activations")


def read(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        BadRecipe: the file cannot be read, or its recipe is invalid or cannot be expressed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadRecipe(f"{path}: {error.strerror}") from error
    except ValueError as error:  # of UTF-8, JSON and TOML
        raise BadRecipe(f"{path}: not a {path.suffix[1:].upper()} file: {error}") from error
    try:
        fields = _ai_edge.fields(path.stem, value) if path.suffix == ".json" else value
        recipe = _recipe(fields)
    except BadRecipe as error:
        raise BadRecipe(f"{path}: {error}") from error
    return recipe


def _recipe(fields: dict[str, Any]) -> Recipe:
    missing = [name for name in REQUIRED if name not in fields]
    if unknown := [name for name in fields if name not in TYPES]:
        raise BadRecipe(f"unknown key {unknown[0]!r} (known: {', '.join(TYPES)})")
    if missing:
        raise BadRecipe(f"lacks {', '.join(missing)}")
    for name, value in fields.items():
        kinds = TYPES[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise BadRecipe(f"{name} must be {' or '.join(_KINDS[kind] for kind in kinds)}, not {value!r}")
    name, correction = fields["name"], fields.get("bias_correction", "auto")
    if not re.fullmatch(r"[A-Za-z0-9]\w*", name, re.ASCII) or name in TAKEN:
        raise BadRecipe(f"name {name!r} cannot be the name of a recipe: use letters, digits and _")
    if name in registry.names("recipes"):
        raise BadRecipe(f"name {name!r} is the name of a recipe in `inv recipes`: choose another one")
    static = fields["activations"] == "int8"
    recipe = Recipe(
        name=name,
        weights=fields["weights"],
        activations=fields["activations"],
        calibration=fields.get("calibration", CALIBRATION if static else 0),
        summary=fields.get("summary", f"{fields['weights']} weights, {fields['activations']} activations"),
        block=fields.get("block"),
        exceptions=_exceptions(fields.get("exceptions", {})),
        bias_correction={True: "on", False: "off"}[correction] if isinstance(correction, bool) else correction,
        training=fields.get("training", "ptq"),
    )
    if "\n" in recipe.summary or not recipe.summary:
        raise BadRecipe("summary must be one line")
    if reason := recipes.problem(recipe):
        raise BadRecipe(reason)
    return recipe


_KINDS = {str: "text", int: "a whole number", dict: "a table", list: "a list of pairs", bool: "true or false"}


def _exceptions(value: Any) -> tuple[tuple[str, str], ...]:
    """From a table (pattern = dtype) or a list of [pattern, dtype]; the first one that matches a layer counts."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    for pair in pairs:
        valid = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(each, str) for each in pair)
        if not valid or not all(pair):
            raise BadRecipe(f"exceptions must be pairs of a pattern and a dtype, not {pair!r}")
        if pair[0].startswith("@") and pair[0] not in (recipes.FIRST, recipes.LAST):
            raise BadRecipe(f"exceptions: {pair[0]!r} is not {recipes.FIRST} or {recipes.LAST}")
        if pair[0].count("[") != pair[0].count("]"):
            raise BadRecipe(f"exceptions: the pattern {pair[0]!r} has a [ without a ]")
    return tuple((pattern, dtype) for pattern, dtype in pairs)
