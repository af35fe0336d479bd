"""Measure: run an artifact on a device for raw latencies, memory, and the outputs of every evaluation sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from pipeline import formatting, stats
from pipeline.core import Accuracy, Artifact, Checkpoint, Device, Failure, Measurement, safe_file_name, to_json
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken, StageFailed, Unreachable
from pipeline.results import predictions
from pipeline.stages import _chunks, _threads, train
from pipeline.stages import push as pushing
from pipeline.stages.export import FAILURE, Outcome, export, raise_if_failed
from pipeline.stages.plan import Job, Plan
from pipeline.stages.push import Runnable
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

MANIFEST, PREDICTIONS = "measurement.json", "predictions.npz"


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: numbers of threads to measure with; empty for 1 to all cores of the device.
        samples: size of the evaluation subset (see `stats.stratified`); None for the whole split.
        min_runs, min_seconds: a measurement ends when both are reached.
        time_limit: seconds that one call of edge-bench may take.
        again: repeat up-to-date measurements.
    """

    threads: tuple[int, ...] = (1,)
    min_runs: int = 64
    min_seconds: float = 1.0
    time_limit: float = 3600.0
    again: bool = False
    samples: int | None = None

    def check(self) -> None:
        """
        Raises:
            BadOption: a value is out of range.
        """
        seconds = self.min_seconds, self.time_limit
        least = min([*self.threads, self.min_runs, 1 if self.samples is None else self.samples])
        if least < 1 or seconds[0] < 0 or seconds[1] <= 0 or not all(map(isfinite, seconds)):
            raise BadOption(
                "--threads, --min-runs and --samples must be at least 1, --min-seconds at least 0, --time-limit above 0"
            )


@dataclass(frozen=True)
class Result:
    """One artifact on one device with one number of threads.

    Attributes:
        measurement: what was measured now or before; None where it failed.
        failure: why the last run failed.
    """

    artifact: Artifact
    device: str
    threads: int
    measurement: Measurement | None = None
    failure: StageFailed | None = None


def bench(build: Store, plan: Plan, options: Options = Options()) -> list[Result]:
    """Exports what is missing of a plan, then measures it on the plan's devices.

    Raises:
        StageFailed: an export failed.
        BadOption: an option is invalid, or a device has fewer cores than threads were asked for.
    """
    options.check()
    threads = {device.name: _threads.on(build, device, plan.targets, options.threads) for device in plan.devices}
    outcomes = export(build, plan)
    raise_if_failed(outcomes)
    return [
        result
        for device in plan.devices
        for result in measure(build, plan, outcomes, device, replace(options, threads=threads[device.name]))
    ]


def measure(
    build: Store, plan: Plan, outcomes: Sequence[Outcome], device: BoundDevice, options: Options
) -> list[Result]:
    """Measures every artifact that the device can run and that is not measured yet. One at a time: two at once would
    disturb each other.

    Args:
        options: with the numbers of threads; at least one.
    """
    return [
        result
        for job in plan.jobs
        for number in options.threads
        for result in _of_job(_Bench(build, plan, job, device, number, options), outcomes)
    ]


@dataclass(frozen=True)
class _Bench:
    """The artifacts of one framework on one device with one number of threads."""

    build: Store
    plan: Plan
    job: Job
    device: BoundDevice
    threads: int
    options: Options

    def home(self, path: Path) -> Path:
        """The folder of the measurement of the file at `path`."""
        return home(path, self.device.name, self.threads)


def _of_job(bench: _Bench, outcomes: Sequence[Outcome]) -> list[Result]:
    build, device = bench.build, bench.device
    checkpoint = train.ready(build, bench.job)
    assert checkpoint is not None  # it was exported
    keyed = [
        (one, key(build, checkpoint, device, one, bench.threads, bench.options))
        for one in pushing.runnable(bench.plan, bench.job, outcomes, device)
    ]
    todo = [(one, key) for one, key in keyed if bench.options.again or not ready(bench.home(one.path), key)]
    failed: dict[Path, StageFailed] = {}
    if todo:
        with store.lock(build, f"bench of {bench.plan.model.spec.name} on {device.name}"):
            images = pushing.evaluation(build, bench.job, checkpoint, bench.options.samples)
            run = _Run(bench, checkpoint, images)
            try:
                with device.exclusive(build):
                    for one, key_ in todo:
                        failure = _measured(run, one, key_)
                        if failure:
                            failed[one.path] = failure
            except Unreachable as error:  # the device failed, not the artifact; the other artifacts would fail too
                failed |= {one.path: error for one, key in todo if not ready(bench.home(one.path), key)}
    return [_result(bench, one, failed.get(one.path)) for one, _ in keyed]


