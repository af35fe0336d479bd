"""Synthetic images that a network can learn: each class has a bright band in a different place."""

from __future__ import annotations

import numpy as np

from pipeline.core import ModelSpec
from pipeline.datasets import Split


def split(spec: ModelSpec, count: int = 64, seed: int = 0) -> Split:
    """`count` images of the spec's shape and classes, determined by the seed."""
    height, width, channels = spec.inputs[0].shape
    labels = np.arange(count, dtype=np.int64) % spec.classes

    def read(i: int) -> np.ndarray:
        noise = np.random.default_rng((seed, i)).integers(0, 64, (height, width, channels), np.uint8)
        row = int(labels[i]) * height // spec.classes
        noise[row : row + max(1, height // spec.classes)] += 160
        return noise

    return Split(labels, f"{spec.name}-{count}-{seed}", read)
