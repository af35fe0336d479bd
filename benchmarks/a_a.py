"""How often our comparison calls two measurements of the same file different, and how much processes differ.

    .venv/bin/python benchmarks/a_a.py [--model digits_cnn] [--recipe int8] [--rounds 36]

One file of each target stands for four cells that are measured alternately (A B C D, A B C D, …), one process each, as
`inv bench` measures four files. Each two of them are compared over each five successive rounds with
`stats.latency_ratio`: any difference that it finds is a false alarm. Bound: at most 5 % of the comparisons at 95 %.
Run it with nothing else on the machine: 36 rounds take about 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import _common

from pipeline import devices, stats
from pipeline.core import Process
from pipeline.results import warnings
from pipeline.stages import measure, train
from pipeline.stages import push as pushing
from pipeline.stages.export import export, raise_if_failed
from pipeline.stages.plan import Plan
from pipeline.system.store import Store

TARGETS = ("tflite", "executorch", "onnx")
CELLS = 4
FALSE_ALARMS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn")
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=36)
    options = parser.parse_args()
    measured = measure_all(options)
    figures = {target: figures_of(cells) for target, cells in measured.items()}
    print(_common.table(
        ["runtime", "p50, ms", "spread of 5 processes (median)", "IQR within a process (median)",
         "comparisons", "false alarms", "half interval of a ratio (median)"],
        [
            [target, f"{f['p50_ms']:.4g}", f"{f['spread']:.1%}", f"{f['iqr']:.1%}", f["comparisons"],
             f"{f['false_alarms'] / f['comparisons']:.1%}", f"{f['half_interval']:.1%}"]
            for target, f in figures.items()
        ],
    ))  # fmt: skip
    false, count = (sum(f[key] for f in figures.values()) for key in ("false_alarms", "comparisons"))
    share = false / count
    holds = _common.verdict(f"at most {FALSE_ALARMS:.0%} false alarms ({share:.1%} of {count})", share <= FALSE_ALARMS)
    medians = {
        target: [[round(1e6 * stats.median_ms(process.runs)) for process in cell] for cell in cells]
        for target, cells in measured.items()
    }
    asked = {"model": options.model, "recipe": options.recipe, "rounds": options.rounds}
    _common.keep("a_a", {**asked, "targets": figures, "medians_ns": medians})
    return 0 if holds else 1


def measure_all(options: Any) -> dict[str, list[list[Process]]]:
    """The processes of every cell of each target, one for each round."""
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    device = devices.find("local")
    plan = Plan.resolve(
        options.model, targets=TARGETS, recipes=options.recipe, devices=[device.name], data=options.data
    )
    outcomes = export(build, plan)
    raise_if_failed(outcomes)
    (job,) = plan.jobs
    checkpoint = train.ready(build, job)
    assert checkpoint is not None  # it was exported
    images = pushing.evaluation(build, job, checkpoint, None)
    files = pushing.runnable(plan, job, outcomes, device)
    found: dict[str, list[list[Process]]] = {one.artifact.target: [[] for _ in range(CELLS)] for one in files}
    for round_ in range(options.rounds):
        for one in files:
            words = measure.run_words(one, images, 1, measure.Options(), measure.PROCESSES)
            for cell in found[one.artifact.target]:
                started_at = datetime.now(UTC).isoformat(timespec="seconds")
                done = device.call(build, one.runtime, words, 600)
                if done.code != 0:
                    raise SystemExit(done.reason)
                cell.append(measure.of_process({**json.loads(done.out), "started_at": started_at}))
        print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
    return found


def figures_of(cells: Sequence[Sequence[Process]]) -> dict[str, Any]:
    """How much the processes of one target differ, and the comparisons of its cells."""
    starts = range(len(cells[0]) - measure.PROCESSES + 1)
    windows = [[cell[start : start + measure.PROCESSES] for cell in cells] for start in starts]
    ratios = [
        ratio
        for window in windows
        for first, second in combinations(window, 2)
        if (ratio := stats.latency_ratio(first, second)) is not None
    ]
    spreads = [stats.latency(cell).spread or 0.0 for window in windows for cell in window]
    each = [process for cell in cells for process in cell]
    return {
        "p50_ms": stats.latency(each).p50,
        "clock_ns": stats.latency(each).clock_ns,
        "spread": statistics.median(spreads),
        "iqr": statistics.median(warnings.interquartile_range(process.runs) for process in each),
        "comparisons": len(ratios),
        "false_alarms": sum(not low <= 1 <= high for _, (low, high) in ratios),
        "half_interval": statistics.median((high - low) / 2 for _, (low, high) in ratios),
    }


if __name__ == "__main__":
    sys.exit(main())
