"""The model as trained: the baseline for the other recipes."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="fp32",
    weights="float32",
    activations="float32",
    calibration=0,
    summary="float weights, float arithmetic",
)
