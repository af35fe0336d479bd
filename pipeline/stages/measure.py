"""Measure: run an artifact on a device for raw latencies, memory, and the outputs of every evaluation sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import formatting, stats, tasks
from pipeline.core import Accuracy, Artifact, Checkpoint, Device, Failure, Measurement, Process, safe_file_name
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken, PipelineError, StageFailed, Unreachable, described
from pipeline.results import keys, predictions
from pipeline.stages import _chunks, _threads, train
from pipeline.stages import push as pushing
from pipeline.stages.export import FAILURE, Outcome, export, raise_if_failed
from pipeline.stages.plan import Job, Plan
from pipeline.stages.push import Runnable
from pipeline.system import proc, progress, store
from pipeline.system.progress import bar, say
from pipeline.system.store import Store

MANIFEST, PREDICTIONS = "measurement.json", "predictions.npz"
PROCESSES = 5
"""The median latency of a file differs from process to process by more than between the runs of one, so each process is
one sample. Five are enough for a confidence interval and are measured in the time of the runs of one."""
WARMUP_SECONDS = 0.25
"""edge-bench's own default. As the runs, it is divided among the processes."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        threads: numbers of threads to measure with; empty for 1 to all cores of the device.
        samples: size of the evaluation subset (see `stats.stratified`); None for the whole split.
        processes: how many processes measure each file; None for PROCESSES, or 1 on an emulated device: it has no
            latency, and the instructions that it counts are the same in every process.
        min_runs, min_seconds: a measurement has at least so many runs and takes at least so long, in all processes
            together; each does its share.
        cpus: the CPUs that the measuring processes are pinned to; empty for all.
        time_limit: seconds that one call of edge-bench may take.
        again: repeat up-to-date measurements.
    """

    threads: tuple[int, ...] = (1,)
    min_runs: int = 64
    min_seconds: float = 0.5
    time_limit: float = 3600.0
    again: bool = False
    samples: int | None = None
    processes: int | None = None
    cpus: tuple[int, ...] = ()

    def check(self) -> None:
        """
        Raises:
            BadOption: a value is out of range.
        """
        seconds = self.min_seconds, self.time_limit
        optional = [number for number in (self.samples, self.processes) if number is not None]
        least = min([*self.threads, self.min_runs, *optional])
        if least < 1 or seconds[0] < 0 or seconds[1] <= 0 or not all(map(math.isfinite, seconds)):
            raise BadOption(
                "--threads, --processes, --min-runs and --samples must be at least 1, --min-seconds at least 0, "
                "--time-limit above 0"
            )

    def processes_on(self, device: Device) -> int:
        """How many processes measure each file on a device."""
        return self.processes or (1 if device.emulated else PROCESSES)


@dataclass(frozen=True)
class Result:
    """One artifact on one device with one number of threads.

    Attributes:
        measurement: what was measured now or before; None where it failed.
        failure: why the last run, or the device, failed.
    """

    artifact: Artifact
    device: str
    threads: int
    measurement: Measurement | None = None
    failure: PipelineError | None = None


def bench(build: Store, plan: Plan, options: Options = Options()) -> list[Result]:
    """Exports what is missing of a plan, then measures it on the plan's devices side by side.

    A device that fails, at any time, does not end the others: its results have the failure.

    Raises:
        StageFailed: an export failed. Everything else was measured before.
        PipelineError: no device can be used, or has as many cores as threads were asked for.
    """
    options.check()
    found = proc.side_by_side([partial(_asked, build, plan, device, options) for device in plan.devices])
    failures = [one.failure for one in found if one.failure]
    if failures and len(failures) == len(found):
        raise failures[0]  # before anything is trained or exported
    outcomes = export(build, plan)
    same: dict[str, list[_Asked]] = {}
    for one in found:
        same.setdefault(one.hardware or one.device.name, []).append(one)
    if len(same) > 1:  # not during a measurement on this machine, for which it would have to wait
        for job in plan.jobs:
            if checkpoint := train.ready(build, job):  # if its training failed, its outcomes report that
                pushing.evaluation(build, job, checkpoint, options.samples)
    calls = [partial(_in_turn, build, plan, outcomes, devices, options) for devices in same.values()]
    results = [result for results in proc.side_by_side(calls) for result in results]
    raise_if_failed(outcomes)
    return results


@dataclass(frozen=True)
class _Asked:
    """A device before anything is exported.

    Attributes:
        hardware: see `DeviceKind.hardware`.
        threads: the numbers of threads to measure with.
        failure: why it cannot be used.
    """

    device: BoundDevice
    hardware: str = ""
    threads: tuple[int, ...] = (1,)
    failure: PipelineError | None = None


def _asked(build: Store, plan: Plan, device: BoundDevice, options: Options) -> _Asked:
    needed = any(device.unsupported(target) is None for target in plan.targets)
    try:
        with _named(plan, device):
            threads = _threads.on(build, device, plan.targets, options.threads, len(options.cpus))
            return _Asked(device, device.hardware(build) if needed else "", threads)
    except PipelineError as error:
        return _Asked(device, failure=error)


def _in_turn(
    build: Store, plan: Plan, outcomes: Sequence[Outcome], same: Sequence[_Asked], options: Options
) -> list[Result]:
    """Measures on devices that are the same hardware, one after another."""
    found: list[Result] = []
    for one in same:
        with _named(plan, one.device):
            found += _on_device(build, plan, outcomes, one, replace(options, threads=one.threads))
    return found


def _on_device(build: Store, plan: Plan, outcomes: Sequence[Outcome], asked: _Asked, options: Options) -> list[Result]:
    device, failure = asked.device, asked.failure
    if failure is None:
        try:
            return measure(build, plan, outcomes, device, options)
        except PipelineError as error:
            if len(plan.devices) == 1:
                raise
            failure = error
    say(str(failure))
    return [
        Result(one.artifact, device.name, number, None, failure)
        for job in plan.jobs
        for number in options.threads
        for one in pushing.runnable(plan, job, outcomes, device)
    ]


def _named(plan: Plan, device: BoundDevice) -> AbstractContextManager[None]:
    """Lets every line name the device, if there are several."""
    return progress.named(device.name) if len(plan.devices) > 1 else nullcontext()


def measure(
    build: Store, plan: Plan, outcomes: Sequence[Outcome], device: BoundDevice, options: Options
) -> list[Result]:
    """Measures every artifact that the device can run and that is not measured yet. One at a time: two at once would
    disturb each other. The processes of the artifacts alternate (A B C, A B C, …): a machine that becomes slower while
    it is measured then does not make one of them look slow.

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
    if checkpoint is None:
        return []  # the framework's training failed, which its outcomes report
    keyed = [
        (one, key(build, checkpoint, device, one, bench.threads, bench.options))
        for one in pushing.runnable(bench.plan, bench.job, outcomes, device)
    ]
    todo = [(one, key) for one, key in keyed if bench.options.again or not ready(bench.home(one.path), key)]
    failed: dict[Path, StageFailed] = {}
    if todo:
        images = pushing.evaluation(build, bench.job, checkpoint, bench.options.samples)
        run, hardware = _Run(bench, checkpoint, images), device.hardware(build)
        what = f"bench of {bench.plan.model.spec.name} on {device.name}"
        try:
            with alone(build, device, hardware, what):
                cells = [_Cell(run, one, key) for one, key in todo]
                _measure_all([cell for cell in cells if bench.options.again or not cell.ready], failed)
        except Unreachable as error:  # the device failed, not the artifact; the other artifacts would fail too
            failed |= {one.path: error for one, key in todo if not ready(bench.home(one.path), key)}
    return [_result(bench, one, failed.get(one.path)) for one, _ in keyed]


