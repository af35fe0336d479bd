"""An emulated Raspberry Pi: every recipe and runtime compared with the host, and the cost of setup, push and bench.

    .venv/bin/python benchmarks/boards.py --board pi4 --data cifar10.zip [--only cells,repeat,depends,costs]
                                                  [--models resnet8] [--recipes fp32,int8] [--samples 50]

The board's clock counts instructions, so counts are the same on every host; wall-clock times are this host's. Finished
measurements are kept, so an interrupted run resumes. Counts are also written to benchmarks/instructions.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
import _device
import numpy as np

from pipeline import devices, registry, stats
from pipeline.core import Measurement
from pipeline.devices import BoundDevice, _ssh
from pipeline.emulate import pi
from pipeline.results import instruction_budget
from pipeline.stages import measure, train
from pipeline.stages import push as pushing
from pipeline.stages.export import Outcome, export
from pipeline.stages.plan import Job, Plan, TrainingOptions, plugins
from pipeline.system import store
from pipeline.system.store import Store

TARGETS = ("tflite", "onnx", "executorch")
MODELS: dict[str, int | None] = {"digits_cnn": None, "resnet8": 500}
"""Samples evaluated on board and host; None for the whole test split."""
Plans = Sequence[tuple[Plan, int | None]]
"""What is trained and exported, and how many samples are evaluated."""
PARTS = ("cells", "repeat", "depends", "costs")
OPTIONS = measure.Options()
LONGER = measure.Options(min_seconds=0.5000000001)
"""The same effort in a longer argument, which shifts the memory after the arguments."""
COUNTS = Path(__file__).parent / "instructions.json"
REPEATS = 0.001
TRIPS, BYTES = 4, 40_000
"""The bounds in docs/raspberry-pi.md for a bench with its files already on the board."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", choices=list(pi.BOARDS), required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--recipes", default=",".join(registry.names("recipes")))
    parser.add_argument("--data", type=Path, help="CIFAR-10, for resnet8")
    parser.add_argument("--samples", type=int, help="evaluated samples, if those of MODELS take too long")
    parser.add_argument("--only", default=",".join(PARTS), help="parts of the figures, the others stay as they are")
    options = parser.parse_args()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    pi.boot(build, options.board)
    plans = {
        name: Plan.resolve(
            name, targets=TARGETS, recipes=options.recipes.split(","), data=options.data if name == "resnet8" else None
        )
        for name in options.models.split(",")
    }
    samples = {name: options.samples or MODELS[name] for name in plans}
    path = _common.RESULTS / f"boards_{options.board}.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures.pop("machine", None)
    holds = True
    for part in options.only.split(","):
        told, good = globals()[part](build, options.board, [(plan, samples[name]) for name, plan in plans.items()])
        figures[part] = {**figures.get(part, {}), **told}
        holds &= good
        _common.keep(f"boards_{options.board}", figures)
    return 0 if holds else 1


# -- every recipe and runtime ------------------------------------------------------------------------------------------


def cells(build: Store, board: str, plans: Plans) -> tuple[dict[str, Any], bool]:
    """Size, instructions, memory and accuracy of every cell, compared with the host's outputs on the same samples."""
    figures: dict[str, Any] = {}
    for plan, samples in plans:
        name, options = plan.model.spec.name, measure.Options(samples=samples)
        outcomes = export(build, plan)
        for device in (devices.find("local"), *_devices(board)):
            results = measure.measure(build, plan, outcomes, device, options)
            for result in results:
                if result.failure:
                    print(result.failure, file=sys.stderr)
            if device.name != "local":
                found = [result.measurement for result in results if result.measurement]
                instruction_budget.record(COUNTS, [instruction_budget.count(one) for one in found])
        figures[name] = _device.beside_host(build, plan, [device.name for device in _devices(board)])
        print(f"\n{name} on {board}\n{_device.table(figures[name])}")
    return figures, True


def _devices(board: str) -> list[BoundDevice]:
    return [devices.find(f"{board}-emulated"), devices.find(f"{board}-emulated-tflite-runtime")]


# -- what a count depends on -------------------------------------------------------------------------------------------


def repeat(build: Store, board: str, plans: Plans) -> tuple[dict[str, Any], bool]:
    """Every recorded count against the count after another boot."""
    pi.stop(build, board)
    pi.boot(build, board)
    recorded = {count.name: count.instructions for count in instruction_budget.read(COUNTS).counts}
    figures: dict[str, Any] = {}
    good = True
    for plan, samples in plans:
        (job,), model = plan.jobs, plan.model.spec.name
        outcomes = export(build, plan)
        images = _images(build, job, samples)
        changes = {}
        for device in _devices(board):
            for one in pushing.runnable(plan, job, outcomes, device):
                found = store.read(Measurement, measure.home(one.path, device.name, 1) / measure.MANIFEST)
                assert found is not None, f"{one.path} is not measured on {device.name}: run the part cells first"
                before = recorded[instruction_budget.count(found).name]
                now = _count(build, device, one, images)
                name = f"{one.artifact.recipe} {found.runtime['name']}"
                changes[name] = (before, now, now / before - 1)
                print(f"{model} {name}: {before:,} {now:,} {changes[name][2]:+.4%}")
        worst = max(abs(change) for _, _, change in changes.values())
        figures[model] = {"counts": changes, "worst": worst, "median": _common.median(_shares(changes))}
        good &= _common.verdict(f"{model}: over two boots within {REPEATS:.1%} ({worst:.4%})", worst <= REPEATS)
    return figures, good


