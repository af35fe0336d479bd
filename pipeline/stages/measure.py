"""Measure: an artifact on a device: raw latencies there, and every evaluation sample's outputs from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from pipeline import devices, registry, stats
from pipeline.core import Accuracy, Artifact, Checkpoint, Device, Failure, Measurement, safe_file_name, to_json
from pipeline.errors import BadOption, Broken, StageFailed, Unreachable
from pipeline.results import predictions
from pipeline.stages import _chunks, train
from pipeline.stages import push as pushing
from pipeline.stages.export import FAILURE, Outcome
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

MANIFEST, PREDICTIONS = "measurement.json", "predictions.npz"
THE_WAY_THERE = (
    "address", "port", "identity", "known_hosts", "config", "folder", "space_bytes", "chunk_samples", "cool_down_c",
)  # fmt: skip
"""Keys of a device's table that change nothing about what is measured."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: of the runtime.
        samples: how many of the evaluation split's, of each class its share; None for all.
        min_runs, min_seconds: measuring ends when both are reached.
        time_limit: seconds that one call of edge-bench may take.
        again: measure also what is up to date.
    """

    threads: int = 1
    min_runs: int = 64
    min_seconds: float = 1.0
    time_limit: float = 3600.0
    again: bool = False
    samples: int | None = None

    def check(self) -> None:
        """
        Raises:
            BadOption: a number that cannot be.
        """
        seconds = self.min_seconds, self.time_limit
        if (
            self.threads < 1
            or self.min_runs < 1
            or (self.samples is not None and self.samples < 1)
            or seconds[0] < 0
            or seconds[1] <= 0
            or not all(map(isfinite, seconds))
        ):
            raise BadOption(
                "--threads, --min-runs and --samples are at least 1, --min-seconds 0, --time-limit more than 0"
            )


def bench(
    build: Store, job: train.Job, device: Device, outcomes: Sequence[Outcome], options: Options
) -> list[StageFailed]:
    """Measures every artifact of `outcomes` that the device can run and that is not measured yet, one after another:
    two at once would measure each other.

    Returns:
        What failed; each failure is also kept where its measurement would be.
    """
    checkpoint = train.ready(build, job)
    assert checkpoint is not None  # what was exported has one
    asked = [
        (artifact, path, key(build, checkpoint, device, artifact, options))
        for artifact, path in pushing.runnable(outcomes, device)
    ]
    todo = [one for one in asked if options.again or not ready(home(one[1], device, options.threads), one[2])]
    if not todo:
        return []
    failed: list[StageFailed] = []
    with store.lock(build, f"bench of {job.model} on {device.name}"):
        place = _Place(build, checkpoint, device, pushing.evaluation(build, checkpoint, options.samples), options)
        try:
            with registry.load("devices", device.kind).exclusive(build, device):
                for one in todo:
                    failed += _measured(place, *one)
        except Unreachable as error:  # says nothing about the artifact, and the next one would fail too
            failed.insert(0, error)
    return failed


def _measured(place: _Place, artifact: Artifact, path: Path, key: str) -> list[StageFailed]:
    """Measures an artifact; what failed, kept where its measurement would be.

    Raises:
        Unreachable: the device is gone.
    """
    folder = home(path, place.device, place.options.threads)
    try:
        measurement = _measure(place, artifact, path, key)
    except Unreachable:
        raise
    except StageFailed as error:
        failed = StageFailed(f"{artifact.target} {artifact.recipe} on {place.device.name}: {error}")
        store.write(folder / FAILURE, Failure("failed", str(error), "", key))
        say(f"  {failed}")
        return [failed]
    store.remove(folder / FAILURE)
    say(f"  {artifact.target} {artifact.recipe}: {_says(measurement)}")
    return []


def kept(outcomes: Sequence[Outcome], device: Device, threads: int) -> list[Measurement]:
    """The measurements on a device of all that it can run of `outcomes`."""
    homes = [home(path, device, threads) for _, path in pushing.runnable(outcomes, device)]
    return [found for found in (store.read(Measurement, home / MANIFEST) for home in homes) if found is not None]


def home(path: Path, device: Device, threads: int) -> Path:
    """Where the measurement of the file at `path` is kept: each number of threads has a place of its own."""
    return store.threads_folder(path.parent / device.name, threads)


def ready(folder: Path, key: str) -> bool:
    """Whether a device's folder holds a whole measurement with this key."""
    measurement = store.read_or_warn(Measurement, folder / MANIFEST)
    if measurement is None or measurement.key != key:
        return False
    predictions = folder / safe_file_name(measurement.accuracy.predictions)
    if predictions.is_file() and store.sha256(predictions) == measurement.accuracy.predictions_sha256:
        return True
    say(f"{predictions} is not what its manifest says; measured anew")
    return False


