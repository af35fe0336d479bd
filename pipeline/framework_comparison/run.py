"""Measures PyTorch and TensorFlow in turn on one model, part by part, and writes a report with verdicts.

    build/<model>.frameworks/<part>.json                       the measurements, with every raw sample
    build/<model>.frameworks/report.html, report.md, report.json

A part that was measured on this machine with the same versions, options and code is not measured again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pipeline import registry
from pipeline.core import to_json
from pipeline.errors import BadOption, StageFailed
from pipeline.framework_comparison import report as reporting
from pipeline.framework_comparison.parts import FRAMEWORKS, REGISTRY, Comparison, Part, Run
from pipeline.framework_comparison.parts._turns import check_accelerator
from pipeline.framework_comparison.verdicts import verdict
from pipeline.stages import train
from pipeline.stages.plan import Plan
from pipeline.system import proc, store
from pipeline.system.progress import say
from pipeline.system.store import Store

MACHINE = ("cpu", "cores", "memory_bytes", "os", "arch", "python")
"""The facts of edge-bench that identify the machine."""


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        rounds: number of measurements of each figure in each framework.
        epochs: number of training epochs; None for the model's own.
        accuracy: the validation accuracy, from 0 to 1, to which training is timed; None for the highest that all
            trainings reach.
        again: whether to measure again what is up to date.
    """

    rounds: int = 5
    epochs: int | None = None
    accuracy: float | None = None
    again: bool = False

    def check(self) -> None:
        """
        Raises:
            BadOption: a number is out of range.
        """
        if self.rounds < 1 or (self.epochs is not None and self.epochs < 1):
            raise BadOption("--rounds and --epochs must be at least 1")
        if self.accuracy is not None and not (math.isfinite(self.accuracy) and 0 < self.accuracy <= 1):
            raise BadOption("--accuracy must be a percentage above 0 and at most 100")


def compare(build: Store, plan: Plan, names: Sequence[str], options: Options) -> Path:
    """Measures the parts that are not up to date, writes the report of all, and returns the path of report.html.

    Args:
        plan: of the model in both frameworks; its training options give the accelerator.
        names: the parts.

    Raises:
        BadOption, BadModel, MissingExtra: the command cannot be carried out; nothing was measured.
    """
    options.check()
    for job in plan.jobs:
        registry.require(job.framework.module.PACKAGES)
        train.ready(build, job)  # raises if an option is invalid
    run = Run(build, plan, options.rounds, options.epochs, options.accuracy, Path())
    if plan.training.accelerator == "cuda":
        check_accelerator(run)
    machine, home = _machine(), build.home(run.model.spec.name, "frameworks")
    parts = [_part(run, name, home, machine, options.again) for name in names]
    judged = {"model": run.model.spec.name, "parts": list(map(_judged, parts))}
    store.write_text(home / "report.json", json.dumps(judged) + "\n")
    return reporting.report(home, run.model.spec.name, parts)


def _part(run: Run, name: str, home: Path, machine: Mapping[str, str], again: bool) -> Part:
    """A stored part if it is up to date, else a new measurement."""
    module = cast(Comparison, registry.load(REGISTRY, name))
    tools = registry.versions(tuple(tool for each in FRAMEWORKS for tool in registry.load("frameworks", each).TOOLS))
    inputs = [
        module.prepare(run),
        run.rounds,
        run.epochs,
        run.accuracy,
        machine,
        tools,
        registry.source_hash(REGISTRY, name),
        registry.code_hash(*(f"pipeline.{REGISTRY}._{each}" for each in FRAMEWORKS)),  # started as processes, by name
    ]
    key, path = store.digest(inputs), home / f"{name}.json"
    kept = store.read_or_warn(Part, path)
    if kept is not None and kept.key == key and not again:
        return kept
    with store.lock(run.build, f"comparison of {run.model.spec.name}"), _scratch(home) as scratch:
        say(f"{module.TITLE}: PyTorch and TensorFlow")
        started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        before = os.getloadavg()[0]
        found = module.measure(run.into(scratch))
        part = Part(
            name=name,
            rows=found.rows,
            curves=found.curves,
            notes=found.notes,
            loaded=found.loaded,
            machine=machine,
            tools=tools,
            load=(before, os.getloadavg()[0]),
            started_at=started_at,
            seconds=time.perf_counter() - started,
            key=key,
        )
        store.write(path, part)
    return part


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """A temporary folder, with a name that the next holder of the lock removes if this process is killed."""
    folder = home / f"{store.TEMPORARY}{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder.resolve()
    finally:
        store.remove(folder)


def _machine() -> dict[str, str]:
    """The facts that identify this machine."""
    done = proc.run([sys.executable, "-m", "edge_bench", "facts"])
    if done.code != 0:
        raise StageFailed(f"edge-bench facts failed: {done.reason}")
    printed = done.result("device", "tools")
    facts = {**printed["device"], "python": printed["tools"]["python"]}
    return {name: str(facts[name]) for name in MACHINE if facts.get(name) is not None}


def _judged(part: Part) -> dict[str, Any]:
    """A part as JSON for scripts: every row with its verdict."""
    rows = [{**to_json(row), "verdict": to_json(verdict(row))} for row in part.rows]
    return {**to_json(part), "rows": rows}
