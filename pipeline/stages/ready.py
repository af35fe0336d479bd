"""Ready: measures a file of any converter on devices, as it is. With a reference, its outputs are compared.

The inputs are pseudo-random, or the samples of a file. Nothing is known of the outputs without a reference, so no table
has an accuracy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import registry, stats
from pipeline.core import Failure, FileMeasurement, Parity, Port
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, PipelineError, StageFailed, Unreachable, Unsupported
from pipeline.sources.file import ReadyFile
from pipeline.stages import _threads, measure
from pipeline.stages.measure import Options
from pipeline.system import proc, progress, store
from pipeline.system.progress import bar, say
from pipeline.system.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER, MANIFEST, FAILURE = "files", "measurement.json", "failure.json"
SAMPLES, SEED = 32, 0
"""Of a comparison with a reference."""
SECONDS = 600.0
"""What reading or running a file on this machine may take."""


@dataclass(frozen=True)
class Result:
    """A file on one device with one number of threads: a measurement, or why there is none."""

    device: str
    threads: int
    measurement: FileMeasurement | None = None
    failure: PipelineError | None = None


def bench(
    build: Store, file: ReadyFile, devices: Sequence[BoundDevice], options: Options,
    reference: ReadyFile | None = None, samples: Path | None = None,
) -> list[Result]:  # fmt: skip
    """Measures a file on devices side by side, as far as it is not up to date.

    Args:
        reference: whose outputs on this machine the file's are compared with.
        samples: .npy file (N, …) of the inputs that are compared; None for pseudo-random ones.

    Raises:
        BadOption: an option is invalid; or the file cannot be compared with the reference.
        Unsupported: none of the devices runs the file.
    """
    options.check()
    reasons = {device.name: device.unsupported(file.target) for device in devices}
    if all(reasons.values()):
        raise Unsupported(f"{file.path}: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}")
    if samples is not None and reference is None:
        raise BadOption("--inputs are the samples of a comparison: name a --reference as well")
    compared = None if reference is None else _Reference.of(file, reference, samples)
    bench = _Bench(build, file, options, compared)
    found = proc.side_by_side([partial(_on, bench, device) for device in devices])
    return [result for results in found for result in results]


@dataclass(frozen=True)
class _Bench:
    """A file with the options of its measurements."""

    build: Store
    file: ReadyFile
    options: Options
    reference: _Reference | None


def _on(bench: _Bench, device: BoundDevice) -> list[Result]:
    build, file, options = bench.build, bench.file, bench.options
    reason = device.unsupported(file.target)
    if reason:
        return [Result(device.name, number, None, Unsupported(reason)) for number in options.threads or (1,)]
    with progress.named(device.name):
        try:
            threads = _threads.on(build, device, [file.target], options.threads, len(options.cpus))
            hardware = device.hardware(build)
        except PipelineError as error:
            return [Result(device.name, number, None, error) for number in options.threads or (1,)]
        return [_measured(bench, device, hardware, number) for number in threads]


def _measured(bench: _Bench, device: BoundDevice, hardware: str, threads: int) -> Result:
    """One measurement: the stored one if it is up to date. A failure is stored as well, and is a result."""
    build, file, options, reference = bench.build, bench.file, bench.options, bench.reference
    folder = store.threads_folder(build.root / FOLDER / file.name / device.name, threads)
    runtime = device.runtime(file.target)
    assert runtime is not None  # `unsupported` gave no reason
    processes = options.processes_on(device.device)
    how = [processes, threads, measure.effort(options, processes), reference and reference.key]
    identity = device.identity(build, runtime)
    key = store.digest([file.sha256, identity, hardware, how, registry.code_hash(__name__)])
    known = store.read_or_warn(FileMeasurement, folder / MANIFEST)
    if known is not None and known.key == key and not options.again:
        return Result(device.name, threads, known)
    folder.mkdir(parents=True, exist_ok=True)
    call = _Call(build, device, runtime, options.time_limit)
    try:
        with measure.alone(build, device, hardware, f"bench of {file.path.name} on {device.name}"):
            device.setup(build, runtime)
            device.push(build, [file.path])
            words: list[str | Path] = ["run", file.path, "--runtime", runtime, "--threads", str(threads)]
            words += measure.effort(options, processes)
            runs = [call(words) for _ in bar(range(processes), "measuring", unit="process")]
            parity = () if reference is None else reference.compared(call, file, runtime, threads)
    except Unreachable as error:
        return Result(device.name, threads, None, error)
    except StageFailed as error:
        store.write(folder / FAILURE, Failure("failed", str(error), "", key))
        say(f"  {error}")
        return Result(device.name, threads, None, error)
    inputs, outputs = _ports(file)
    found = FileMeasurement(
        file=file.path.name,
        sha256=file.sha256,
        size_bytes=store.size(file.path),
        target=file.target.name,
        inputs=inputs,
        outputs=outputs,
        device=measure.facts_of(device.device, hardware, runs),
        runtime=measure.runtime_of(runs[0]),
        processes=tuple(map(measure.of_process, runs)),
        reference=None if reference is None else (reference.file.path.name, reference.file.sha256),
        parity=parity,
        key=key,
        tools=runs[0]["tools"],
    )
    store.write(folder / MANIFEST, found)
    store.remove(folder / FAILURE)
    return Result(device.name, threads, found)


@dataclass(frozen=True)
class _Call:
    """Calls edge-bench on a device."""

    build: Store
    device: BoundDevice
    runtime: str
    time_limit: float

    def __call__(self, words: Sequence[str | Path]) -> Mapping[str, Any]:
        """
        Raises:
            StageFailed: the runtime refused the file, or ended; the signal is named.
        """
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        done = self.device.call(self.build, self.runtime, words, self.time_limit)
        if done.code != 0:
            raise StageFailed(done.reason.removeprefix("edge-bench: "))
        return {**done.result("artifact_sha256"), "started_at": started_at}


# -- on this machine ---------------------------------------------------------------------------------------------------


def _inspected(file: ReadyFile) -> Mapping[str, Any]:
    """What edge-bench says about a file's inputs and outputs.

    Raises:
        BadOption: no runtime on this machine reads it.
    """
    runtime = file.target.module.RUNTIME
    if runtime is None:
        raise BadOption(f"{file.path}: {file.target.module.UNCHECKED}")
    done = proc.run([sys.executable, "-m", "edge_bench", "inspect", file.path, "--runtime", runtime], timeout=SECONDS)
    if done.code != 0:
        raise BadOption(done.reason.removeprefix("edge-bench: "))
    return done.result("inputs")


def _ports(file: ReadyFile) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs; empty where only another device runs the file."""
    try:
        found = _inspected(file)
    except BadOption:
        return (), ()
    return tuple(map(_port, found["inputs"])), tuple(map(_port, found["outputs"]))


