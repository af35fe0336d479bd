"""A Keras model with its channels first, as PyTorch's kernels take pictures: the same layers with the same weights."""

from __future__ import annotations

from typing import Any

import keras

POINTWISE = frozenset({
    "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianDropout", "GaussianNoise", "Rescaling", "Identity",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Relu", "Relu6", "Silu", "HardSilu", "HardSigmoid",
    "Sigmoid", "Tanh", "Gelu",
})  # fmt: skip
"""Layers and operations to which it is all one where the channels lie."""

BY_AXIS = frozenset({"BatchNormalization", "Concatenate"})
"""Layers that say by an axis where the channels lie."""


def channels_first(model: keras.Model) -> keras.Model:
    """`model` (N, height, width, channels) rebuilt from its layers to take (N, channels, height, width).

    A layer that knows neither order gets its axes moved around it.
    """
    height, width, channels = model.inputs[0].shape[1:]
    image = keras.Input((channels, height, width))
    graph = keras.Model(model.inputs, model.outputs)
    turned = keras.models.clone_model(graph, [image], clone_function=_converted, call_function=_call)
    turned.set_weights(graph.get_weights())
    return turned


def _converted(layer: Any) -> Any:
    """A copy of a layer with its channels first, where it can have them so; else the layer."""
    config = layer.get_config() if hasattr(layer, "data_format") or type(layer).__name__ in BY_AXIS else {}
    if "data_format" in config:
        config["data_format"] = "channels_first"
    elif config.get("axis") in (-1, 3) and len(_shape(layer.input)) == 4:
        config["axis"] = 1
    else:
        return layer
    return type(layer).from_config(config)


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    pictures = [value for value in keras.tree.flatten((args, kwargs)) if len(_shape(value)) == 4]
    by_axis = type(layer).__name__ in BY_AXIS and layer.axis == 1
    turned = getattr(layer, "data_format", None) == "channels_first" or by_axis
    alike = type(layer).__name__ in POINTWISE and len(pictures) in (1, len(keras.tree.flatten(args)))
    if not pictures or turned or alike:
        return layer(*args, **kwargs)
    back = keras.tree.map_structure(lambda x: _transposed(x, (0, 2, 3, 1)), (args, kwargs))
    return keras.tree.map_structure(lambda x: _transposed(x, (0, 3, 1, 2)), layer(*back[0], **back[1]))


def _transposed(value: Any, axes: tuple[int, ...]) -> Any:
    return keras.ops.transpose(value, axes) if len(_shape(value)) == 4 else value


def _shape(value: Any) -> tuple[Any, ...]:
    shape = getattr(value[0] if isinstance(value, list) and value else value, "shape", None)
    return tuple(shape) if shape is not None else ()
