"""The model as it was trained: what the others are measured against."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="fp32",
    weights="float32",
    activations="float32",
    calibration=0,
    summary="float weights, float arithmetic",
)