def _result(bench: _Bench, one: Runnable, failure: StageFailed | None) -> Result:
    found = None if failure else store.read(Measurement, bench.home(one.path) / MANIFEST)
    return Result(one.artifact, bench.device.name, bench.threads, found, failure)


def _measured(run: _Run, one: Runnable, key: str) -> StageFailed | None:
    """Measures an artifact. A failure is also written to the folder of the measurement.

    Raises:
        Unreachable: the connection to the device was lost.
    """
    folder, artifact = run.bench.home(one.path), one.artifact
    try:
        measurement = _measure(run, one, key)
    except Unreachable:
        raise
    except StageFailed as error:
        failed = StageFailed(f"{artifact.target} {artifact.recipe} on {run.bench.device.name}: {error}")
        store.write(folder / FAILURE, Failure("failed", str(error), "", key))
        say(f"  {failed}")
        return failed
    store.remove(folder / FAILURE)
    say(f"  {artifact.target} {artifact.recipe}: {_line(measurement)}")
    return None


def home(path: Path, device: str, threads: int) -> Path:
    """The folder of the measurement of the file at `path`: each number of threads has its own."""
    return store.threads_folder(path.parent / device, threads)


def ready(folder: Path, key: str) -> bool:
    """Whether a folder contains an intact measurement with this cache key."""
    measurement = store.read_or_warn(Measurement, folder / MANIFEST)
    if measurement is None or measurement.key != key:
        return False
    predictions = folder / safe_file_name(measurement.accuracy.predictions)
    if predictions.is_file() and store.sha256(predictions) == measurement.accuracy.predictions_sha256:
        return True
    say(f"{predictions} does not match its manifest: measuring again")
    return False


def key(
    build: Store, checkpoint: Checkpoint, device: BoundDevice, one: Runnable, threads: int, options: Options
) -> str:
    """Cache key of a measurement: the file, the samples, what measures, where and how."""
    by = device.identity(build, one.runtime)
    how = threads, options.min_runs, options.min_seconds, options.samples
    of = one.artifact.sha256, checkpoint.dataset_sha256, one.runtime
    return store.digest([*of, by, to_json(_without_route(device)), how])


def _without_route(device: BoundDevice) -> Device:
    """The device without its address: a new address does not make it another device."""
    route = {"chunk_samples", *device.kind.ROUTE}
    return replace(device.device, options={key: value for key, value in device.options.items() if key not in route})


@dataclass(frozen=True)
class _Run:
    """What every artifact of one bench is measured with.

    Attributes:
        images: the evaluation split's file.
    """

    bench: _Bench
    checkpoint: Checkpoint
    images: Path


