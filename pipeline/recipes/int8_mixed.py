"""Static int8, except for the first and the last layer, which often lose most of the accuracy."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int8_mixed",
    weights="int8",
    activations="int8",
    calibration=256,
    summary="static int8; the first and the last layer stay in float",
    exceptions=(("@first", "float32"), ("@last", "float32")),
)
