"""Shared by both frameworks' probes: random inputs, the timing loop, and the cleaning of quoted messages."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[3]
WARMUP = 3
"""Untimed steps after the first."""


class Clock:
    """Times at least `least` steps for at least `seconds`, but at most `most` steps."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.batch_size: int = request["batch_size"]
        self.sizes: list[int] = request["sizes"]
        self.least, self.seconds, self.most = request["least"], request["seconds"], request["most"]

    def times(self, step: Callable[[Any, Any], float], batch: Callable[[int], tuple[Any, Any]]) -> dict[str, Any]:
        """Milliseconds of the first step, tracing and compiling included; of the steps after it; and the sums over
        new batch sizes, each used for the first and for the second time."""

        def one(data: tuple[Any, Any]) -> float:
            started = time.perf_counter()
            step(*data)
            return (time.perf_counter() - started) * 1000

        data = batch(self.batch_size)
        first = one(data)
        for _ in range(WARMUP):
            one(data)
        steps: list[float] = []
        while len(steps) < self.most and (len(steps) < self.least or sum(steps) < self.seconds * 1000):
            steps.append(one(data))
        new = [one(batch(size)) for size in self.sizes]
        known = [one(batch(size)) for size in self.sizes]
        return {"first_ms": first, "step_ms": steps, "new_ms": sum(new), "known_ms": sum(known)}


def noise(spec: ModelSpec, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pixels (count, height, width, channels) and labels (count,): the same in every process."""
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (count, *spec.inputs[0].shape))
    return images.astype(np.float32), np.arange(count, dtype=np.int64) % spec.classes


def cleaned(text: str) -> str:
    """A message without terminal colours and with placeholders for the paths of the environment and the project."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for path, name in ((sys.prefix, "<environment>"), (str(REPOSITORY), "<project>")):
        text = text.replace(path, name)
    return text.strip()