def _port(info: Mapping[str, Any]) -> Port:
    return Port(info["name"], tuple(info["shape"]), info["dtype"], None, info["scale"], info["zero_point"])


@dataclass(frozen=True)
class _Reference:
    """A file whose outputs on this machine are the reference, for the same inputs.

    Attributes:
        port: its input.
        samples: .npy file of the inputs; None for pseudo-random ones.
    """

    file: ReadyFile
    port: Port
    samples: Path | None

    @property
    def key(self) -> str:
        """Of what is compared."""
        return store.digest([self.file.sha256, self.samples and store.sha256(self.samples)])

    @classmethod
    def of(cls, file: ReadyFile, reference: ReadyFile, samples: Path | None) -> _Reference:
        """
        Raises:
            BadOption: the two have not the same input, or several; or there is no file of samples.
        """
        if samples is not None and not samples.is_file():
            raise BadOption(f"--inputs {samples}: no such file")
        both = [(each, _ports_or_raise(each)) for each in (file, reference)]
        for each, (inputs, _) in both:
            if len(inputs) != 1 or min(inputs[0].shape) < 1:
                found = ", ".join(f"{port.name} {port.shape}" for port in inputs)
                raise BadOption(f"--reference needs files with one input of a fixed shape; {each.path} has {found}")
        (own,), (other,) = both[0][1][0], both[1][1][0]
        if own.shape != other.shape:
            raise BadOption(
                f"{file.path} takes {own.shape} and {reference.path} {other.shape}: files with inputs of different "
                "shapes or layouts cannot be compared"
            )
        shapes = [[port.shape for port in outputs] for _, (_, outputs) in both]
        if shapes[0] != shapes[1]:
            raise BadOption(
                f"{file.path} returns {shapes[0]} and {reference.path} {shapes[1]}: they cannot be compared"
            )
        return cls(reference, other, samples)

    def compared(self, call: _Call, file: ReadyFile, runtime: str, threads: int) -> tuple[Parity, ...]:
        """Each output of a file on a device compared with the reference's on this machine."""
        scratch = store.unfinished(call.build.root / FOLDER / "inputs.npy")
        try:
            scratch.parent.mkdir(parents=True, exist_ok=True)
            self._write_inputs(scratch)
            call.device.push(call.build, [scratch])
            words: list[str | Path] = ["predict", file.path, "--inputs", scratch, "--runtime", runtime]
            words += ["--threads", str(threads)]
            with _outputs(scratch) as out:
                call([*words, "--out", out])
                found = _arrays(out)
            with _outputs(scratch) as out:
                expected = self._own_outputs(scratch, out)
        finally:
            store.remove(scratch)
        pairs = zip(expected, found, strict=True)
        return tuple(stats.parity(self.file.path.name, [a], [b], [None], classes=False) for a, b in pairs)

    def _write_inputs(self, path: Path) -> None:
        """Real numbers: over the range of an input with a scale, of 8-bit integers, or else from 0 to 1."""
        import numpy as np

        if self.samples is not None:
            shutil.copy(self.samples, path)
            return
        port, random = self.port, np.random.default_rng(SEED)
        low, high = 0.0, 1.0
        dtype = np.dtype(port.dtype)
        if dtype.kind in "iu" and (port.scale is not None or dtype.itemsize == 1):
            limits, scale, zero = np.iinfo(dtype), port.scale or 1.0, port.zero_point or 0
            low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
        values = random.uniform(low, high, (SAMPLES, *port.shape[1:]))
        np.save(path, np.rint(values) if dtype.kind in "iu" and port.scale is None else values.astype(np.float32))

    def _own_outputs(self, inputs: Path, out: Path) -> list[NDArray[Any]]:
        runtime = self.file.target.module.RUNTIME
        assert runtime is not None  # it was inspected
        words: list[str | Path] = ["predict", self.file.path, "--inputs", inputs, "--runtime", runtime, "--out", out]
        done = proc.run([sys.executable, "-m", "edge_bench", *words], timeout=SECONDS)
        if done.code != 0:
            raise StageFailed(f"the reference: {done.reason.removeprefix('edge-bench: ')}")
        return _arrays(out)


def _ports_or_raise(file: ReadyFile) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    found = _inspected(file)
    return tuple(map(_port, found["inputs"])), tuple(map(_port, found["outputs"]))


@contextmanager
def _outputs(beside: Path) -> Iterator[Path]:
    path = store.unfinished(beside.with_name("outputs.npz"))
    try:
        yield path
    finally:
        store.remove(path)


def _arrays(path: Path) -> list[NDArray[Any]]:
    import numpy as np

    with np.load(path, allow_pickle=False) as kept:
        return [kept[f"output_{i}"] for i in range(len(kept.files))]
