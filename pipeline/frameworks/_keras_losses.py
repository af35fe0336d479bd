"""The loss of each task in Keras on TensorFlow, and its metric as part of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import tasks
from pipeline.core import ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

OfSamples = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From labels and outputs to a value for each sample."""


def loss(spec: ModelSpec, labels: NDArray[Any]) -> OfSamples:
    """As `_torch_losses.of`, for each sample. Labels of classes are one-hot."""
    if tasks.of(spec).CLASSES:
        cross_entropy: OfSamples = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=spec.training.label_smoothing, reduction=None
        )
        return cross_entropy
    variance = _variance(labels).clip(1e-12)
    return lambda truth, outputs: tf.reduce_mean(tf.square(tf.cast(outputs, tf.float32) - truth) / variance, axis=1)


def scores(spec: ModelSpec, labels: NDArray[Any]) -> OfSamples:
    """See `Task.scores`. Labels of classes are indices.

    Args:
        labels: of the whole split.
    """
    if tasks.of(spec).CLASSES:
        return lambda truth, outputs: tf.cast(tf.equal(tf.argmax(outputs, 1), truth), tf.float64)
    varies = _variance(labels) > 0
    variance = _variance(labels)[varies]

    def of_numbers(truth: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        squares = tf.boolean_mask(tf.square(tf.cast(outputs, tf.float64) - tf.cast(truth, tf.float64)), varies, axis=1)
        return tf.reduce_mean(1 - squares / variance, axis=1)

    return of_numbers


def _variance(labels: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.asarray(labels, np.float64).reshape(len(labels), -1).var(axis=0), np.float32)
