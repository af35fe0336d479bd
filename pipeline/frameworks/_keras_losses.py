"""The loss of each task in Keras on TensorFlow, and its metric as part of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import tasks
from pipeline.core import ModelSpec
from pipeline.frameworks import _detection_loss as detection
from pipeline.tasks import anomaly_detection

if TYPE_CHECKING:
    from numpy.typing import NDArray

OfSamples = Callable[[tf.Tensor, Any], tf.Tensor]
"""From labels and outputs (a tensor, or several) to a value for each sample."""


def loss(spec: ModelSpec, labels: NDArray[Any]) -> OfSamples:
    """As `_torch_losses.of`, for each sample. Labels of classes are one-hot."""
    kind = tasks.of(spec).truth(spec).kind
    if kind == "boxes":
        return _of_boxes
    if kind == "anomaly":
        share = anomaly_detection.normal_share(labels)
        return lambda truth, outputs: tf.cast(outputs[:, 0], tf.float32) * tf.cast(truth == 0, tf.float32) / share
    if kind == "mask":  # outputs (n, height, width, classes)
        return lambda truth, outputs: tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(truth, tf.int32), outputs), axis=(1, 2)
        )
    if kind == "class":
        cross_entropy: OfSamples = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=spec.training.label_smoothing, reduction=None
        )
        return cross_entropy
    variance = _variance(labels).clip(1e-12)
    return lambda truth, outputs: tf.reduce_mean(tf.square(tf.cast(outputs, tf.float32) - truth) / variance, axis=1)


def scores(spec: ModelSpec, labels: NDArray[Any]) -> OfSamples:
    """See `Task.scores`, of a metric that does not pool all samples. Labels of classes are indices.

    Args:
        labels: of the whole split.
    """
    kind = tasks.of(spec).truth(spec).kind
    if kind == "mask":
        return _of_masks
    if kind == "class":
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


def _of_boxes(labels: tf.Tensor, outputs: Any) -> tf.Tensor:
    """As in `_torch_losses`."""
    boxes, logits = (tf.cast(each, tf.float32) for each in outputs)
    true, quality = map(tf.stop_gradient, _assigned(boxes, tf.sigmoid(logits), labels))
    classes = tf.one_hot(tf.cast(true[..., 0], tf.int32), logits.shape[-1])
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(classes * quality[..., None], logits)
    distance = (1 - _giou(boxes, true[..., 1:5])) * quality
    each = detection.CLASSES * tf.reduce_sum(entropy, (1, 2)) + detection.BOXES * tf.reduce_sum(distance, 1)
    return each / tf.maximum(tf.reduce_sum(quality, 1), 1)


def _assigned(boxes: tf.Tensor, probabilities: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The true box that each anchor shall find, (n, anchors, 6), and how well it does: 0 for the background."""
    anchors = boxes.shape[1]
    real = tf.cast((labels[..., 0] >= 0) & (labels[..., 5] == 0), tf.float32)
    overlaps = _iou(labels[:, :, None, 1:5], boxes[:, None]) * real[..., None]  # (n, most, anchors)
    index = tf.cast(tf.maximum(labels[..., 0], 0), tf.int32)
    scores = tf.gather(tf.transpose(probabilities, (0, 2, 1)), index, axis=1, batch_dims=1)
    fit = scores**detection.ALPHA * overlaps**detection.BETA
    best = tf.math.top_k(fit, min(detection.ANCHORS, anchors))
    wanted = tf.one_hot(best.indices, anchors) * tf.cast(best.values > 0, tf.float32)[..., None]
    chosen = tf.reduce_sum(wanted, 2)
    owner = tf.argmax(overlaps * chosen, 1, output_type=tf.int32)  # an anchor that several want gets the nearest
    chosen *= tf.one_hot(owner, tf.shape(labels)[1], axis=1)
    fit, overlaps = fit * chosen, overlaps * chosen
    largest = [tf.reduce_max(each, 2, keepdims=True) for each in (fit, overlaps)]
    quality = fit / tf.maximum(largest[0], 1e-12) * largest[1]
    return tf.gather(labels, owner, axis=1, batch_dims=1), tf.reduce_max(quality, 1)


def _iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    common, union, _ = _areas(a, b)
    return common / tf.maximum(union, 1e-9)


def _giou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """As in `_torch_losses`."""
    common, union, hull = _areas(a, b)
    return common / tf.maximum(union, 1e-9) - (hull - union) / tf.maximum(hull, 1e-9)


def _areas(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of the intersection, the union and the smallest box around both."""
    sides = tf.minimum(a[..., 2:], b[..., 2:]) - tf.maximum(a[..., :2], b[..., :2])
    around = tf.maximum(a[..., 2:], b[..., 2:]) - tf.minimum(a[..., :2], b[..., :2])
    common = tf.reduce_prod(tf.maximum(sides, 0), -1)
    own = [tf.reduce_prod(tf.maximum(each[..., 2:] - each[..., :2], 0), -1) for each in (a, b)]
    return common, own[0] + own[1] - common, tf.reduce_prod(around, -1)


def _variance(labels: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.asarray(labels, np.float64).reshape(len(labels), -1).var(axis=0), np.float32)
