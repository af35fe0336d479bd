"""Each weight is one of the 16 values of its tensor's palette; arithmetic stays float."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="palette4",
    weights="palette4",
    activations="float32",
    calibration=0,
    summary="weights are 4-bit indices into a palette per tensor, float arithmetic; Core ML",
)
