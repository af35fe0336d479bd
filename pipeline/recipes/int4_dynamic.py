"""Int4 weights in linear layers; their activations are quantized to int8 at run time."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int4_dynamic",
    weights="int4",
    activations="int8_dynamic",
    calibration=0,
    summary="int4 weights in linear layers, activations quantized at run time; for transformers",
    block=32,
)
