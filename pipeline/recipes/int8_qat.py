"""Static int8 whose network was trained on with simulated quantization."""

from pipeline.core import Recipe

RECIPE = Recipe(
    name="int8_qat",
    weights="int8",
    activations="int8",
    calibration=256,
    summary="int8, trained on with simulated quantization (inv train --recipe int8_qat)",
    bias_correction="off",
    training="qat",
)
