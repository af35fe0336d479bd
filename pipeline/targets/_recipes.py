"""Which recipes a converter supports, and which layers a recipe leaves in float."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core import Recipe
from pipeline.recipes import INT16

CONVERTED = (
    ("float32", "float32"),
    ("float16", "float16"),
    ("int8", "int8"),
    ("int8", "int8_dynamic"),
    ("int8", "float32"),
    ("int4", "int8"),
)
"""(weights, activations) that every converter of torch.export programs can express, unless it says otherwise."""

PALETTES = "only Core ML has palettes: no kernel of this runtime reads weights from one"


def unsupported(
    recipe: Recipe, more: Iterable[tuple[str, str]] = (), blocks: Iterable[int | None] = (None,)
) -> str | None:
    """The reason why a converter does not support a recipe; None if it does.

    A recipe of another package or of a file may combine the values differently.

    Args:
        more: (weights, activations) besides CONVERTED.
        blocks: the blocks of packed int4 weights that the converter can express.
    """
    weights, exceptions = recipe.weights, {dtype for _, dtype in recipe.exceptions} - {"float32"}
    if recipe.activations == "int16":
        return INT16
    if weights.startswith("palette") and (weights, recipe.activations) not in (*more,):
        return PALETTES
    if (weights, recipe.activations) not in (*CONVERTED, *more):
        return f"its converter does not support {weights} weights with {recipe.activations} activations"
    if recipe.static and weights == "int4":
        exceptions -= {"int8"}  # all of its weights are stored as int8
    if exceptions or (recipe.exceptions and weights.startswith("float")):
        dtypes = f"have {' or '.join(sorted(exceptions))} weights" if exceptions else "be an exception"
        return f"under {weights} weights a layer cannot {dtypes}: layers of quantized recipes can stay in float32 only"
    packed = weights == "int4" and not recipe.static
    if recipe.block not in (blocks if packed else (None,)):
        known = ", ".join(str(block) for block in blocks if block) if packed else ""
        return f"{weights} weights cannot have blocks of {recipe.block}" + (f": only of {known}" if known else "")
    return None
