"""Int8 weights that runtimes convert to float; arithmetic stays float."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int8_weight_only",
    weights="int8",
    activations="float32",
    calibration=0,
    summary="int8 weights, float arithmetic; a quarter of the size",
)
