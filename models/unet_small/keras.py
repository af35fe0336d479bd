"""unet_small in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def block(x: keras.KerasTensor, name: str, outputs: int, stride: int = 1) -> keras.KerasTensor:
    """Convolution with symmetric padding, batch normalisation, ReLU."""
    x = layers.Conv2D(outputs, 3, stride, use_bias=False, name=f"{name}_0")(layers.ZeroPadding2D(1)(x))
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_1")(x)
    return layers.ReLU()(x)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: normalised pixels to (N, height, width, classes) logits."""
    image = keras.Input(spec.inputs[0].shape)
    whole = block(block(image, "down_0_0", 16), "down_0_1", 16)
    half = block(block(whole, "down_1_0", 32, 2), "down_1_1", 32)
    quarter = block(block(half, "down_2_0", 48, 2), "down_2_1", 48)
    x = layers.Concatenate()([layers.UpSampling2D(2)(quarter), half])
    x = block(block(x, "up_1_0", 32), "up_1_1", 32)
    x = layers.Concatenate()([layers.UpSampling2D(2)(x), whole])
    x = block(block(x, "up_0_0", 16), "up_0_1", 16)
    return keras.Model(image, layers.Conv2D(spec.classes, 1, name="classifier")(x))
