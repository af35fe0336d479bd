"""Synthetic samples that a network can learn: images of each class have a bright band in a different place, and numbers
to predict follow from the inputs. Texts of each class have other tokens."""

from __future__ import annotations

import numpy as np

from pipeline import tasks
from pipeline.core import ModelSpec
from pipeline.datasets import Split


def split(spec: ModelSpec, count: int = 64, seed: int = 0) -> Split:
    """`count` samples of the spec's shape and task, determined by the seed."""
    if spec.tokens:
        return _texts(spec, count, seed)
    if spec.image is None:
        return _numbers(spec, count, seed)
    height, width, channels = spec.inputs[0].shape
    kind = tasks.of(spec).truth(spec).kind
    if kind == "boxes":
        return _boxes(spec, count, seed)
    if kind == "mask":
        masks = np.random.default_rng(seed).integers(0, spec.classes, (count, height, width)).astype(np.uint8)
        images = np.repeat(masks[..., None] * (255 // (spec.classes - 1)), channels, axis=-1).astype(np.uint8)
        return Split(masks, f"{spec.name}-{count}-{seed}", images.__getitem__)
    labels = np.arange(count, dtype=np.int64) % spec.classes

    def read(i: int) -> np.ndarray:
        noise = np.random.default_rng((seed, i)).integers(0, 64, (height, width, channels), np.uint8)
        row = int(labels[i]) * height // spec.classes
        noise[row : row + max(1, height // spec.classes)] += 160
        return noise

    return Split(labels, f"{spec.name}-{count}-{seed}", read)


def _texts(spec: ModelSpec, count: int, seed: int) -> Split:
    """Ids at random, of a class from its own part of the vocabulary, and padding after the first 1, 2, 3 …."""
    assert spec.tokens and spec.inputs[0].value_range
    part = (int(spec.inputs[0].value_range[1]) + 1) // spec.classes
    labels = np.arange(count, dtype=np.int64) % spec.classes
    ids = np.random.default_rng(seed).integers(0, part, (count, spec.tokens.length)) + part * labels[:, None]
    ids[np.arange(spec.tokens.length) > np.arange(count)[:, None] % spec.tokens.length] = spec.tokens.padding
    return Split(labels, f"{spec.name}-{count}-{seed}", ids.astype(np.int32).__getitem__)


def _boxes(spec: ModelSpec, count: int, seed: int) -> Split:
    """Bright squares on noise, one or two of an image: the larger the class, the larger the square."""
    height, width, channels = spec.inputs[0].shape
    labels = np.zeros((count, 2, 6), np.float32)
    images = np.random.default_rng(seed).integers(0, 64, (count, height, width, channels), np.uint8)
    for i in range(count):
        random = np.random.default_rng((seed, i))
        for place in range(2):
            label = int(random.integers(0, spec.classes)) if place <= i % 2 else -1
            side = height * (label + 2) // (3 * spec.classes + 3)
            top, left = random.integers(0, height // 2 - side, 2) + np.array([0, width // 2 * place])
            labels[i, place] = label, top / height, left / width, (top + side) / height, (left + side) / width, 0
            if label >= 0:
                images[i, top : top + side, left : left + side] += 180
    return Split(labels, f"{spec.name}-{count}-{seed}", images.__getitem__)


def _numbers(spec: ModelSpec, count: int, seed: int) -> Split:
    """Noise: of a class it is louder the larger the class, of an anomaly as well, and numbers are the sum of its first
    values."""
    noise = np.random.default_rng(seed).normal(size=(count, *spec.inputs[0].shape))
    if tasks.of(spec).truth(spec).kind == "anomaly":
        labels = np.arange(count, dtype=np.int64) % 4 // 3
        inputs = np.asarray(noise * (1 + 3 * labels).reshape(count, *[1] * (noise.ndim - 1)), np.float32)
        return Split(labels, f"{spec.name}-{count}-{seed}", inputs.__getitem__)
    labels = np.arange(count, dtype=np.int64) % spec.classes
    if tasks.of(spec).CLASSES:
        noise *= (2.0 ** (labels - spec.classes / 2)).reshape(count, *[1] * (noise.ndim - 1))
    else:
        total = noise.reshape(count, -1)[:, : spec.classes].sum(axis=1, keepdims=True)
        labels = np.repeat(150 + 50 * total, spec.classes, axis=1).astype(np.float32)
    inputs = np.asarray(noise * spec.preprocessing.std + spec.preprocessing.mean, np.float32)
    return Split(labels, f"{spec.name}-{count}-{seed}", inputs.__getitem__)
