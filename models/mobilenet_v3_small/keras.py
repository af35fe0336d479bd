"""mobilenet_v3_small in Keras: the same network as torch.py. Layers have the names from there, with _ for the dots."""

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
    """The nearest multiple of 8 that is at most a tenth smaller. Source: the paper's reference code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def normalize_activate(x: keras.KerasTensor, name: str, activation: str = "linear") -> keras.KerasTensor:
    """Batch normalisation and activation, after a block's convolution."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_1")(x)
    return x if activation == "linear" else layers.Activation(activation)(x)


def pointwise(x: keras.KerasTensor, name: str, outputs: int, activation: str = "linear") -> keras.KerasTensor:
    """1×1 convolution, batch normalisation, activation."""
    return normalize_activate(layers.Conv2D(outputs, 1, use_bias=False, name=f"{name}_0")(x), name, activation)


def squeeze_excite(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Scales every channel by a gate computed from the means of all channels."""
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(multiple_of_8(x.shape[-1] / 4), 1, activation="relu", name=f"{name}_gate_0")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, activation="hard_sigmoid", name=f"{name}_gate_2")(gate)
    return layers.Multiply()([x, gate])


def inverted_residual(
    x: keras.KerasTensor, name: str, row: tuple[int, int, int, bool, str, int], width: float
) -> keras.KerasTensor:
    """Expand, depthwise, squeeze-and-excite, project; added to the input if the shapes match."""
    kernel, expanded, outputs, excite, activation, stride = row
    expanded, outputs = multiple_of_8(expanded * width), multiple_of_8(outputs * width)
    out, index = x, 0
    if expanded != x.shape[-1]:
        out, index = pointwise(out, f"{name}_{index}", expanded, activation), index + 1
    # Not padding="same", which pads only right and bottom at stride 2, unlike PyTorch.
    out = layers.ZeroPadding2D(kernel // 2)(out)
    out = layers.DepthwiseConv2D(kernel, stride, use_bias=False, name=f"{name}_{index}_0")(out)
    out, index = normalize_activate(out, f"{name}_{index}", activation), index + 1
    if excite:
        out, index = squeeze_excite(out, f"{name}_{index}_0"), index + 1
    out = pointwise(out, f"{name}_{index}", outputs)
    return layers.Add()([out, x]) if stride == 1 and x.shape[-1] == outputs else out


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, 224, 224, 3) normalised pixels to (N, classes) logits."""
    width = float(spec.options["width"])
    image = keras.Input(spec.inputs[0].shape)
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(multiple_of_8(16 * width), 3, 2, use_bias=False, name="features_0_0")(x)
    x = normalize_activate(x, "features_0", "hard_silu")
    for i, row in enumerate(ROWS, 1):
        x = inverted_residual(x, f"features_{i}_body", row, width)
    x = pointwise(x, f"features_{len(ROWS) + 1}", 6 * x.shape[-1], "hard_silu")
    x = layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))
    hidden = multiple_of_8(1024 * width) if width > 1 else 1024
    x = layers.Dense(hidden, activation="hard_silu", name="classifier_0")(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, layers.Dense(spec.classes, name="classifier_3")(x))
