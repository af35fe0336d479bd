"""Golden vectors of the measuring loop on a fake clock, shared with the Android app (TimingTest.kt)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from edge_bench import measure

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "timing.json").read_text())


@dataclass
class Model:
    """A session on a fake clock. Every reading costs reading_ns, and call k costs calls_ns[k]."""

    reading_ns: int
    calls_ns: list[int]
    keeps_input: bool
    now: int = 0
    calls: int = 0
    refilled: int = 0
    inputs: tuple[()] = ()
    outputs: tuple[()] = ()
    delegate: str = "cpu"
    given: list[Any] = field(default_factory=list)

    def read(self) -> int:
        self.now += self.reading_ns
        return self.now

    def set(self, arrays: Any) -> None:
        self.given = list(arrays)

    def refill(self) -> None:
        self.refilled += 1

    def invoke(self) -> None:
        self.now += self.calls_ns[min(self.calls, len(self.calls_ns) - 1)]
        self.calls += 1

    def get(self) -> list[Any]:
        return [np.array([1.0 if self.keeps_input else float(self.calls)])]


def encoded(values: list[Any]) -> list[Any]:
    """Run-length encoded: [count, value]."""
    return [[len(list(group)), value] for value, group in groupby(values)]


@pytest.mark.parametrize("vector", VECTORS["timing"], ids=lambda vector: vector["name"])
def test_a_vector_gives_its_samples(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(vector["reading_ns"], vector["calls_ns"], vector["keeps_input"])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter_ns=model.read))
    found = measure._timing(model, [], measure.Effort(**vector["effort"]))
    expected = vector["expected"]
    assert {
        "first_run_ns": found["first_run_ns"],
        "refills_input": found["refills_input"],
        "warmup": [list(entry) for entry in found["warmup"]],
        "loops": found["runs"][0][0],
        "runs": encoded([list(entry) for entry in found["runs"]]),
        "single_runs": encoded(found["single_runs"]),
        "clock_ns": found["clock_ns"],
        "calls": model.calls,
    } == expected
    assert model.refilled == (model.calls - 2 if found["refills_input"] else 0)
