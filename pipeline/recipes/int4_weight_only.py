"""Int4 weights in linear layers, which runtimes convert to float; arithmetic stays float."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int4_weight_only",
    weights="int4",
    activations="float32",
    calibration=0,
    summary="int4 weights in linear layers, float arithmetic; for transformers",
    block=32,
)
