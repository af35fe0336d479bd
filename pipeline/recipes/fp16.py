"""Half-precision weights: half the size, and half-precision arithmetic on runtimes that support it."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="fp16",
    weights="float16",
    activations="float16",
    calibration=0,
    summary="half-precision weights; half the size",
)
