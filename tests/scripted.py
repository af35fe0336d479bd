"""A device whose edge-bench answers with given latencies, so that statistics can be tested on known figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import devices
from pipeline.core import Device, to_json
from pipeline.devices import BoundDevice
from pipeline.system.proc import Done
from pipeline.system.store import Store
from tests.builds import process

LOCAL = devices.find("local")

Figures = Callable[[Path, int], dict[str, Any]]
"""Fields of `Process` of a file in a round."""


@dataclass
class Scripted:
    """The kind `local`, which runs nothing.

    Attributes:
        figures: what a process measures.
        calls: the path of every call's file, in order.
        words: the arguments of every call.
    """

    figures: Figures
    calls: list[Path] = field(default_factory=list)
    words: list[list[str]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(LOCAL.kind, name)

    def exclusive(self, build: Store, device: Device) -> AbstractContextManager[None]:
        return nullcontext()

    def setup(self, build: Store, device: Device, runtime: str) -> None:
        pass

    def call(self, build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float) -> Done:
        path = Path(words[1])
        self.words.append([str(word) for word in words])
        found = process(**self.figures(path, self.calls.count(path)))
        self.calls.append(path)
        facts = {"name": runtime, "version": "1.0", "threads": 1, "delegate": "cpu"}
        answer = {"schema": 2, "artifact_sha256": "", "device": {}, "runtime": facts, "tools": {}}
        return Done((), 0, json.dumps({**answer, **to_json(found)}), "", 0.0)


def device(figures: Figures, name: str = "local", **more: Any) -> BoundDevice:
    """A device of this kind; `more` are fields of `Device`."""
    return BoundDevice(Device(name, "local", **more), Scripted(figures))


def microseconds(value: float) -> dict[str, Any]:
    """Fields of a process whose median run takes so long."""
    return {"runs": ((1000, round(value * 1e6)),) * 3, "single_runs": ()}


def noisy(ratio: float, deviation: float, seed: int = 0, slow: str = "new") -> Figures:
    """Latencies with log-normal noise; files below a folder named `slow` take `ratio` times as long."""
    random = np.random.default_rng(seed)

    def figures(path: Path, round: int) -> dict[str, Any]:
        return microseconds(100 * (ratio if slow in path.parts else 1) * float(np.exp(random.normal(0, deviation))))

    return figures
