"""The whole matrix of one model in one command, against the same exports one by one in new processes.

    .venv/bin/python benchmarks/matrix.py [--model NAME] [--data PATH] [--framework all]

One by one is how the converters' tutorials do it: each process loads the weights, traces the model, quantizes it if the
recipe is static, and converts. The single command also checks every file. CPU seconds, which other work on the machine
hardly changes, are reported beside wall-clock seconds. Bound: at most 0.6 of the time.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common

from pipeline import sources
from pipeline.core import PIXELS
from pipeline.stages import train
from pipeline.stages.export import export
from pipeline.stages.plan import Plan
from pipeline.system.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=sources.DEFAULT)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--framework", default="torch", help="one, or all")
    parser.add_argument("--one", metavar="FRAMEWORK:TARGET:RECIPE", help="used internally: do one export")
    options = parser.parse_args()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    more = {"data": options.data, "recipes": "all"}
    plan = Plan.resolve(options.model, frameworks=options.framework, **more)
    if options.one:
        name, target, recipe = options.one.split(":")
        one(build, Plan.resolve(options.model, frameworks=name, targets=target, recipes=recipe, data=options.data))
        return 0
    checkpoints = [train.ensure(build, job) for job in plan.jobs]
    with tempfile.TemporaryDirectory() as folder:
        fresh = Store(Path(folder) / "build")
        for checkpoint in checkpoints:
            name, framework = checkpoint.spec.name, checkpoint.framework
            shutil.copytree(build.checkpoint(name, framework), fresh.checkpoint(name, framework))
        started = clocks()
        outcomes = export(fresh, plan)
        together = since(started)
        print(f"together: {together[0]:.1f} s, {together[1]:.1f} s of CPU time", file=sys.stderr)
    cells = [(o.framework, o.target, o.recipe) for o in outcomes if o.status == "ok"]
    each = {cell: alone(*cell) for cell in cells}
    apart = [sum(taken[i] for taken in each.values()) for i in (0, 1)]
    ratios = [ours / theirs for ours, theirs in zip(together, apart, strict=True)]
    print(_common.table(["how", "seconds", "CPU seconds"], [
        [f"{len(cells)} exports in one command, checked", *(f"{value:.1f}" for value in together)],
        [f"{len(cells)} exports one by one, unchecked", *(f"{value:.1f}" for value in apart)],
        ["ratio", *(f"{value:.2f}" for value in ratios)],
    ]))  # fmt: skip
    holds = _common.verdict("one command takes at most 0.6 of one by one", ratios[0] <= 0.6)
    seconds = {" ".join(cell): value for cell, value in each.items()}
    _common.keep(
        f"matrix_{name}" + ("" if options.framework == "torch" else f"_{options.framework}"),
        {"together_s": together, "one_by_one_s": seconds, "ratios": ratios},
    )
    return 0 if holds else 1


def clocks() -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process and the child processes that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)


def since(started: tuple[float, float]) -> tuple[float, float]:
    wall, used = clocks()
    return wall - started[0], used - started[1]


def alone(framework: str, target: str, recipe: str) -> tuple[float, float]:
    """Seconds of one export in its own process, as `clocks`."""
    started = clocks()
    subprocess.run(
        [sys.executable, *sys.argv, "--one", f"{framework}:{target}:{recipe}"], check=True, capture_output=True
    )
    taken = since(started)
    print(f"{framework} {target} {recipe}: {taken[0]:.1f} s, {taken[1]:.1f} s of CPU time", file=sys.stderr)
    return taken


def one(build: Store, plan: Plan) -> None:
    """Trace, quantize if the recipe is static, convert: nothing is shared with another export."""
    (job,), (recipe,), (target,) = plan.jobs, plan.recipes, plan.targets
    checkpoint = train.ready(build, job)
    assert checkpoint is not None
    framework = job.framework.module
    with tempfile.TemporaryDirectory() as folder:
        captured, quantized = Path(folder) / "float", Path(folder) / "static"
        weights = build.checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.weights
        model = train.model_of(checkpoint, job)
        framework.capture(model, weights, captured)
        if recipe.static:
            images = train.split_of(checkpoint, job, "train").inputs(range(recipe.calibration))
            framework.quantize(captured, PIXELS, images, quantized, recipe)
        source = framework.source(model, weights, captured, quantized if recipe.static else None)
        target.module.export(source, checkpoint.spec, recipe, Path(folder) / f"model{target.module.SUFFIX}")


if __name__ == "__main__":
    sys.exit(main())