@contextmanager
def alone(build: Store, device: BoundDevice, hardware: str, what: str) -> Iterator[None]:
    """Locks a device's name, its hardware and the device itself, so that nothing else is measured there.

    Args:
        hardware: what it was when the work was planned.
        what: the work, for those that wait.

    Raises:
        Unreachable: the device cannot be reached, or is another one now.
    """
    locks = store.lock(build.device(device.name), what), store.lock(build.hardware(hardware), what)
    with locks[0], locks[1], device.exclusive(build):
        _require_same(device, hardware, device.hardware(build))
        yield


def _require_same(device: BoundDevice, planned: str, found: str) -> None:
    """
    Raises:
        Unreachable: another device was connected after the work was planned.
    """
    if planned != found:
        raise Unreachable(
            f"{device.name} was {planned} when this command began and is {found} now: run it again to measure that"
        )


def _result(bench: _Bench, one: Runnable, failure: StageFailed | None) -> Result:
    found = None if failure else store.read(Measurement, bench.home(one.path) / MANIFEST)
    return Result(one.artifact, bench.device.name, bench.threads, found, failure)


def _measure_all(cells: Sequence[_Cell], failed: dict[Path, StageFailed]) -> None:
    """Measures artifacts in alternating processes. In the last round, each of them is also evaluated.

    Args:
        failed: receives the failures, by path. A failure is also written to the folder of the measurement, and ends the
            work on its artifact only.

    Raises:
        Unreachable: the connection to the device was lost.
    """
    if not cells:
        return
    bench = cells[0].run.bench
    rounds = range(bench.options.processes_on(bench.device.device))
    for cell in cells:
        cell.begin()
    for round, cell in bar([(round, cell) for round in rounds for cell in cells], "measuring", unit="process"):
        if cell.one.path in failed:
            continue
        try:
            cell.send()
            cell.process(round)
            if round == rounds[-1]:
                cell.finish([cell.process(each) for each in rounds])
        except Unreachable:
            raise
        except Exception as error:  # a device's plug-in or a library may raise anything
            known = isinstance(error, PipelineError | OSError)
            if known and not isinstance(error, StageFailed):
                raise
            artifact, reason = cell.one.artifact, str(error) if known else described(error)
            failure = StageFailed(f"{artifact.target} {artifact.recipe} on {bench.device.name}: {reason}")
            key = keys.run(bench.build, cell.run.checkpoint, artifact, bench.device, cell.one.runtime)
            store.write(cell.folder / FAILURE, Failure("failed", reason, "", key))
            say(f"  {failure}")
            failed[cell.one.path] = failure


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
    processes = options.processes_on(device.device)
    words = [word for word in run_words(one, Path(), threads, options, processes) if isinstance(word, str)]
    how = words, processes, options.samples
    run = keys.run(build, checkpoint, one.artifact, device, one.runtime)
    return store.digest([run, device.hardware(build), how])


