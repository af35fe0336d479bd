"""Two artifacts compared on one device: the result of `inv compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import stats, tasks
from pipeline.core import Artifact, Checkpoint, Measurement
from pipeline.errors import Broken
from pipeline.results import bundle as bundles
from pipeline.results import predictions, ratios
from pipeline.system import store
from pipeline.system.store import Store

MARGIN = 0.02
"""Files whose ratio is shown to be within this share of 1 are the same."""

COUNTED = "instructions"


@dataclass(frozen=True)
class AccuracyChange:
    """The accuracy of two files on the same samples.

    Attributes:
        old, new: as fractions.
        lost, gained: samples that only the old, or only the new file classifies correctly.
        drop_points, drop_interval: see `stats.paired_drop`.
        p: of the exact McNemar test.
        verdict: "better" or "worse" if p is at most 5 %; "same" if no sample differs; otherwise "cannot tell".
    """

    samples: int
    old: float
    new: float
    lost: int
    gained: int
    drop_points: float
    drop_interval: tuple[float, float]
    p: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two files on one device.

    Attributes:
        figure: "latency", or "instructions" on a device that counts them.
        old_cost, new_cost: median of the processes' medians: milliseconds, or instructions.
        old_runtime, new_runtime: name, version and threads.
        ratio: new / old; of latency the geometric mean over the rounds, with its interval at 1 - alpha.
        interval, alpha, resolution: None for instructions, which are exact. The resolution is the narrowest margin
            that these rounds and their extension can show, as a share.
        margin: within which the files are the same, as a share.
        verdict: "better", "worse", "same" or "cannot tell"; see `ratios.verdict`.
        rounds_needed: about how many rounds would tell; None where the verdict does.
        accuracy: None where `accuracy_unknown` has the reason.
    """

    old: str
    new: str
    device: str
    emulated: bool
    hardware: str
    figure: str
    old_sha256: str
    new_sha256: str
    old_bytes: int
    new_bytes: int
    old_runtime: str
    new_runtime: str
    old_cost: float
    new_cost: float
    rounds: int
    ratio: float
    interval: tuple[float, float] | None
    alpha: float | None
    resolution: float | None
    margin: float
    verdict: str
    rounds_needed: int | None = None
    accuracy: AccuracyChange | None = None
    accuracy_unknown: str | None = None


def counted(ratio: float, margin: float) -> str:
    """The verdict on a ratio of instruction counts, which have no noise."""
    if 1 / (1 + margin) <= ratio <= 1 + margin:
        return ratios.SAME
    return ratios.WORSE if ratio > 1 else ratios.BETTER


def accuracy_change(truth: Any, old_top1: Any, new_top1: Any) -> AccuracyChange:
    """How two files classify the same samples. Args: (N,) class indices."""
    before, after = old_top1 == truth, new_top1 == truth
    lost, gained = stats.discordant(before, after)
    drop, interval = stats.paired_drop(before, after)
    p = stats.mcnemar(lost, gained)
    verdict = ratios.SAME if not lost + gained else stats.CANNOT_TELL
    if p <= sum(ratios.ALPHAS):
        verdict = ratios.WORSE if lost > gained else ratios.BETTER
    return AccuracyChange(
        len(truth), float(before.mean()), float(after.mean()), lost, gained, drop, interval, p, verdict
    )


@dataclass(frozen=True)
class Predicted:
    """The predictions of a measurement.

    Attributes:
        split: identifies the samples.
        labels: of all samples of the split's file; None if they are not beside the artifact.
    """

    split: tuple[str, int]
    top1: Any
    labels: Any = None


def predicted(folder: Path, device: str) -> Predicted | str:
    """The predictions of an artifact's folder in a build folder or a bundle on a device, or why there are none."""
    root = folder.parents[2]
    if (root / bundles.MANIFEST).is_file():
        return _in_bundle(root, folder.parent.name, folder.name, device)
    home = folder / device
    measurement = store.read(Measurement, home / "measurement.json")
    if measurement is None:
        return f"{folder} has no predictions on {device}"
    artifact = store.read(Artifact, folder / "artifact.json")
    if artifact is None or artifact.sha256 != measurement.artifact_sha256:
        return f"{folder} was measured on {device} before it was exported again"
    if not tasks.of(artifact.spec).CLASSES:
        return f"the {tasks.of(artifact.spec).NAME} of two files is not compared yet"
    accuracy = measurement.accuracy
    outputs, _ = predictions.read(home, accuracy.predictions, accuracy.predictions_sha256)
    labels = _labels(folder, artifact, accuracy.samples)
    return Predicted((accuracy.dataset_sha256, accuracy.samples), stats.top1(outputs[0]), labels)


def _in_bundle(root: Path, recipe: str, target: str, device: str) -> Predicted | str:
    """As `predicted`, of a file of a bundle, after a check of the bundle."""
    for cell in bundles.read(root).cells:
        for measurement, name in zip(bundles.measurements(root, cell), cell.measurements, strict=True):
            place = cell.recipe, cell.target, measurement.device["name"], measurement.runtime["threads"]
            if place == (recipe, target, device, 1):
                labels, accuracy = bundles.labels(root), measurement.accuracy
                chosen = stats.stratified(labels, accuracy.samples)
                return Predicted((accuracy.dataset_sha256, accuracy.samples), bundles.top1(root, name), labels[chosen])
    return f"{root} has no predictions of {recipe} on {target} on {device}"


def _labels(folder: Path, artifact: Artifact, samples: int) -> Any:
    """The labels of the evaluation split, or of its stratified subset, from the checkpoint of a build folder."""
    if folder.parents[1].name != f"{artifact.model}.{artifact.framework}":
        return None
    home = Store(folder.parents[2]).checkpoint(artifact.model, artifact.framework)
    checkpoint = store.read(Checkpoint, home / "checkpoint.json")
    if checkpoint is None:
        return None
    _, labels = predictions.read(home, checkpoint.predictions, checkpoint.predictions_sha256)
    if labels is None or samples > len(labels):
        raise Broken(f"{home / checkpoint.predictions} has no labels for {samples} samples")
    return labels if samples == len(labels) else labels[stats.stratified(labels, samples)]


def accuracy(old: Path, new: Path, device: str) -> AccuracyChange | str:
    """The change of accuracy between two artifacts' folders on a device, or the reason why it is unknown."""
    found = [predicted(folder, device) for folder in (old, new)]
    for one in found:
        if isinstance(one, str):
            return one
    before, after = (one for one in found if isinstance(one, Predicted))
    if before.split != after.split:
        return "their predictions are of different samples"
    labels = after.labels if after.labels is not None else before.labels
    if labels is None:
        return "the labels of their samples are not known"
    return accuracy_change(labels, before.top1, after.top1)
