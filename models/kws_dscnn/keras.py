"""kws_dscnn in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

from typing import Any

import keras
from keras import layers, ops

from pipeline.core import ModelSpec

from . import logmel


class LogMel(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """(N, samples) to normalised log-mel features (N, mels, frames, 1)."""

    def call(self, waveform: Any) -> Any:
        fourier = logmel.fourier().T[:, None]
        spectrum = ops.conv(waveform[..., None], fourier, strides=logmel.HOP, padding="valid")
        real, imaginary = ops.split(spectrum, 2, axis=2)
        power = ops.matmul(real * real + imaginary * imaginary, logmel.mel().T)
        features = (ops.log(power + logmel.SMALLEST) - logmel.MEAN) * (1 / logmel.STD)
        return ops.transpose(features, (0, 2, 1))[..., None]


def block(x: keras.KerasTensor, name: str, outputs: int, kernel: int, stride: int = 1) -> keras.KerasTensor:
    """Convolution with symmetric padding, batch normalisation, ReLU; depthwise if `outputs` is 0."""
    x = layers.ZeroPadding2D(kernel // 2)(x)
    if outputs:
        x = layers.Conv2D(outputs, kernel, stride, use_bias=False, name=f"{name}_0")(x)
    else:
        x = layers.DepthwiseConv2D(kernel, stride, use_bias=False, name=f"{name}_0")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_1")(x)
    return layers.ReLU()(x)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, samples) waveforms to (N, classes) logits."""
    waveform = keras.Input(spec.inputs[0].shape)
    x = block(LogMel(name="features")(waveform), "body_0", 32, 5, 2)
    for i, stride in enumerate((1, 2, 1)):
        x = block(x, f"body_{2 * i + 1}", 0, 3, stride)
        x = block(x, f"body_{2 * i + 2}", 32, 1)
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(waveform, layers.Dense(spec.classes, name="classifier")(x))
