"""Each weight is one of the 64 values of its tensor's palette; arithmetic stays float."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="palette6",
    weights="palette6",
    activations="float32",
    calibration=0,
    summary="weights are 6-bit indices into a palette per tensor, float arithmetic; Core ML",
)
