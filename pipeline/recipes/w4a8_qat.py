"""Weights of 4 bits, stored as int8, and int8 activations; the network was trained on with simulated quantization."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="w4a8_qat",
    weights="int4",
    activations="int8",
    calibration=256,
    summary="4-bit weights (depthwise 8), int8 activations, trained on with simulated quantization",
    bias_correction="off",
    training="qat",
)