def key(build: Store, checkpoint: Checkpoint, device: Device, artifact: Artifact, options: Options) -> str:
    """Hash of all that a measurement is of: what was measured, on which samples, by what, where and how."""
    runtime = devices.runtime(device, artifact.target)
    assert runtime is not None  # the caller asked whether the device can run it
    by = registry.load("devices", device.kind).identity(build, device, runtime)
    how = options.threads, options.min_runs, options.min_seconds, options.samples
    return store.digest([artifact.sha256, checkpoint.dataset_sha256, runtime, by, to_json(_itself(device)), how])


def _itself(device: Device) -> Device:
    """A device without the way there: it may get another address and is the same."""
    return replace(device, options={key: value for key, value in device.options.items() if key not in THE_WAY_THERE})


@dataclass(frozen=True)
class _Place:
    """Where and how every artifact of one bench is measured.

    Attributes:
        images: the evaluation split's file.
    """

    build: Store
    checkpoint: Checkpoint
    device: Device
    images: Path
    options: Options


def _measure(place: _Place, artifact: Artifact, path: Path, key: str) -> Measurement:
    """`edge-bench run`, alone, for times and memory; then `predict`, chunk by chunk, for every sample's outputs."""
    folder = home(path, place.device, place.options.threads)
    folder.mkdir(parents=True, exist_ok=True)
    runtime = devices.runtime(place.device, artifact.target)
    assert runtime is not None  # the caller asked whether the device can run it
    kind = registry.load("devices", place.device.kind)
    kind.setup(place.build, place.device, runtime)
    kind.push(place.build, place.device, [path, place.images])
    options = place.options

    def edge_bench(words: Sequence[str | Path]) -> dict[str, Any]:
        started_at = datetime.now(UTC).isoformat(timespec="seconds")  # a board's clock may be years off
        done = kind.call(place.build, place.device, runtime, words, options.time_limit)
        if done.code != 0:
            raise StageFailed(done.reason.removeprefix("edge-bench: "))
        try:
            value: dict[str, Any] = json.loads(done.out)
        except ValueError as error:
            mends = f"inv devices.clean --device {place.device.name}, then the same command again"
            raise StageFailed(f"edge-bench ended there without a result: {mends}") from error
        if value["artifact_sha256"] != artifact.sha256:
            raise Broken(f"{path} changed while it was measured")
        return {**value, "started_at": started_at}

    if options.again:
        _chunks.forget(folder)
    run = _chunks.run(folder, key, run_words(artifact, path, place.images, runtime, options), edge_bench)
    size = place.device.options.get("chunk_samples", kind.CHUNK)
    spans = _chunks.spans(len(pushing.labels(place.images)), size)
    words = ["predict", path, *_common(artifact, place.images, runtime, options)]
    parts = list(_chunks.predict(folder, key, words, spans, edge_bench))
    with store.atomic(folder / PREDICTIONS) as temporary:
        _chunks.join(parts, temporary)
        sha256 = store.sha256(temporary)
    accuracy = _accuracy(place, folder / PREDICTIONS, sha256)
    measurement = _noun(artifact, place.device, run, accuracy, key)
    store.write(folder / MANIFEST, measurement)
    _chunks.forget(folder)
    return measurement


