"""Processes that each have one framework, and the turns that they take."""

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
"""Seconds after which a process is given up."""
GPU_PYTHON = Path(__file__).parents[3] / ".venv-gpu" / "bin" / "python"
"""Of the environment without PyTorch in which TensorFlow can use a GPU, where somebody made it: docs/scaling.md."""


@dataclass(frozen=True)
class Turns:
    """What came of several rounds in both frameworks.

    Attributes:
        found: what each round gave, by framework.
        reasons: why a framework gave nothing, which is a result too.
        loaded: heavy packages that the processes had imported.
    """

    found: Mapping[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in FRAMEWORKS})
    reasons: dict[str, str] = field(default_factory=dict)
    loaded: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def side(self, framework: str, *keys: str) -> Side:
        """The samples under these keys; a {"reason": …} on the way there is why there are none."""
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
        """A measured row of the samples under each framework's keys."""
        return Row(table, what, unit, better, MEASURED, {name: self.side(name, *keys[name]) for name in FRAMEWORKS})


def order(rounds: int) -> Iterator[tuple[int, str]]:
    """(round, framework): A B, B A, A B …, so that a machine that gets slower is slower for both."""
    for number in range(rounds):
        pair = tuple(FRAMEWORKS) if number % 2 == 0 else tuple(FRAMEWORKS)[::-1]
        yield from ((number, framework) for framework in pair)


def take(run: Run, what: str, verb: str, ask: Callable[[str, int], Mapping[str, Any]], rounds: int = 0) -> Turns:
    """Runs a verb of `_probe.verb` in each framework in turn, each time in a new process.

    A framework that refuses, or whose process fails, gives its reason and is not asked again.

    Args:
        ask: the request of a framework in a round.
        rounds: 0 for the run's.
    """
    turns = Turns()
    for number, framework in order(rounds or run.rounds):
        if framework not in turns.reasons:
            say(f"  {what}, round {number + 1}: {FRAMEWORKS[framework]}")
            _once(turns, run, framework, {**ask(framework, number), "verb": verb})
            _refuse_unlike(turns)
    return turns


def check_accelerator(run: Run) -> None:
    """
    Raises:
        BadOption: a framework cannot use what its job asks for.
    """
    for framework, job in run.jobs.items():
        with tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
            said = _asked(
                run.into(Path(folder)), framework, {"verb": "device", "accelerator": job.training.accelerator}
            )
        if "refused" in said:
            raise BadOption(said["refused"])
        if "found" not in said:
            raise StageFailed(f"{FRAMEWORKS[framework]}: {said['failed']}")


def _refuse_unlike(turns: Turns) -> None:
    """Figures of a GPU beside figures of a CPU say nothing of the frameworks: the reason stands in their place."""
    places = {name: found[0].get("device", "cpu") for name, found in turns.found.items() if found}
    if len({place == "cpu" for place in places.values()}) > 1:
        where = " and ".join(f"{FRAMEWORKS[name]} on {place}" for name, place in places.items())
        turns.reasons.update(dict.fromkeys(FRAMEWORKS, f"not compared: {where}; --accelerator cpu compares them there"))


def _once(turns: Turns, run: Run, framework: str, request: Mapping[str, Any]) -> None:
    """One process of one framework; what it found is added to `turns`."""
    said = _asked(run, framework, request)
    if "found" not in said:
        turns.reasons[framework] = said.get("refused") or f"failed: {said['failed']}"
        say(f"    {FRAMEWORKS[framework]}: {turns.reasons[framework]}")
        return
    turns.found[framework].append(said["found"])
    turns.loaded[framework] = tuple(sorted({*turns.loaded.get(framework, ()), *said["loaded"]}))


def _asked(run: Run, framework: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a process of one framework says: "found", or else "refused" or "failed"; and "loaded".

    Raises:
        DiskFull: it found no space.
    """
    out, caches = run.scratch / "found.json", run.scratch / "caches"
    store.remove(out)
    store.remove(caches)  # what a compiler kept of an earlier round would make its first step look cheap
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
    said: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {"failed": f"its process: {done.reason}"}
    if "disk_full" in said:
        raise DiskFull(said["disk_full"])
    return said


def together(*turns: Turns) -> dict[str, tuple[str, ...]]:
    """What the processes of several turns had imported."""
    return {
        name: tuple(sorted({package for each in turns for package in each.loaded.get(name, ())}))
        for name in FRAMEWORKS
    }  # fmt: skip


def _short(value: float) -> float:
    """Six significant digits: a clock's noise need not be kept."""
    return float(f"{value:.6g}")


def python(framework: str, verb: str) -> str:
    """What runs a framework's process; Keras is captured by PyTorch, wherever it was trained."""
    apart = framework == "keras" and verb != "capturing" and GPU_PYTHON.is_file()
    return str(GPU_PYTHON) if apart else sys.executable