@dataclass(frozen=True)
class _Run:
    """What every artifact of one bench is measured with.

    Attributes:
        images: the evaluation split's file.
    """

    bench: _Bench
    checkpoint: Checkpoint
    images: Path


@dataclass(frozen=True)
class _Cell:
    """The measurement of one artifact, in steps. The result of each step is kept until all are done."""

    run: _Run
    one: Runnable
    key: str

    @property
    def folder(self) -> Path:
        return self.run.bench.home(self.one.path)

    @property
    def ready(self) -> bool:
        """Whether another command measured it while this one waited for the device."""
        return ready(self.folder, self.key)

    def begin(self) -> None:
        """Forgets what an interrupted bench left, if everything is to be measured again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.run.bench.options.again:
            _chunks.forget(self.folder)

    def send(self) -> None:
        """Sends the files, unless the device has them. A board with little space removes older ones, which may be those
        of another artifact, so this comes before every process."""
        build, device = self.run.bench.build, self.run.bench.device
        device.setup(build, self.one.runtime)
        device.push(build, [self.one.path, self.run.images])

    def process(self, round: int) -> Mapping[str, Any]:
        """`edge-bench run` for times and memory, in one process, unless its result was kept."""
        bench = self.run.bench
        processes = bench.options.processes_on(bench.device.device)
        words = run_words(self.one, self.run.images, bench.threads, bench.options, processes)
        return _chunks.run(self.folder, self.key, round, words, self._call)

    def finish(self, found: Sequence[Mapping[str, Any]]) -> None:
        """`edge-bench predict`, in chunks, for every sample's outputs; then writes the measurement.

        Args:
            found: the results of the processes.
        """
        bench, artifact = self.run.bench, self.one.artifact
        size = bench.device.options.get("chunk_samples", bench.device.kind.CHUNK)
        spans = _chunks.spans(len(pushing.labels(self.run.images)), size)
        words = ["predict", self.one.path, *_common(self.one, self.run.images, bench.threads)]
        parts = list(_chunks.predict(self.folder, self.key, words, spans, self._call))
        with store.atomic(self.folder / PREDICTIONS) as temporary:
            _chunks.join(parts, temporary)
            sha256 = store.sha256(temporary)
        accuracy, hardware = _accuracy(self.run, self.folder / PREDICTIONS, sha256), bench.device.hardware(bench.build)
        words = run_words(self.one, self.run.images, bench.threads, bench.options, len(found))
        method = f"{len(found)} × edge-bench run {' '.join(map(str, words[4:]))}"  # without file and inputs
        measurement = replace(_noun(artifact, bench.device.device, hardware, found, accuracy, self.key), method=method)
        store.write(self.folder / MANIFEST, measurement)
        _chunks.forget(self.folder)
        store.remove(self.folder / FAILURE)
        say(f"  {artifact.target} {artifact.recipe}: {_line(measurement, tasks.of(artifact.spec).TITLE)}")

    def _call(self, words: Sequence[str | Path]) -> dict[str, Any]:
        """Calls edge-bench."""
        bench, artifact = self.run.bench, self.one.artifact
        build, device = bench.build, bench.device
        started_at = datetime.now(UTC).isoformat(timespec="seconds")  # a board's clock may be years off
        done = device.call(build, self.one.runtime, words, bench.options.time_limit)
        if done.code != 0:
            raise StageFailed(done.reason.removeprefix("edge-bench: "))
        try:
            value = done.result("artifact_sha256")
        except StageFailed as error:
            fix = f"run inv devices.clean --device {device.name}, then this command again"
            raise StageFailed(f"{device.name}: {error}: {fix}") from error
        if value["artifact_sha256"] != artifact.sha256:
            raise Broken(f"{self.one.path} changed while it was measured")
        return {**value, "started_at": started_at}


def run_words(one: Runnable, images: Path, threads: int, options: Options, processes: int) -> list[str | Path]:
    """The arguments of `edge-bench run`. Counted instructions depend on them too: their length shifts memory addresses
    (benchmarks/README.md)."""
    return ["run", one.path, *_common(one, images, threads), *effort(options, processes)]


def effort(options: Options, processes: int) -> list[str]:
    """How much each of so many processes measures, and on which CPUs, as arguments of `edge-bench run`."""
    runs, seconds = math.ceil(options.min_runs / processes), options.min_seconds / processes
    bounds = ["--min-runs", str(runs), "--min-seconds", f"{seconds:.10g}"]
    if processes > 1:
        bounds += ["--warmup-seconds", f"{WARMUP_SECONDS / processes:g}"]
    if options.cpus:
        bounds += ["--cpus", ",".join(map(str, options.cpus))]
    return bounds


def _common(one: Runnable, images: Path, threads: int) -> list[str | Path]:
    words: list[str | Path] = ["--inputs", images, "--runtime", one.runtime, "--threads", str(threads)]
    if one.artifact.inputs[0].layout:
        words += ["--layout", one.artifact.inputs[0].layout]
    return words


def _accuracy(run: _Run, outputs: Path, sha256: str) -> Accuracy:
    """The metric over a file of predictions."""
    import numpy as np

    checkpoint = run.checkpoint
    task = tasks.of(checkpoint.spec)
    with np.load(outputs, allow_pickle=False) as kept:
        scores = task.scores(predictions.of(kept), pushing.labels(run.images))
    return Accuracy(
        dataset=checkpoint.spec.dataset,
        dataset_sha256=checkpoint.dataset_sha256,
        split="test",
        samples=len(scores),
        metric=task.METRIC,
        value=float(scores.mean()),
        reference=checkpoint.accuracy if len(scores) == checkpoint.samples else _reference(run, len(scores)),
        predictions=outputs.name,
        predictions_sha256=sha256,
    )


def _reference(run: _Run, samples: int) -> float:
    """The float model's metric over a subset of the split."""
    checkpoint = run.checkpoint
    folder = run.bench.build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    chosen = stats.stratified(labels, samples)
    return float(tasks.of(checkpoint.spec).scores([each[chosen] for each in outputs], labels[chosen]).mean())


