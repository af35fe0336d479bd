"""Int8 weights; activations are quantized at run time, each by its current range."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int8_dynamic",
    weights="int8",
    activations="int8_dynamic",
    calibration=0,
    summary="int8 weights, activations quantized at run time; no calibration",
)
