"""autoencoder_series in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

from typing import Any

import keras
from keras import layers, ops

from pipeline.core import ModelSpec

HIDDEN, CODE = 32, 8


class Error(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """The mean squared error of each sample, (N, 1). A layer of its own, which stays in float."""

    def call(self, found: Any, expected: Any) -> Any:
        difference = found - expected
        return ops.mean(difference * difference, axis=1, keepdims=True)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, time, channels) standardized readings to (N, 1) anomaly scores."""
    window = keras.Input(spec.inputs[0].shape)
    readings = layers.Flatten()(window)
    x = layers.ReLU()(layers.Dense(HIDDEN, name="encoder_0")(readings))
    x = layers.ReLU()(layers.Dense(CODE, name="encoder_2")(x))
    x = layers.ReLU()(layers.Dense(HIDDEN, name="decoder_0")(x))
    return keras.Model(window, Error(name="error")(layers.Dense(readings.shape[-1], name="decoder_2")(x), readings))