def depends(build: Store, board: str, plans: Plans) -> tuple[dict[str, Any], bool]:
    """Counts of digits_cnn against those with another seed, with other images and with a longer argument."""
    device = devices.find(f"{board}-emulated")
    figures: dict[str, Any] = {}
    with _device.scratch(build) as other:
        plan = next(plan for plan, _ in plans if plan.model.spec.name == "digits_cnn")
        reseeded = replace(plan, training=TrainingOptions(seed=1))
        first, second = export(build, plan), export(other, reseeded)
        (job,), (other_job,) = plan.jobs, reseeded.jobs
        images = _images(build, job, None)
        variants = {"another image": np.load(images)[1:2], "a black image": np.load(images)[:1] * 0}
        for name, variant in variants.items():
            np.save(other.root / f"{name}.npy", variant)
        for one, trained in zip(
            pushing.runnable(plan, job, first, device),
            pushing.runnable(reseeded, other_job, second, device),
            strict=True,
        ):
            artifact = one.artifact
            counts = {"as recorded": _count(build, device, one, images)}
            counts["another seed"] = _count(build, device, trained, images)
            for name in variants:
                counts[name] = _count(build, device, one, other.root / f"{name}.npy")
            counts["a longer call"] = _count(build, device, one, images, LONGER)
            changes = {name: count / counts["as recorded"] - 1 for name, count in counts.items()}
            figures[f"{artifact.recipe} {artifact.target}"] = {"counts": counts, "changes": changes}
            print(f"{artifact.recipe} {artifact.target}: {', '.join(f'{n} {c:+.3%}' for n, c in changes.items())}")
    others = ("another seed", *variants, "a longer call")
    worst = {name: max(abs(f["changes"][name]) for f in figures.values()) for name in others}
    good = _common.verdict(
        f"weights, images and arguments change a count by less than half of what the budget allows ({worst})",
        max(worst.values()) < instruction_budget.GROWTH / 2,
    )
    return {"digits_cnn": figures, "worst": worst}, good


def _count(
    build: Store,
    device: BoundDevice,
    one: pushing.Runnable,
    images: Path,
    options: measure.Options = OPTIONS,
) -> int:
    """The median count of one file on its first image, as a bench counts it."""
    device.setup(build, one.runtime)
    device.push(build, [one.path, images])
    words = measure.run_words(one, images, 1, options, processes=1)
    done = device.call(build, one.runtime, words, options.time_limit)
    if done.code != 0:
        raise SystemExit(done.reason)
    return round(stats.median_ms(json.loads(done.out)["runs"]) * 1e6)


def _images(build: Store, job: Job, samples: int | None) -> Path:
    checkpoint = train.ready(build, job)
    assert checkpoint is not None
    return pushing.evaluation(build, job, checkpoint, samples)


def _shares(changes: dict[str, tuple[int, int, float]]) -> list[float]:
    return [abs(change) for _, _, change in changes.values()]


# -- what it costs -----------------------------------------------------------------------------------------------------


def costs(build: Store, board: str, plans: Plans) -> tuple[dict[str, Any], bool]:
    """Wall-clock seconds, round trips and bytes of setup, push and bench, in a new folder on the board."""
    device = devices.find(f"{board}-emulated")
    device = devices.bound(replace(device.device, options={**device.options, "folder": "~/.lastmile-benchmark"}))
    plan = Plan.resolve(targets="tflite", recipes="int8")
    figures: dict[str, Any] = {}
    with _device.scratch(build) as other:
        device.clean(other)
        outcomes = export(other, plan)
        file = other.root / "20MB.bin"
        file.write_bytes(os.urandom(20_000_000))
        for target in plugins("targets", TARGETS):
            runtime = device.runtime(target)
            for name in ("set-up from nothing", "second set-up"):
                what = f"{name}, {runtime}"
                figures[what] = _cost(what, lambda r=runtime: device.setup(other, r))
        for name in ("push of 20 MB", "second push"):
            figures[name] = _cost(name, lambda: device.push(other, [file]))
        for name in ("bench", "bench whose files are there"):
            figures[name] = _cost(name, lambda: _bench(other, plan, device, outcomes))
        device.clean(other)
        _ssh.close_all()
    print(_device.costs(figures))
    last, push = figures["bench whose files are there"], figures["second push"]
    good = _common.verdict(
        f"a bench with its files on the board: {TRIPS} round trips ({last['trips']})", last["trips"] == TRIPS
    )
    good &= _common.verdict(
        f"… and sends less than {BYTES:,} bytes ({last['sent_bytes']:,})", last["sent_bytes"] < BYTES
    )
    good &= _common.verdict(f"a second push sends no file ({push['sent_bytes']:,} bytes)", push["sent_bytes"] < 10_000)
    return figures, good


def _cost(what: str, act: Callable[[], object]) -> dict[str, Any]:
    """The cost with a new connection, as in a new command."""
    _ssh.close_all()
    return _device.cost(what, act, lambda: next(iter(_ssh.LINKS.values())).traffic)


def _bench(build: Store, plan: Plan, device: BoundDevice, outcomes: Sequence[Outcome]) -> None:
    for result in measure.measure(build, plan, outcomes, device, measure.Options(again=True)):
        if result.failure:
            raise result.failure


if __name__ == "__main__":
    sys.exit(main())
