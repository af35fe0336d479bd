"""Compare: PyTorch beside TensorFlow on one model: each part measured in both in turn, then a report of verdicts.

    build/<model>.frameworks/<part>.json                       what was measured, with every raw sample
    build/<model>.frameworks/report.html, report.md, report.json

A part that is up to date, on this machine, of these versions and of this code, is not measured again.
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
"""Facts of edge-bench that say which machine it is."""


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        rounds: how often each figure is measured in each framework.
        epochs: of trainings; None for the model's own number.
        accuracy: the share whose time is taken; None for the highest that all reach.
        again: measure also what is up to date.
    """

    rounds: int = 5
    epochs: int | None = None
    accuracy: float | None = None
    again: bool = False

    def check(self) -> None:
        """
        Raises:
            BadOption: a number that cannot be.
        """
        if self.rounds < 1 or (self.epochs is not None and self.epochs < 1):
            raise BadOption("--rounds and --epochs are at least 1")
        if self.accuracy is not None and not (math.isfinite(self.accuracy) and 0 < self.accuracy <= 1):
            raise BadOption("--accuracy is a percentage, more than 0 and at most 100")


def compare(build: Store, plan: Plan, names: Sequence[str], options: Options) -> Path:
    """Measures what is missing of these parts, and writes the report of them; returns the page's path.

    Args:
        plan: of the model in both frameworks; its training options give the accelerator.
        names: the parts.

    Raises:
        BadOption, BadModel, MissingExtra: as the command line deserves; nothing is measured then.
    """
    options.check()
    for job in plan.jobs:
        registry.require(job.framework.module.PACKAGES)
        train.ready(build, job)  # raises where an option is invalid
    run = Run(build, plan, options.rounds, options.epochs, options.accuracy, Path())
    if plan.training.accelerator == "cuda":
        check_accelerator(run)
    machine, home = _machine(), build.home(run.model.spec.name, "frameworks")
    parts = [_part(run, name, home, machine, options.again) for name in names]
    judged = {"model": run.model.spec.name, "parts": list(map(_judged, parts))}
    store.write_text(home / "report.json", json.dumps(judged) + "\n")
    return reporting.report(home, run.model.spec.name, parts)


def _part(run: Run, name: str, home: Path, machine: Mapping[str, str], again: bool) -> Part:
    """A part as it is kept, or measured now."""
    module = cast(Comparison, registry.load(REGISTRY, name))
    tools = registry.versions(tuple(tool for each in FRAMEWORKS for tool in registry.load("frameworks", each).TOOLS))
    of = [
        module.prepare(run),
        run.rounds,
        run.epochs,
        run.accuracy,
        machine,
        tools,
        registry.source_hash(REGISTRY, name),
    ]
    key, path = store.digest(of), home / f"{name}.json"
    kept = store.read_or_warn(Part, path)
    if kept is not None and kept.key == key and not again:
        return kept
    with store.lock(run.build, f"comparison of {run.model.spec.name}"), _scratch(home) as scratch:
        say(f"{module.TITLE}: PyTorch beside TensorFlow")
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
    """A folder for what is not kept, with a name that the next holder of the lock would sweep."""
    folder = home / f"{store.TEMPORARY}{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder.resolve()
    finally:
        store.remove(folder)


def _machine() -> dict[str, str]:
    """Which machine this is."""
    done = proc.run([sys.executable, "-m", "edge_bench", "facts"])
    if done.code != 0:
        raise StageFailed(f"edge-bench does not say what machine this is: {done.reason}")
    said: dict[str, Any] = json.loads(done.out)
    facts = {**said["device"], "python": said["tools"]["python"]}
    return {name: str(facts[name]) for name in MACHINE if facts.get(name) is not None}


def _judged(part: Part) -> dict[str, Any]:
    """A part for scripts: every row with its verdict."""
    rows = [{**to_json(row), "verdict": to_json(verdict(row))} for row in part.rows]
    return {**to_json(part), "rows": rows}
