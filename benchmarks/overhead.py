"""The overhead of edge-bench: its median against a bare loop around the runtime's call, alternating on one session.

    .venv/bin/python benchmarks/overhead.py [--model mobilenet_v3_small:classes=10] [--data PATH]

A run of the model must take about 1 ms or more. Bound: within 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _common

from pipeline import stats
from pipeline.stages.export import export
from pipeline.stages.plan import Plan
from pipeline.system.store import Store

ROUNDS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v3_small:classes=10")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", metavar="FILE", help="used internally: measure one file both ways")
    options = parser.parse_args()
    if options.pairs:
        print(json.dumps(pairs(Path(options.pairs))))
        return 0
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    targets = ("tflite", "executorch", "onnx")
    outcomes = export(build, Plan.resolve(options.model, targets=targets, data=options.data))
    rows, holds, figures = [], True, {}
    for outcome in outcomes:
        argv = [sys.executable, __file__, "--pairs", str(outcome.path)]
        measured = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout.splitlines()[-1])
        ratio = _common.median([ours / bare for ours, bare in measured])
        figures[outcome.target] = {"pairs_ms": measured, "ratio": ratio}
        rows.append(
            [outcome.target, *(f"{_common.median([p[i] for p in measured]):.3f}" for i in (0, 1)), f"{ratio:.4f}"]
        )
        holds &= _common.verdict(f"{outcome.target}: within 1 % of the bare loop ({ratio:.4f})", abs(ratio - 1) <= 0.01)
    print(_common.table(["target", "edge-bench, ms", "bare loop, ms", "ratio (median)"], rows))
    _common.keep("overhead", {"model": options.model, "targets": figures})
    return 0 if holds else 1


def pairs(path: Path) -> list[tuple[float, float]]:
    """(median of edge-bench, median of the bare loop) in ms, ROUNDS alternating times, on one session and one input."""
    from edge_bench import measure, model

    session = model.load(model.Job(path)).session
    session.set(measure._inputs(session, None))
    call = runtimes_own(session)
    loops = measure.loops_for(measure.warm_up(session.invoke, 0.5))
    effort = measure.Effort(min_runs=64, min_seconds=0.5, warmup_seconds=0)
    return [
        (stats.median_ms(measure.measure(session.invoke, loops, effort)), 1e3 * _common.median(bare(call)))
        for _ in range(ROUNDS)
    ]


def bare(call: Any) -> list[float]:
    """Seconds of each run within half a second."""
    clock, times = time.perf_counter, []
    end = clock() + 0.5
    while clock() < end:
        before = clock()
        call()
        times.append(clock() - before)
    return times


def runtimes_own(session: Any) -> Any:
    """The call that a user of the runtime would write, on the runtime's own object."""
    if hasattr(session, "_interpreter"):
        return session._interpreter.invoke
    if hasattr(session, "_binding"):
        return lambda: session._session.run_with_iobinding(session._binding)
    return session._method.execute


if __name__ == "__main__":
    sys.exit(main())
