"""Push: artifacts and the evaluation split go to a device, each identified by its content hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import stats
from pipeline.core import SCHEMA, Artifact, Checkpoint
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, StageFailed, Unreachable
from pipeline.registry import Plugin
from pipeline.stages import train
from pipeline.stages.export import Outcome, export, raise_if_failed
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.progress import bar, say
from pipeline.system.store import Store
from pipeline.targets import Target

CHUNK = 256
"""Images decoded at a time: memory stays bounded for a split of any size."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation split, or a subset of it, as devices get it.

    Attributes:
        images: file name; the inputs (N, …), .npy: uint8 (N, height, width, channels) of images, others in
            the input's dtype.
        labels: file name; int64 (N,), .npy.
        sha256: content hash by file name.
        dataset_sha256: content hash of the split it was made from.
    """

    images: str
    labels: str
    sha256: Mapping[str, str]
    dataset_sha256: str
    samples: int
    schema: int = SCHEMA


@dataclass(frozen=True)
class Pushed:
    """What is on a device after a push.

    Attributes:
        files: how many files of the plan the device has.
        sent_bytes: how many bytes were sent now.
    """

    device: str
    files: int
    sent_bytes: int


@dataclass(frozen=True)
class Runnable:
    """An artifact with the edge-bench runtime that runs it on a device."""

    artifact: Artifact
    path: Path
    runtime: str


def push(build: Store, plan: Plan) -> list[Pushed]:
    """Exports what is missing of a plan, then sends each device what it lacks: the evaluation split and every artifact
    that it can run."""
    outcomes = export(build, plan)
    raise_if_failed(outcomes)
    return [_pushed(build, plan, device, outcomes) for device in plan.devices]


def _pushed(build: Store, plan: Plan, device: BoundDevice, outcomes: Sequence[Outcome]) -> Pushed:
    files = sent = 0
    for job in plan.jobs:
        checkpoint = train.ready(build, job)
        assert checkpoint is not None  # it was exported
        own = [evaluation(build, job, checkpoint), *(one.path for one in runnable(plan, job, outcomes, device))]
        _, more = device.push(build, own)
        files, sent = files + len(own), sent + more
    return Pushed(device.name, files, sent)


def setup(build: Store, device: BoundDevice, targets: Sequence[Plugin[Target]]) -> Iterator[tuple[str, str | None]]:
    """Installs the runtimes of these targets on a device, as far as the device supports them.

    Returns:
        Each runtime, with the reason where it cannot be installed.

    Raises:
        Unreachable: the device cannot be reached.
    """
    named = [device.runtime(target) for target in targets if device.unsupported(target) is None]
    with device.exclusive(build):
        for runtime in dict.fromkeys(name for name in named if name):
            try:
                device.setup(build, runtime)
            except Unreachable:
                raise
            except StageFailed as error:
                yield runtime, str(error).removeprefix(f"{device.name}: ")
            else:
                yield runtime, None


def runnable(plan: Plan, job: Job, outcomes: Sequence[Outcome], device: BoundDevice) -> list[Runnable]:
    """A job's artifacts that a device can run."""
    targets = {target.name: target for target in plan.targets}
    found = []
    for outcome in outcomes:
        target = targets[outcome.target]
        if outcome.framework != job.framework.name or not outcome.artifact or not outcome.path:
            continue
        runtime = device.runtime(target)
        if device.unsupported(target) is None and runtime is not None:
            found.append(Runnable(outcome.artifact, outcome.path, runtime))
    return found


def evaluation(build: Store, job: Job, checkpoint: Checkpoint, samples: int | None = None) -> Path:
    """The evaluation split, or a subset of it, as one .npy file with its labels beside it; written where missing.

    Args:
        samples: size of the subset (see `stats.stratified`); None for all.

    Raises:
        BadOption: the split is smaller.
    """
    if samples is not None and samples > checkpoint.samples:
        raise BadOption(f"--samples {samples}: {checkpoint.spec.name}'s test split has {checkpoint.samples}")
    samples = None if samples == checkpoint.samples else samples
    name = f"{checkpoint.spec.dataset}-{checkpoint.dataset_sha256[:16]}" + (f"-{samples}" if samples else "")
    folder = build.root / "data" / name
    if not _written(folder):
        with store.lock(build, f"preparing the evaluation images of {checkpoint.spec.dataset}"):
            if not _written(folder):  # another process may have written them meanwhile
                _write_evaluation(job, checkpoint, folder, samples)
    return folder / "images.npy"


def _written(folder: Path) -> bool:
    """Whether a folder contains an intact evaluation split."""
    made = store.read_or_warn(Evaluation, folder / "evaluation.json")
    return made is not None and all(
        (folder / name).is_file() and store.sha256(folder / name) == digest for name, digest in made.sha256.items()
    )


def labels(images: Path) -> Any:
    """Labels of the split in `images`; see `datasets.Split`."""
    import numpy as np

    return np.load(images.with_name("labels.npy"), allow_pickle=False)


def _write_evaluation(job: Job, checkpoint: Checkpoint, folder: Path, samples: int | None) -> None:
    import numpy as np

    split = train.split_of(checkpoint, job)
    chosen = stats.stratified(split.labels, samples or len(split))
    say(f"preparing {len(chosen)} evaluation samples of {checkpoint.spec.dataset}")
    shape = (len(chosen), *checkpoint.spec.inputs[0].shape)
    with store.atomic(folder) as new:
        new.mkdir()
        with (new / "images.npy").open("wb") as file:  # no memory map: a full disk would kill the process
            dtype = "|u1" if checkpoint.spec.image else np.dtype(checkpoint.spec.inputs[0].dtype).str
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            for start in bar(range(0, len(chosen), CHUNK), "preparing", unit="chunk"):
                file.write(split.inputs(chosen[start : start + CHUNK].tolist()).tobytes())
        np.save(new / "labels.npy", split.labels[chosen])
        hashes = {name: store.sha256(new / name) for name in ("images.npy", "labels.npy")}
        store.write(
            new / "evaluation.json",
            Evaluation("images.npy", "labels.npy", hashes, checkpoint.dataset_sha256, len(chosen)),
        )
