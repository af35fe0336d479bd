"""How often `inv compare` calls equal files different, and how often it catches a runtime that is 3 % slower.

    .venv/bin/python benchmarks/gate.py [--model digits_cnn] [--recipe fp32] [--target tflite]

The slower runtime is the real one with a busy loop in every tenth run (benchmarks/_slowed.py), of 3 % of the median
that was measured first; in these comparisons both sides run in the same wrapper. Bounds: at most 5 % of the equal pairs
are better or worse, and at least 80 % of the slower ones are worse, at the default rounds. Run it with nothing else on
the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _common

from pipeline import devices
from pipeline.devices import BoundDevice
from pipeline.results import ratios
from pipeline.results.comparison import Comparison
from pipeline.stages import compare
from pipeline.stages.export import export, raise_if_failed
from pipeline.stages.plan import Plan
from pipeline.system import proc
from pipeline.system.store import Store

SLOWER, FALSE_ALARMS, CAUGHT = 0.03, 0.05, 0.8
EVERY = 10
"""See _slowed.py."""


@dataclass(frozen=True)
class Slow:
    """The kind `local` in the wrapper. Files named `path` are slowed by `ns` in every tenth run."""

    kind: Any
    path: Path
    ns: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kind, name)

    def call(self, build: Any, device: Any, runtime: str, words: Sequence[str | Path], timeout: float) -> proc.Done:
        ns = self.ns if words[1] == self.path else 0
        script = Path(__file__).with_name("_slowed.py")
        return proc.run([sys.executable, script, str(ns), *words], timeout=timeout, env={"PYTHONHASHSEED": "0"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--recipe", default="fp32")
    parser.add_argument("--target", default="tflite")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=ratios.ROUNDS)
    options = parser.parse_args()
    build, local = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build"))), devices.find("local")
    plan = Plan.resolve(options.model, targets=[options.target], recipes=[options.recipe], devices=["local"])
    (outcome,) = outcomes = export(build, plan)
    raise_if_failed(outcomes)
    assert outcome.path is not None
    one = compare.subject(outcome.path)
    copy = build.root / "gate-benchmark" / outcome.path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(outcome.path.read_bytes())
    other = replace(one, path=copy)
    how = compare.Options(rounds=options.rounds)

    def compared(device: BoundDevice) -> Comparison:
        found = compare.compare(build, one, other, device, how)
        print(f"{found.verdict}: {found.ratio:.4f}, {found.rounds} rounds", file=sys.stderr)
        return found

    equal = [compared(local) for _ in range(options.pairs)]
    median_ns = _common.median([found.old_cost for found in equal]) * 1e6
    slow = BoundDevice(local.device, Slow(local.kind, copy, round(EVERY * SLOWER * median_ns)))
    slowed = [compared(slow) for _ in range(options.tries)]
    alarms = sum(found.verdict in (ratios.BETTER, ratios.WORSE) for found in equal)
    caught = sum(found.verdict == ratios.WORSE for found in slowed)
    figures = {
        "median_us": median_ns / 1000,
        "pairs": options.pairs,
        "false_alarms": alarms,
        "slowdown": _common.median([found.ratio for found in slowed]),
        "tries": options.tries,
        "caught": caught,
        "rounds": options.rounds,
        "equal_ratios": [found.ratio for found in equal],
        "slowed_ratios": [found.ratio for found in slowed],
    }
    print(_common.table(["figure", "value"], [[k, v] for k, v in figures.items() if not isinstance(v, list)]))
    holds = [
        _common.verdict(f"at most {FALSE_ALARMS:.0%} false alarms ({alarms} of {options.pairs})",
                        alarms <= FALSE_ALARMS * options.pairs),
        _common.verdict(f"at least {CAUGHT:.0%} of slowdowns caught ({caught} of {options.tries})",
                        caught >= CAUGHT * options.tries),
    ]  # fmt: skip
    _common.keep("gate", {"model": options.model, "recipe": options.recipe, "target": options.target, **figures})
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
