"""har_cnn in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def block(x: keras.KerasTensor, name: str, outputs: int, kernel: int, stride: int) -> keras.KerasTensor:
    """Convolution with symmetric padding, batch normalisation, ReLU."""
    x = layers.ZeroPadding1D(kernel // 2)(x)
    x = layers.Conv1D(outputs, kernel, stride, use_bias=False, name=f"{name}_0")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_1")(x)
    return layers.ReLU()(x)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, time, channels) standardized readings to (N, classes) logits."""
    readings = keras.Input(spec.inputs[0].shape)
    x = block(readings, "features_0", 32, 5, 1)
    x = block(x, "features_1", 48, 3, 2)
    x = block(x, "features_2", 64, 3, 2)
    return keras.Model(readings, layers.Dense(spec.classes, name="classifier")(layers.GlobalAveragePooling1D()(x)))