def _measure(run: _Run, one: Runnable, key: str) -> Measurement:
    """`edge-bench run` for times and memory; then `predict`, in chunks, for every sample's outputs."""
    bench, artifact = run.bench, one.artifact
    build, device, options = bench.build, bench.device, bench.options
    folder = bench.home(one.path)
    folder.mkdir(parents=True, exist_ok=True)
    device.setup(build, one.runtime)
    device.push(build, [one.path, run.images])

    def edge_bench(words: Sequence[str | Path]) -> dict[str, Any]:
        started_at = datetime.now(UTC).isoformat(timespec="seconds")  # a board's clock may be years off
        done = device.call(build, one.runtime, words, options.time_limit)
        if done.code != 0:
            raise StageFailed(done.reason.removeprefix("edge-bench: "))
        try:
            value: dict[str, Any] = json.loads(done.out)
        except ValueError as error:
            fix = f"run inv devices.clean --device {device.name}, then this command again"
            raise StageFailed(f"edge-bench on {device.name} ended without a result: {fix}") from error
        if value["artifact_sha256"] != artifact.sha256:
            raise Broken(f"{one.path} changed while it was measured")
        return {**value, "started_at": started_at}

    if options.again:
        _chunks.forget(folder)
    found = _chunks.run(folder, key, run_words(one, run.images, bench.threads, options), edge_bench)
    size = device.options.get("chunk_samples", device.kind.CHUNK)
    spans = _chunks.spans(len(pushing.labels(run.images)), size)
    words = ["predict", one.path, *_common(one, run.images, bench.threads)]
    parts = list(_chunks.predict(folder, key, words, spans, edge_bench))
    with store.atomic(folder / PREDICTIONS) as temporary:
        _chunks.join(parts, temporary)
        sha256 = store.sha256(temporary)
    accuracy = _accuracy(run, folder / PREDICTIONS, sha256)
    measurement = _noun(artifact, device.device, found, accuracy, key)
    store.write(folder / MANIFEST, measurement)
    _chunks.forget(folder)
    return measurement


def run_words(one: Runnable, images: Path, threads: int, options: Options) -> list[str | Path]:
    """The arguments of `edge-bench run`. Counted instructions depend on them too: their length shifts memory addresses
    (benchmarks/README.md)."""
    bounds = ["--min-runs", str(options.min_runs), "--min-seconds", str(options.min_seconds)]
    return ["run", one.path, *_common(one, images, threads), *bounds]


def _common(one: Runnable, images: Path, threads: int) -> list[str | Path]:
    words: list[str | Path] = ["--inputs", images, "--runtime", one.runtime, "--threads", str(threads)]
    if one.artifact.inputs[0].layout:
        words += ["--layout", one.artifact.inputs[0].layout]
    return words


def _accuracy(run: _Run, outputs: Path, sha256: str) -> Accuracy:
    """The metric over a file of predictions."""
    import numpy as np

    with np.load(outputs, allow_pickle=False) as kept:
        right = stats.top1(kept["output_0"]) == pushing.labels(run.images)
    checkpoint = run.checkpoint
    return Accuracy(
        dataset=checkpoint.spec.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        split="test",
        samples=len(right),
        metric=checkpoint.spec.metric,
        value=float(right.mean()),
        reference=checkpoint.accuracy if len(right) == checkpoint.samples else _reference(run, len(right)),
        predictions=outputs.name,
        predictions_sha256=sha256,
    )


def _reference(run: _Run, samples: int) -> float:
    """The float model's metric over a subset of the split."""
    checkpoint = run.checkpoint
    folder = run.bench.build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    chosen = stats.stratified(labels, samples)
    return float((stats.top1(outputs[0][chosen]) == labels[chosen]).mean())


def _noun(artifact: Artifact, device: Device, run: Mapping[str, Any], accuracy: Accuracy, key: str) -> Measurement:
    """The measurement from the output of edge-bench."""
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
    """Whether the clock was slowed during the run: it is slowed now, or a bit that stays set until reboot is new.

    Source: the vcgencmd manual: bits 0 to 3 are the current state, bits 16 to 19 the same since boot.
    """
    if after is None:
        return None
    then, now = int(before or "0x0", 16), int(after, 16)
    return bool((then | now) & 0xF or (now & ~then) >> 16)


def _line(measurement: Measurement) -> str:
    """A measurement in one line. An emulated device has no latency, but may count instructions."""
    top1 = f"top-1 {measurement.accuracy.value:.2%} of {measurement.accuracy.samples}"
    latency = stats.latency(measurement.runs)
    if measurement.device["emulated"]:
        if measurement.device.get("clock") != "instructions":
            return top1
        return f"{formatting.instructions(latency.p50 * 1e6, latency.p99 * 1e6)}, {top1}"  # 1 ns per instruction
    return f"p50 {latency.p50:.4g} ms, p99 {latency.p99:.4g} ms, {top1}"
