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
    kind, _ = tasks.of(spec).truth(spec)
    if kind == "u":  # outputs (n, height, width, classes)
        return lambda truth, outputs: tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(truth, tf.int32), outputs), axis=(1, 2)
        )
    if kind == "i":
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
    kind, _ = tasks.of(spec).truth(spec)
    if kind == "u":
        return _of_masks
    if kind == "i":
        return lambda truth, outputs: tf.cast(tf.equal(tf.argmax(outputs, 1), truth), tf.float64)
    varies = _variance(labels) > 0
    variance = _variance(labels)[varies]

    def of_numbers(truth: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        squares = tf.boolean_mask(tf.square(tf.cast(outputs, tf.float64) - tf.cast(truth, tf.float64)), varies, axis=1)
        return tf.reduce_mean(1 - squares / variance, axis=1)

    return of_numbers


def _of_masks(truth: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """As `semantic_segmentation.scores`."""
    classes = outputs.shape[-1]
    predicted = tf.one_hot(tf.argmax(outputs, -1), classes, dtype=tf.float64)
    expected = tf.one_hot(tf.cast(truth, tf.int64), classes, dtype=tf.float64)
    overlaps = tf.reduce_sum(predicted * expected, axis=(1, 2))
    unions = tf.reduce_sum(predicted + expected, axis=(1, 2)) - overlaps
    found = tf.math.divide_no_nan(overlaps, unions)
    return tf.reduce_sum(found, axis=1) / tf.reduce_sum(tf.cast(unions > 0, tf.float64), axis=1)


def _variance(labels: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.asarray(labels, np.float64).reshape(len(labels), -1).var(axis=0), np.float32)
