"""An emulated phone: every recipe in the app against the host; the app's preprocessing, build, start and overhead.

    .venv/bin/python benchmarks/phone.py [--data cifar10.zip] [--models digits_cnn,resnet8] [--recipes fp32,int8]
                                         [--only cells,preprocessing,build,start,overhead,costs]

The app's code, its runtimes and their outputs are those of a phone; its times are not, so of them only ratios are
reported, and how long the host waits. Finished measurements are kept, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _common
import _device
import numpy as np
from PIL import Image

from pipeline import android, devices, registry
from pipeline.android import phone as app
from pipeline.core import to_json
from pipeline.datasets import _images
from pipeline.devices import adb
from pipeline.emulate import phone
from pipeline.errors import PipelineError
from pipeline.stages import measure
from pipeline.stages.export import Outcome, export
from pipeline.stages.plan import Plan, TrainingOptions
from pipeline.system.store import Store

sys.path.append(str(_common.ROOT))
from tests.android import golden, jvm

DEVICE = devices.find("phone-emulated")
BENCHED = Plan.resolve(targets="tflite", recipes="int8")
TARGETS = ("tflite", "executorch")
MODELS: dict[str, int | None] = {"digits_cnn": None, "resnet8": 2000}
"""Samples evaluated on phone and host; None for the whole test split."""
TIMED = "mobilenet_v3_small:width=2,classes=2"
"""Takes 1 ms or more on a machine like this one."""
PARTS = ("cells", "preprocessing", "build", "start", "overhead", "costs")
SNR_DB, SAME_TOP1, CLOSE, OWN_BYTES, BUILD_SECONDS, STARTS = 60, 0.995, 0.99, 300_000, 60, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--recipes", default=",".join(registry.names("recipes")))
    parser.add_argument("--data", type=Path, help="CIFAR-10, for resnet8")
    parser.add_argument("--only", default=",".join(PARTS), help="parts of the figures, the others stay as they are")
    options = parser.parse_args()
    build = Store(Path(os.environ.get("LASTMILE_BUILD", _common.ROOT / "build")))
    path = _common.RESULTS / "phone.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures.pop("machine", None)
    holds = True
    for part in options.only.split(","):
        told, good = globals()[part](build, options)
        figures[part] = {**figures.get(part, {}), **told}
        holds &= good
        _common.keep("phone", figures)
    return 0 if holds else 1


# -- outputs ----------------------------------------------------------------------------------------------------------


def cells(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Accuracy of every cell in the app, compared with the host's outputs on the same samples."""
    _app(build)
    phone.boot(build)
    figures: dict[str, Any] = {}
    good = True
    for name in options.models.split(","):
        data = options.data if name == "resnet8" else None
        plan = Plan.resolve(name, targets=TARGETS, recipes=options.recipes.split(","), data=data)
        outcomes = export(build, plan)
        failures = [f"{one.target} {one.recipe}: {one.reason}" for one in outcomes if one.status != "ok"]
        for device in (devices.find("local"), DEVICE):
            for result in measure.measure(build, plan, outcomes, device, measure.Options(samples=MODELS[name])):
                if result.failure:
                    print(result.failure, file=sys.stderr)
                    failures.append(str(result.failure))
        found = _device.beside_host(build, plan, [DEVICE.name])
        figures[name] = {"cells": found, "failures": failures}
        print(f"\n{name} on the phone\n{_device.table(found)}\n{len(failures)} not: {failures}")
        told = len(found) + len(failures)
        good &= _common.verdict(f"{name}: {told} of {len(outcomes)} cells are there, or say why", told == len(outcomes))
        for one in found:
            what = f"{name} {one['recipe']} {one['runtime']}"
            if one["recipe"] == "fp32":
                good &= _common.verdict(f"{what}: {one['snr_db']:.0f} dB of {SNR_DB}", one["snr_db"] >= SNR_DB)
            if one["recipe"] == "int8":
                share = one["same_top1_as_host"] / one["samples"]
                good &= _common.verdict(f"{what}: {share:.2%} same top-1 of {SAME_TOP1:.1%}", share >= SAME_TOP1)
    return figures, good


