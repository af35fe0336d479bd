"""mobilenet_v3_small in Keras: the twin of torch.py. Layers have their names there, with _ for the dots."""

import keras
from keras import layers

from pipeline.core import ModelSpec

# Table 2 of the paper: kernel, expanded channels, output channels, squeeze-and-excite, activation, stride.
ROWS = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_silu", 2),
    (5, 240, 40, True, "hard_silu", 1),
    (5, 240, 40, True, "hard_silu", 1),
    (5, 120, 48, True, "hard_silu", 1),
    (5, 144, 48, True, "hard_silu", 1),
    (5, 288, 96, True, "hard_silu", 2),
    (5, 576, 96, True, "hard_silu", 1),
    (5, 576, 96, True, "hard_silu", 1),
)


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller (the paper's reference code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def finished(x: keras.KerasTensor, name: str, activation: str = "linear") -> keras.KerasTensor:
    """Batch normalisation and activation after the convolution of a block."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_1")(x)
    return x if activation == "linear" else layers.Activation(activation)(x)


def pointwise(x: keras.KerasTensor, name: str, outputs: int, activation: str = "linear") -> keras.KerasTensor:
    """1×1 convolution, batch normalisation, activation."""
    return finished(layers.Conv2D(outputs, 1, use_bias=False, name=f"{name}_0")(x), name, activation)


def squeeze_excite(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Scales every channel by a gate computed from the means of all."""
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(multiple_of_8(x.shape[-1] / 4), 1, activation="relu", name=f"{name}_gate_0")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, activation="hard_sigmoid", name=f"{name}_gate_2")(gate)
    return layers.Multiply()([x, gate])


def inverted_residual(
    x: keras.KerasTensor, name: str, row: tuple[int, int, int, bool, str, int], width: float
) -> keras.KerasTensor:
    """Expand, depthwise, squeeze-and-excite, project; added to the input where the shapes agree."""
    kernel, expanded, outputs, excite, activation, stride = row
    expanded, outputs = multiple_of_8(expanded * width), multiple_of_8(outputs * width)
    out, place = x, 0
    if expanded != x.shape[-1]:
        out, place = pointwise(out, f"{name}_{place}", expanded, activation), place + 1
    # "same" pads right and bottom only where the stride is 2, which PyTorch does not.
    out = layers.ZeroPadding2D(kernel // 2)(out)
    out = layers.DepthwiseConv2D(kernel, stride, use_bias=False, name=f"{name}_{place}_0")(out)
    out, place = finished(out, f"{name}_{place}", activation), place + 1
    if excite:
        out, place = squeeze_excite(out, f"{name}_{place}_0"), place + 1
    out = pointwise(out, f"{name}_{place}", outputs)
    return layers.Add()([out, x]) if stride == 1 and x.shape[-1] == outputs else out


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, 224, 224, 3) normalised pixels to (N, classes) logits."""
    width = float(spec.options["width"])
    image = keras.Input(spec.inputs[0].shape)
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(multiple_of_8(16 * width), 3, 2, use_bias=False, name="features_0_0")(x)
    x = finished(x, "features_0", "hard_silu")
    for i, row in enumerate(ROWS, 1):
        x = inverted_residual(x, f"features_{i}_body", row, width)
    x = pointwise(x, f"features_{len(ROWS) + 1}", 6 * x.shape[-1], "hard_silu")
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    hidden = multiple_of_8(1024 * width) if width > 1 else 1024
    x = layers.Dense(hidden, activation="hard_silu", name="classifier_0")(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, layers.Dense(spec.classes, name="classifier_3")(x))
