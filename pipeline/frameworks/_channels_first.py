"""Converts a Keras model to channels first, the layout of PyTorch's kernels, with the same layers and weights."""

from __future__ import annotations

from typing import Any

import keras

POINTWISE = frozenset({
    "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianDropout", "GaussianNoise", "Rescaling", "Identity",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Relu", "Relu6", "Silu", "HardSilu", "HardSigmoid",
    "Sigmoid", "Tanh", "Gelu",
})  # fmt: skip
"""Layers and operations that do not depend on the axis of the channels."""

BY_AXIS = frozenset({"BatchNormalization", "Concatenate"})
"""Layers whose `axis` argument names the axis of the channels."""


def channels_first(model: keras.Model) -> keras.Model:
    """Rebuilds a model for (N, height, width, channels) from its layers to take (N, channels, height, width).

    A layer that cannot be configured for channels first is called between two transposes.
    """
    height, width, channels = model.inputs[0].shape[1:]
    image = keras.Input((channels, height, width))
    graph = keras.Model(model.inputs, model.outputs)
    converted = keras.models.clone_model(graph, [image], clone_function=_converted, call_function=_call)
    converted.set_weights(graph.get_weights())
    return converted


def _converted(layer: Any) -> Any:
    """A copy of a layer configured for channels first, or the layer itself if it has no such setting."""
    config = layer.get_config() if hasattr(layer, "data_format") or type(layer).__name__ in BY_AXIS else {}
    if "data_format" in config:
        config["data_format"] = "channels_first"
    elif config.get("axis") in (-1, 3) and len(_shape(layer.input)) == 4:
        config["axis"] = 1
    else:
        return layer
    return type(layer).from_config(config)


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    images = [value for value in keras.tree.flatten((args, kwargs)) if len(_shape(value)) == 4]
    by_axis = type(layer).__name__ in BY_AXIS and layer.axis == 1
    converted = getattr(layer, "data_format", None) == "channels_first" or by_axis
    pointwise = type(layer).__name__ in POINTWISE and len(images) in (1, len(keras.tree.flatten(args)))
    if not images or converted or pointwise:
        return layer(*args, **kwargs)
    nhwc = keras.tree.map_structure(lambda x: _transposed(x, (0, 2, 3, 1)), (args, kwargs))
    return keras.tree.map_structure(lambda x: _transposed(x, (0, 3, 1, 2)), layer(*nhwc[0], **nhwc[1]))


def _transposed(value: Any, axes: tuple[int, ...]) -> Any:
    return keras.ops.transpose(value, axes) if len(_shape(value)) == 4 else value


def _shape(value: Any) -> tuple[Any, ...]:
    shape = getattr(value[0] if isinstance(value, list) and value else value, "shape", None)
    return tuple(shape) if shape is not None else ()