def _noun(
    artifact: Artifact,
    device: Device,
    hardware: str,
    found: Sequence[Mapping[str, Any]],
    accuracy: Accuracy,
    key: str,
) -> Measurement:
    """The measurement from the outputs of edge-bench, one for each process."""
    first = found[0]
    return Measurement(
        artifact_sha256=artifact.sha256,
        model=artifact.model,
        framework=artifact.framework,
        target=artifact.target,
        recipe=artifact.recipe,
        device=facts_of(device, hardware, found),
        runtime=runtime_of(first),
        size_bytes=artifact.size_bytes,
        processes=tuple(map(of_process, found)),
        accuracy=accuracy,
        key=key,
        tools=first["tools"],
    )


def runtime_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement's `runtime`, from an output of `edge-bench run`."""
    return {**run["runtime"], **{name: run.get(name) for name in ("refills_input", "includes_input_copy")}}


def facts_of(device: Device, hardware: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A measurement's `device`, from the outputs of `edge-bench run`."""
    facts = {"name": device.name, "kind": device.kind, "emulated": device.emulated, "hardware": hardware}
    facts |= found[0]["device"]
    if "before" in facts:  # a phone's state
        facts = {name: value for name, value in facts.items() if name not in ("before", "after")}
        facts["states"] = [
            {**{end: run["device"][end] for end in ("before", "after")}, "samples": run.get("samples", [])}
            for run in found
        ]
    if "clock" in device.options:
        facts["clock"] = device.options["clock"]
    return facts


def of_process(run: Mapping[str, Any]) -> Process:
    """One output of `edge-bench run`."""

    def pairs(name: str) -> tuple[tuple[int, int], ...]:
        return tuple((loops, ns) for loops, ns in run[name])

    before, after = run["frequency_hz"]
    return Process(
        started_at=run["started_at"],
        load_ns=run["load_ns"],
        first_run_ns=run["first_run_ns"],
        warmup=pairs("warmup"),
        runs=pairs("runs"),
        single_runs=tuple(run["single_runs"]),
        clock_ns=run["clock_ns"],
        temperature_c=tuple(run["temperature_c"]),
        frequency_hz=(tuple(before), tuple(after)),
        throttled=_throttled(run.get("throttled_before"), run["throttled"], run.get("throttling")),
        load_average=tuple(run["load_average"]),
        peak_rss_bytes=run["peak_rss_bytes"],
        rss_before_load_bytes=run["rss_before_load_bytes"],
        throttling=tuple(run.get("throttling") or ()),
        peak_rss_reset=run.get("peak_rss_reset"),
        pss_bytes=run.get("pss_bytes"),
    )


def _throttled(before: str | None, after: str | None, reasons: Sequence[str] | None) -> bool | None:
    """Whether the clock was slowed during the run: it is slowed now, or a bit that stays set until reboot is new, or
    edge-bench saw a reason between its entries.

    Source: the vcgencmd manual: bits 0 to 3 are the current state, bits 16 to 19 the same since boot.
    """
    if reasons:
        return True
    if after is None:
        return None if reasons is None else False
    then, now = int(before or "0x0", 16), int(after, 16)
    return bool((then | now) & 0xF or (now & ~then) >> 16)


def _line(measurement: Measurement, metric: str) -> str:
    """A measurement in one line. An emulated device has no latency, but may count instructions."""
    accuracy = f"{metric} {measurement.accuracy.value:.2%} of {measurement.accuracy.samples}"
    latency = stats.latency(measurement.processes)
    if measurement.device["emulated"]:
        if measurement.device.get("clock") != "instructions":
            return accuracy
        return f"{formatting.instructions(latency.p50 * 1e6, latency.p99 * 1e6)}, {accuracy}"  # 1 ns per instruction
    spread = "" if latency.spread is None else f" ({latency.processes} processes: {formatting.spread(latency)} apart)"
    return f"p50 {latency.p50:.4g} ms{spread}, p99 {latency.p99:.4g} ms, {accuracy}"
