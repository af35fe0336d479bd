"""Quantization recipes: each module in this folder defines one RECIPE, which is data. Targets implement it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Protocol

from pipeline.core import ModelSpec, Recipe

WEIGHTS = ("float32", "float16", "int8", "int4", "palette4", "palette6")
ACTIVATIONS = ("float32", "float16", "int8", "int8_dynamic")
BIAS_CORRECTION = ("auto", "on", "off")
TRAINING = ("ptq", "qat")
"""The possible values. A recipe combines them; each target defines which combinations it supports."""

FIRST, LAST = "@first", "@last"
"""Patterns of exceptions for the first and the last layer of a network, whatever their names are."""

INT16 = (
    "no CPU runtime gains from int16 activations: ExecuTorch and Core ML refuse the graph, LiteRT does not load it, "
    "onnxruntime takes 3 times as long as in int8"
)
"""Why no recipe has int16 activations, as measured."""


class RecipeModule(Protocol):
    """The interface of a module in this folder."""

    RECIPE: Recipe


def special(recipe: Recipe) -> bool:
    """Whether a recipe is for some networks only: the demo omits it, and results list it once it was used."""
    return recipe.training == "qat" or bool(recipe.exceptions) or (recipe.quantized and recipe.weights != "int8")


def of_model(recipe: Recipe, spec: ModelSpec) -> Recipe:
    """A recipe for a model: modules that the model keeps in float are exceptions of every recipe that quantizes."""
    if not recipe.quantized:
        return recipe
    return replace(recipe, exceptions=(*((module, "float32") for module in spec.float_modules), *recipe.exceptions))


def wrong(name: str, module: ModuleType) -> str | None:
    """The reason why a module's recipe is invalid under this name; None if it is valid."""
    recipe = module.RECIPE
    if not isinstance(recipe, Recipe):
        return f"RECIPE is a {type(recipe).__name__}, not a pipeline.core.Recipe"
    if recipe.name != name:
        return f"RECIPE.name is {recipe.name!r}, but must be the plug-in's name"
    reason = problem(recipe)
    return None if reason is None else f"RECIPE.{reason}"


def problem(recipe: Recipe) -> str | None:
    """The reason why a recipe's values are invalid, beginning with the field's name; None if they are valid."""
    return next(_problems(recipe), None)


def _problems(recipe: Recipe) -> Iterator[str]:
    if recipe.activations == "int16":
        yield f"activations 'int16' are not supported: {INT16}"
    fields = {
        "weights": WEIGHTS, "activations": ACTIVATIONS, "bias_correction": BIAS_CORRECTION, "training": TRAINING,
    }  # fmt: skip
    for field, known in fields.items():
        value = getattr(recipe, field)
        if value not in known:
            yield f"{field} {value!r} is not one of {', '.join(known)}"
    for pattern, dtype in recipe.exceptions:
        if dtype not in WEIGHTS:
            yield f"exceptions: {pattern!r} has the dtype {dtype!r}, which is not one of {', '.join(WEIGHTS)}"
        if dtype == recipe.weights:
            yield f"exceptions: {pattern!r} has the dtype {dtype!r}, which is the recipe's own"
    if recipe.block is not None and recipe.block < 1:
        yield f"block {recipe.block} is not a positive number"
    if recipe.static != (recipe.calibration > 0):
        yield f"calibration is {recipe.calibration}: only int8 activations need calibration samples"
    if recipe.bias_correction == "on" and not recipe.static:
        yield "bias_correction 'on' needs int8 activations, whose graph it corrects"
    if recipe.training == "qat" and not recipe.static:
        yield "training 'qat' needs int8 activations: it simulates the quantized graph"
