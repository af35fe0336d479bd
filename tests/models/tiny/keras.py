"""tiny in Keras."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec."""
    image = keras.Input(spec.inputs[0].shape)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="features_0")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="features_1")(x))
    x = layers.DepthwiseConv2D(3, 2, use_bias=False, name="features_3")(layers.ZeroPadding2D(1)(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="features_4")(x))
    x = layers.Flatten()(layers.Permute((3, 1, 2))(x))  # channels first, as PyTorch flattens
    return keras.Model(image, layers.Dense(spec.classes, name="classifier")(x))
