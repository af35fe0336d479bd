"""Runs one process per framework and round, with the frameworks in turn."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import to_json
from pipeline.errors import BadOption, DiskFull, StageFailed
from pipeline.framework_comparison.parts import FRAMEWORKS, MEASURED, Row, Run, Side
from pipeline.system import proc, store
from pipeline.system.progress import say

TIME_LIMIT = 3600.0
"""Timeout of a process in seconds."""
GPU_PYTHON = Path(__file__).parents[3] / ".venv-gpu" / "bin" / "python"
"""Python of the optional environment without PyTorch in which TensorFlow can use a GPU: docs/scaling.md."""


@dataclass(frozen=True)
class Turns:
    """The results of several rounds in both frameworks.

    Attributes:
        found: the result of each round, by framework.
        reasons: why a framework has no results, by framework.
        loaded: heavy packages that the processes had imported, by framework.
    """

    found: Mapping[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in FRAMEWORKS})
    reasons: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def side(self, framework: str, *keys: str) -> Side:
        """The samples under these keys, or the {"reason": …} found on the path to them."""
        if framework in self.reasons:
            return Side(reason=self.reasons[framework])
        samples = []
        for found in self.found[framework]:
            value: Any = found
            for key in keys:
                if "reason" in value:
                    return Side(reason=value["reason"])
                value = value[key]
            samples.append(tuple(map(_short, value if isinstance(value, list) else [value])))
        return Side(tuple(samples))

    def row(self, table: str, what: str, unit: str, better: str, keys: Mapping[str, tuple[str, ...]]) -> Row:
        """A measured row with the samples under each framework's keys."""
        return Row(table, what, unit, better, MEASURED, {name: self.side(name, *keys[name]) for name in FRAMEWORKS})


def order(rounds: int) -> Iterator[tuple[int, str]]:
    """(round, framework) in the order A B, B A, A B …, so that a machine that slows down affects both."""
    for number in range(rounds):
        pair = tuple(FRAMEWORKS) if number % 2 == 0 else tuple(FRAMEWORKS)[::-1]
        yield from ((number, framework) for framework in pair)


def take(run: Run, what: str, verb: str, ask: Callable[[str, int], Mapping[str, Any]], rounds: int = 0) -> Turns:
    """Runs a function of the probe in each framework in turn, each time in a new process.

    If a framework refuses or its process fails, the reason is recorded and its other rounds are skipped.

    Args:
        what: what is measured, for the progress line.
        verb: the name of the function; see `_probe.verb`.
        ask: returns the request for a framework and round.
        rounds: 0 for the run's number.
    """
    turns = Turns()
    for number, framework in order(rounds or run.rounds):
        if framework not in turns.reasons:
            say(f"  {what}, round {number + 1}: {FRAMEWORKS[framework]}")
            _once(turns, run, framework, {**ask(framework, number), "verb": verb})
            _refuse_different_devices(turns)
    return turns


def check_accelerator(run: Run) -> None:
    """
    Raises:
        BadOption: a framework cannot use its job's accelerator.
    """
    for framework, job in run.jobs.items():
        with tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
            request = {"verb": "device", "accelerator": job.training.accelerator}
            answer = _asked(run.into(Path(folder)), framework, request)
        if "refused" in answer:
            raise BadOption(answer["refused"])
        if "found" not in answer:
            raise StageFailed(f"{FRAMEWORKS[framework]}: {answer['failed']}")


def _refuse_different_devices(turns: Turns) -> None:
    """Replaces the results by a reason if one framework ran on a GPU and the other on the CPU."""
    places = {name: found[0].get("device", "cpu") for name, found in turns.found.items() if found}
    if len({place == "cpu" for place in places.values()}) > 1:
        where = " and ".join(f"{FRAMEWORKS[name]} on {place}" for name, place in places.items())
        turns.reasons.update(dict.fromkeys(FRAMEWORKS, f"not compared: {where}; use --accelerator cpu for both"))


def _once(turns: Turns, run: Run, framework: str, request: Mapping[str, Any]) -> None:
    """Runs one process of one framework and adds its result to `turns`."""
    answer = _asked(run, framework, request)
    if "found" not in answer:
        turns.reasons[framework] = answer.get("refused") or f"failed: {answer['failed']}"
        say(f"    {FRAMEWORKS[framework]}: {turns.reasons[framework]}")
        return
    turns.found[framework].append(answer["found"])
    turns.loaded[framework] = tuple(sorted({*turns.loaded.get(framework, ()), *answer["loaded"]}))


def _asked(run: Run, framework: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a process of one framework: "found", "refused" or "failed"; and "loaded".

    Raises:
        DiskFull: no space was left on the disk.
    """
    out, caches = run.scratch / "found.json", run.scratch / "caches"
    store.remove(out)
    store.remove(caches)  # a compiler cache of an earlier round would speed up the first step
    whole = {
        "framework": framework, "out": str(out), "scratch": str(run.scratch), "model": str(run.model.folder),
        "spec": to_json(run.model.spec), **request,
    }  # fmt: skip
    env = {"TORCHINDUCTOR_CACHE_DIR": str(caches), "TF_CPP_MIN_LOG_LEVEL": "3"}
    program = [
        python(framework, request["verb"]),
        "-m",
        "pipeline.framework_comparison.parts._probe",
        json.dumps(whole),
    ]
    done = proc.run(program, TIME_LIMIT, env=env)
    failed = {"failed": f"its process: {done.reason}"}
    answer: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else failed
    if "disk_full" in answer:
        raise DiskFull(answer["disk_full"])
    return answer


def together(*turns: Turns) -> dict[str, tuple[str, ...]]:
    """The packages that the processes of several turns had imported."""
    return {
        name: tuple(sorted({package for each in turns for package in each.loaded.get(name, ())}))
        for name in FRAMEWORKS
    }  # fmt: skip


def _short(value: float) -> float:
    """Six significant digits; more would be noise of the clock."""
    return float(f"{value:.6g}")


def python(framework: str, verb: str) -> str:
    """The Python that runs a framework's process. Keras models are captured with PyTorch."""
    apart = framework == "keras" and verb != "capturing" and GPU_PYTHON.is_file()
    return str(GPU_PYTHON) if apart else sys.executable
