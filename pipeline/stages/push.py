"""Push: artifacts and the evaluation split go to a device, each by its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import devices, registry, stats
from pipeline.core import SCHEMA, Artifact, Checkpoint, Device
from pipeline.errors import BadOption, StageFailed, Unreachable, Unsupported
from pipeline.stages import train
from pipeline.stages.export import Outcome
from pipeline.system import store
from pipeline.system.progress import bar, say
from pipeline.system.store import Store

CHUNK = 256
"""Pictures decoded at a time: memory stays bounded however large the split is."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation split, or a part of it, as it goes to devices.

    Attributes:
        images: file name; uint8 (N, height, width, channels), .npy.
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


def push(build: Store, job: train.Job, device: Device, outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Sends what is missing on the device: the evaluation split and every artifact that it can run.

    Returns:
        How many files are there now, and how many bytes were sent.
    """
    checkpoint = train.ready(build, job)
    assert checkpoint is not None  # what was exported has one
    with store.lock(build, f"push of {job.model} to {device.name}"):
        files = [evaluation(build, checkpoint), *(path for _, path in runnable(outcomes, device))]
        _, sent = registry.load("devices", device.kind).push(build, device, files)
    return len(files), sent


def setup(build: Store, device: Device, targets: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Brings the runtimes of these targets to a device, those that it can have.

    Returns:
        Each runtime, with the reason where it cannot be had.

    Raises:
        Unreachable: the device does not answer.
    """
    named = [devices.runtime(device, target) for target in targets if devices.unsupported(device, target) is None]
    kind = registry.load("devices", device.kind)
    with store.lock(build, f"setup of {device.name}"), kind.exclusive(build, device):
        for runtime in dict.fromkeys(name for name in named if name):
            try:
                kind.setup(build, device, runtime)
            except Unreachable:
                raise
            except StageFailed as error:
                yield runtime, str(error).removeprefix(f"{device.name}: ")
            else:
                yield runtime, None


def runnable(outcomes: Sequence[Outcome], device: Device) -> list[tuple[Artifact, Path]]:
    """Artifacts that a device can run, with their paths."""
    return [
        (outcome.artifact, outcome.path)
        for outcome in outcomes
        if outcome.artifact and outcome.path and devices.unsupported(device, outcome.target) is None
    ]


def refuse(device: Device, targets: Sequence[str]) -> None:
    """For a command that names its targets itself.

    Raises:
        Unsupported: the device cannot run one of them.
    """
    for target in targets:
        reason = devices.unsupported(device, target)
        if reason:
            raise Unsupported(f"{target} cannot be measured on {device.name}: {reason}")


def evaluation(build: Store, checkpoint: Checkpoint, samples: int | None = None) -> Path:
    """The evaluation split, or a part of it, as one .npy file, made when it is not there; its labels lie beside it.

    Args:
        samples: how many, of each class its share (see part.py); None for all.

    Raises:
        BadOption: the split has fewer.
    """
    if samples is not None and samples > checkpoint.samples:
        raise BadOption(f"--samples {samples}: {checkpoint.spec.name}'s test split has {checkpoint.samples}")
    samples = None if samples == checkpoint.samples else samples
    name = f"{checkpoint.spec.dataset}-{checkpoint.dataset_sha256[:16]}" + (f"-{samples}" if samples else "")
    folder = build.root / "data" / name
    made = store.read_or_warn(Evaluation, folder / "evaluation.json")
    if made is not None and all(
        (folder / name).is_file() and store.sha256(folder / name) == digest for name, digest in made.sha256.items()
    ):
        return folder / made.images
    _materialise(checkpoint, folder, samples)
    return folder / "images.npy"


def labels(images: Path) -> Any:
    """Labels of the split in `images`: int64 (N,)."""
    import numpy as np

    return np.load(images.with_name("labels.npy"), allow_pickle=False)


def _materialise(checkpoint: Checkpoint, folder: Path, samples: int | None) -> None:
    import numpy as np

    split = train.test_split(checkpoint)
    chosen = stats.stratified(split.labels, samples or len(split))
    say(f"preparing {len(chosen)} evaluation pictures of {checkpoint.spec.dataset}")
    shape = (len(chosen), *checkpoint.spec.inputs[0].shape)
    with store.atomic(folder) as new:
        new.mkdir()
        with (new / "images.npy").open("wb") as file:  # not a memory map: a full disk would end the process by a signal
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in bar(range(0, len(chosen), CHUNK), "preparing", unit="chunk"):
                file.write(split.images(chosen[start : start + CHUNK].tolist()).tobytes())
        np.save(new / "labels.npy", split.labels[chosen])
        hashes = {name: store.sha256(new / name) for name in ("images.npy", "labels.npy")}
        store.write(
            new / "evaluation.json",
            Evaluation("images.npy", "labels.npy", hashes, checkpoint.dataset_sha256, len(chosen)),
        )
