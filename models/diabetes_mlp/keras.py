"""diabetes_mlp in Keras: the same network as torch.py. Layers have the names from there."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, 10) standardized measurements to (N, 1)."""
    measurements = keras.Input(spec.inputs[0].shape)
    hidden = layers.Dense(32, activation="relu", name="hidden_1")(measurements)
    hidden = layers.Dense(16, activation="relu", name="hidden_2")(hidden)
    start = keras.initializers.Constant(150.0)  # training starts near the mean
    progression = layers.Dense(spec.classes, bias_initializer=start, name="progression")(hidden)
    return keras.Model(measurements, progression)
