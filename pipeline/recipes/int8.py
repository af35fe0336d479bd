"""Static int8: weights per output channel, activations with scales fixed by calibration."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int8",
    weights="int8",
    activations="int8",
    calibration=256,
    summary="int8 weights and activations, calibrated; smallest and fastest",
)