def preprocessing(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The pixels that the Kotlin preprocessing makes of the golden images, compared with Python's."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        images = golden.images()
        (place / "golden" / "images").mkdir(parents=True)
        (place / "golden" / "preprocessing.json").write_text(json.dumps(to_json(golden.PREPROCESSING)))
        for name, content in images.items():
            (place / "golden" / "images" / name).write_bytes(content)
        _junit(build, ["org.lastmile.inference.PreprocessingTest"], place, {})
        off = np.concatenate([
            np.abs(_images.decode(content, name, setting).astype(np.int16).ravel() - _pixels(place, name, index))
            for name, content in images.items()
            for index, setting in enumerate(golden.PREPROCESSING)
        ])  # fmt: skip
    equal, furthest = float((off == 0).mean()), int(off.max())
    good = _common.verdict(f"{len(images)} images: {equal:.4%} of values equal", equal >= CLOSE)
    good &= _common.verdict(f"none differs by more than one level ({furthest})", furthest <= 1)
    return {"images": len(images), "values": len(off), "equal": equal, "furthest_levels": furthest}, good


def _pixels(place: Path, name: str, setting: int) -> np.ndarray:
    return np.frombuffer((place / "golden" / f"{name}.{setting}.pixels").read_bytes(), np.uint8).astype(np.int16)


# -- what it weighs and costs ------------------------------------------------------------------------------------------


def build(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Seconds to build an APK from the downloads, and to build it again."""
    _app(build)  # which downloads
    with _device.scratch(build) as other:
        models = _models(_digits(other))
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            made = android.build(other, models, android.Options())
            seconds.append(time.perf_counter() - began)
    own = made.weight["code"] + made.weight["resources"]
    print(f"{made.size_bytes:,} bytes: {dict(made.weight)}; {seconds[0]:.1f} s, then {seconds[1]:.3f} s")
    good = _common.verdict(f"our own code and resources: {own:,} of {OWN_BYTES:,} bytes", own <= OWN_BYTES)
    good &= _common.verdict(f"from nothing: {seconds[0]:.1f} of {BUILD_SECONDS} s", seconds[0] <= BUILD_SECONDS)
    return {"size_bytes": made.size_bytes, "weight": dict(made.weight), "seconds": seconds}, good


def start(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """From the start of the process to a first digit recognised by two models, in Robolectric."""
    models = _models(_digits(build))
    found = [_figure(build, "StartupBenchmark", {}, models) for _ in range(STARTS)]
    medians = {key: _common.median([one[key] for one in found]) for key in found[0]}
    print(f"medians of {STARTS}: {medians}")
    return {"runs": found, "medians": medians}, True


def overhead(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The app's harness against a bare loop around the runtime's call, alternating on one loaded model."""
    data, once = _noise(build.root / "data" / "noise"), TrainingOptions(epochs=1)
    outcomes = export(build, Plan.resolve(TIMED, targets=TARGETS, data=data, training=once))
    figures: dict[str, Any] = {}
    good = True
    for outcome in outcomes:
        assert outcome.path is not None, outcome.reason
        pairs = _figure(build, "OverheadBenchmark", {"model": outcome.path})["pairs_ns"]
        ratio = _common.median([ours / bare for ours, bare in pairs])
        ms = _common.median([bare for _, bare in pairs]) / 1e6
        figures[outcome.target] = {"pairs_ns": pairs, "ratio": ratio, "bare_ms": ms}
        good &= _common.verdict(f"{outcome.target}: {ms:.2f} ms, of 1 ms or more", ms >= 1)
        good &= _common.verdict(f"{outcome.target}: within 1 % of a bare loop ({ratio:.4f})", abs(ratio - 1) <= 0.01)
    return {"model": TIMED, "targets": figures}, good


def _noise(folder: Path) -> Path:
    """Images of noise, for a model whose accuracy does not matter."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("one", "other"):
            home = folder / split / kind
            home.mkdir(parents=True, exist_ok=True)
            for index in range(10):
                Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8)).save(home / f"{index}.png")
    return folder


def costs(build: Store, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Seconds, adb calls and bytes of a first bench of a file, and of one with app and files already on the phone."""
    _app(build)
    phone.boot(build)
    figures: dict[str, Any] = {}
    with _device.scratch(build) as other:
        (other.root / "android").symlink_to((build.root / "android").resolve())
        outcomes = export(other, BENCHED)
        DEVICE.clean(other)
        for name in ("bench", "bench whose app and files are there"):
            figures[name] = _cost(name, lambda: _bench(other, outcomes))
    print(_device.costs(figures))
    last = figures["bench whose app and files are there"]
    return figures, _common.verdict(
        f"it sends less than 20,000 bytes ({last['sent_bytes']:,})", last["sent_bytes"] < 20_000
    )


def _cost(what: str, act: Callable[[], object]) -> dict[str, Any]:
    """The cost without cached facts of the phone, as in a new command."""
    adb.PHONES.clear()
    return _device.cost(what, act, lambda: next(iter(adb.PHONES.values())).traffic)


def _bench(build: Store, outcomes: Sequence[Outcome]) -> None:
    for result in measure.measure(build, BENCHED, outcomes, DEVICE, measure.Options(again=True)):
        if result.failure:
            raise result.failure


# -- the app -----------------------------------------------------------------------------------------------------------


def _app(build: Store) -> None:
    """The app in this store, as `inv devices.emulate --board phone` makes it."""
    models = _models(_digits(build))
    made = android.build(build, models, android.Options())
    app.make(build, models, made)


def _digits(build: Store) -> Sequence[Outcome]:
    return export(build, Plan.resolve(targets=TARGETS, recipes=["fp32", "int8"]))


def _models(outcomes: Sequence[Outcome]) -> list[Path]:
    return [outcome.path.parent for outcome in outcomes if outcome.path]


def _figure(build: Store, name: str, told: Mapping[str, Path], models: Sequence[Path] = ()) -> dict[str, Any]:
    """Runs a class of android-app/'s Benchmarks.kt in a JVM. Returns its result."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "output.json"
        _junit(build, [f"org.lastmile.app.{name}"], Path(folder), {**told, "output": path}, models)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _junit(
    build: Store, classes: list[str], place: Path, told: Mapping[str, Path], models: Sequence[Path] = ()
) -> None:
    done = jvm.junit(Store(build.root / "android-figures"), list(models), classes, place, told)
    if done.code != 0:
        raise PipelineError(f"{classes}: {done.out[-2000:]}{done.err[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
