"""ssdlite_tiny in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

from typing import Any

import keras
from keras import layers, ops

from pipeline.core import ModelSpec

from . import anchors


def block(
    x: keras.KerasTensor, name: str, outputs: int = 0, kernel: int = 1, stride: int = 1, act: bool = True
) -> keras.KerasTensor:
    """Convolution with symmetric padding, batch normalisation, ReLU6; depthwise if `outputs` is 0."""
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    if outputs:
        x = layers.Conv2D(outputs, kernel, stride, use_bias=False, name=f"{name}_0")(x)
    else:
        x = layers.DepthwiseConv2D(kernel, stride, use_bias=False, name=f"{name}_0")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_1")(x)
    return layers.ReLU(max_value=6)(x) if act else x


def residual(x: keras.KerasTensor, name: str, outputs: int, stride: int) -> keras.KerasTensor:
    """MobileNetV2's block: expand, depthwise, project; added to the input if the shapes match."""
    found = block(x, f"{name}_body_0", 4 * x.shape[-1])
    found = block(found, f"{name}_body_1", kernel=3, stride=stride)
    found = block(found, f"{name}_body_2", outputs, act=False)
    return layers.Add()([x, found]) if stride == 1 and x.shape[-1] == outputs else found


def stage(x: keras.KerasTensor, name: str, outputs: int, count: int) -> keras.KerasTensor:
    """Blocks, of which the first halves height and width."""
    for i in range(count):
        x = residual(x, f"{name}_{i}", outputs, 2 if i == 0 else 1)
    return x


def head(x: keras.KerasTensor, name: str, values: int, bias: float = 0.0) -> keras.KerasTensor:
    """Offsets or scores at each place of a feature map: (N, places * anchors, values)."""
    x = block(x, f"{name}_depthwise", kernel=3)
    x = layers.Conv2D(
        anchors.EACH * values, 1, bias_initializer=keras.initializers.Constant(bias), name=f"{name}_pointwise"
    )(x)
    return layers.Reshape((-1, values))(x)


class Decode(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Offsets (N, anchors, 4) to boxes: top, left, bottom, right as shares of the image."""

    def call(self, offsets: Any) -> Any:
        known = ops.convert_to_tensor(anchors.boxes()[None])
        centre, size = known[..., :2], known[..., 2:]
        centre = offsets[..., :2] * (anchors.CENTRE * size) + centre
        half = ops.exp(offsets[..., 2:] * anchors.SIZE) * (0.5 * size)
        return ops.concatenate([centre - half, centre + half], axis=2)


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network: (N, SIDE, SIDE, 3) normalised pixels to boxes (N, anchors, 4) and scores (N, anchors,
    classes), logits."""
    image = keras.Input(spec.inputs[0].shape)
    quarter = stage(block(image, "stem", 16, 3, 2), "stage_4", 24, 2)
    eighth = stage(quarter, "stage_8", 40, 3)
    sixteenth = stage(eighth, "stage_16", 80, 2)
    maps = (eighth, sixteenth, stage(sixteenth, "stage_32", 112, 2))
    offsets = layers.Concatenate(axis=1)([head(each, f"offsets_{i}", 4) for i, each in enumerate(maps)])
    bias = anchors.scores_bias()
    scores = layers.Concatenate(axis=1)([head(x, f"scores_{i}", spec.classes, bias) for i, x in enumerate(maps)])
    return keras.Model(image, [Decode(name="decode")(offsets), scores])
