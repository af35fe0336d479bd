"""digits_cnn in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

import keras
from keras import layers

from pipeline.core import ModelSpec


def block(x: keras.KerasTensor, name: str, outputs: int, kernel: int, stride: int = 1) -> keras.KerasTensor:
    """Convolution with symmetric padding, batch normalisation, ReLU; depthwise if `outputs` is 0."""
    # Not padding="same", which pads only right and bottom at stride 2, unlike PyTorch.
    x = layers.ZeroPadding2D(kernel // 2)(x)
    if outputs:
        x = layers.Conv2D(outputs, kernel, stride, use_bias=False, name=f"{name}_0")(x)
    else:
        x = layers.DepthwiseConv2D(kernel, stride, use_bias=False, name=f"{name}_0")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_1")(x)
    return layers.ReLU()(x)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, 8, 8, 1) normalised pixels to (N, classes) logits."""
    image = keras.Input(spec.inputs[0].shape)
    x = block(image, "features_0", 16, 3)
    x = block(x, "features_1", 0, 3, stride=2)
    x = block(x, "features_2", 32, 1)
    x = block(x, "features_3", 48, 3, stride=2)
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return keras.Model(image, layers.Dense(spec.classes, name="classifier")(x))