def run_words(artifact: Artifact, path: Path, images: Path, runtime: str, options: Options) -> list[str | Path]:
    """The call of edge-bench that times a file. A count depends on these words too: their length moves what lies in
    memory after them (benchmarks/README.md)."""
    bounds = ["--min-runs", str(options.min_runs), "--min-seconds", str(options.min_seconds)]
    return ["run", path, *_common(artifact, images, runtime, options), *bounds]


def _common(artifact: Artifact, images: Path, runtime: str, options: Options) -> list[str | Path]:
    words: list[str | Path] = ["--inputs", images, "--runtime", runtime, "--threads", str(options.threads)]
    if artifact.inputs[0].layout:
        words += ["--layout", artifact.inputs[0].layout]
    return words


def _accuracy(place: _Place, outputs: Path, sha256: str) -> Accuracy:
    """The metric over a file of predictions."""
    import numpy as np

    with np.load(outputs, allow_pickle=False) as kept:
        right = stats.top1(kept["output_0"]) == pushing.labels(place.images)
    checkpoint = place.checkpoint
    return Accuracy(
        dataset=checkpoint.spec.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        split="test",
        samples=len(right),
        metric=checkpoint.spec.metric,
        value=float(right.mean()),
        reference=checkpoint.accuracy if len(right) == checkpoint.samples else _reference(place, len(right)),
        predictions=outputs.name,
        predictions_sha256=sha256,
    )


def _reference(place: _Place, samples: int) -> float:
    """The float model's metric over a part of the split."""
    checkpoint = place.checkpoint
    folder = place.build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    chosen = stats.stratified(labels, samples)
    return float((stats.top1(outputs[0][chosen]) == labels[chosen]).mean())


def _noun(artifact: Artifact, device: Device, run: Mapping[str, Any], accuracy: Accuracy, key: str) -> Measurement:
    """What edge-bench said, under the names it is kept by."""
    facts = {"name": device.name, "kind": device.kind, "emulated": device.emulated, **run["device"]}
    facts["frequency_hz"] = run["frequency_hz"]
    if "clock" in device.options:
        facts["clock"] = device.options["clock"]

    def pairs(name: str) -> tuple[tuple[int, int], ...]:
        return tuple((loops, ns) for loops, ns in run[name])

    return Measurement(
        artifact_sha256=artifact.sha256,
        model=artifact.model,
        framework=artifact.framework,
        target=artifact.target,
        recipe=artifact.recipe,
        device=facts,
        runtime={**run["runtime"], "refills_input": run["refills_input"]},
        size_bytes=artifact.size_bytes,
        load_ns=run["load_ns"],
        first_run_ns=run["first_run_ns"],
        warmup=pairs("warmup"),
        runs=pairs("runs"),
        temperature_c=tuple(run["temperature_c"]),
        throttled=_throttled(run.get("throttled_before"), run["throttled"]),
        load_average=tuple(run["load_average"]),
        peak_rss_bytes=run["peak_rss_bytes"],
        rss_before_load_bytes=run["rss_before_load_bytes"],
        accuracy=accuracy,
        started_at=run["started_at"],
        key=key,
        tools=run["tools"],
    )


def _throttled(before: str | None, after: str | None) -> bool | None:
    """Whether the clock was slowed during the run: it is now, or a bit that stays until the next boot is new.

    Source: the vcgencmd manual: bits 0 to 3 are what is now, bits 16 to 19 the same since boot.
    """
    if after is None:
        return None
    then, now = int(before or "0x0", 16), int(after, 16)
    return bool((then | now) & 0xF or (now & ~then) >> 16)


def _says(measurement: Measurement) -> str:
    """A measurement in a line; of an emulated device no latency, but its instructions where they are counted."""
    from pipeline import formatting

    top1 = f"top-1 {measurement.accuracy.value:.2%} of {measurement.accuracy.samples}"
    latency = stats.latency(measurement.runs)
    if measurement.device["emulated"]:
        if measurement.device.get("clock") != "instructions":
            return top1
        return f"{formatting.instructions(latency.p50 * 1e6, latency.p99 * 1e6)}, {top1}"  # one ns of its time is one
    return f"p50 {latency.p50:.4g} ms, p99 {latency.p99:.4g} ms, {top1}"
