"""What changed between two releases, for an app developer: contract, size, latency, accuracy, licence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline import stats
from pipeline.core import to_json
from pipeline.results import releases
from pipeline.results.releases import Measured, Release

MOST_FLIPS = 5
"""Examples that a difference lists for each file."""


@dataclass(frozen=True)
class Flip:
    """A sample that the two releases classify differently.

    Attributes:
        sample: its index in the evaluation split.
    """

    sample: int
    truth: str
    old: str
    new: str


@dataclass(frozen=True)
class FileChange:
    """One model file on one device (None: nothing was measured on the same one).

    Attributes:
        same_file: both releases measured a file of the same sha256.
        old_bytes, new_bytes: of the files that were measured, without metadata.
        old_ms, new_ms: medians that each release recorded; None on an emulated device. They were not measured
            alternately: `inv compare` tells whether the difference is real.
        drop_points, drop_interval: accuracy lost on the same samples; None if there are none, for `reason`.
        classes: (label, drop in points) of classes whose accuracy changed.
        flips, examples: how many predictions differ, and the first of them.
    """

    recipe: str
    target: str
    device: str | None
    same_file: bool
    old_bytes: int
    new_bytes: int
    old_ms: float | None = None
    new_ms: float | None = None
    drop_points: float | None = None
    drop_interval: tuple[float, float] | None = None
    classes: tuple[tuple[str, float], ...] = ()
    flips: int = 0
    examples: tuple[Flip, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ReleaseChange:
    """Two releases.

    Attributes:
        contract: (what, old, new) of what an app depends on: labels, inputs, outputs, preprocessing.
        facts: the same of what it does not: weights, licence, framework.
        files: of both releases.
        removed, added: files of only one.
    """

    old: str
    new: str
    contract: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str, str], ...]
    files: tuple[FileChange, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]


def difference(old: Release, new: Release) -> ReleaseChange:
    """What changed from one release to another."""
    contract = [
        (name, before, after)
        for name in ("name", "task", "labels", "inputs", "outputs", "preprocessing")
        if (before := _text(getattr(old.spec, name))) != (after := _text(getattr(new.spec, name)))
    ]
    facts = [
        (name, before, after)
        for name, before, after in (
            ("licence", str(old.licence), str(new.licence)),
            ("framework", old.framework, new.framework),
            ("weights", old.weights_sha256[:12], new.weights_sha256[:12]),
            ("evaluation images", old.dataset_sha256[:12], new.dataset_sha256[:12]),
        )
        if before != after
    ]
    both = [place for place in old.files if place in new.files]
    return ReleaseChange(
        old.name,
        new.name,
        tuple(contract),
        tuple(facts),
        tuple(change for place in both for change in _of_file(old, new, place)),
        tuple(file.name for place, file in old.files.items() if place not in new.files),
        tuple(file.name for place, file in new.files.items() if place not in old.files),
    )


def _of_file(old: Release, new: Release, place: tuple[str, str]) -> list[FileChange]:
    before, after = old.files[place], new.files[place]
    same = before.measured_sha256 == after.measured_sha256
    sizes = before.measured_bytes, after.measured_bytes
    devices = [device for device in before.measured if device in after.measured]
    if not devices:
        return [FileChange(*place, None, same, *sizes, reason="not measured on the same device")]
    return [_measured(old, new, FileChange(*place, device, same, *sizes), device) for device in devices]


def _measured(old: Release, new: Release, change: FileChange, device: str) -> FileChange:
    place = change.recipe, change.target
    sides = [release.files[place].measured[device] for release in (old, new)]
    old_ms, new_ms = map(_milliseconds, sides)
    change = replace(change, old_ms=old_ms, new_ms=new_ms)
    if old.spec.labels != new.spec.labels:
        return replace(change, reason="the labels differ")
    found = releases.same_samples(old, new, *sides)
    if isinstance(found, str):
        return replace(change, reason=found)
    truth, one, other = found
    labels = new.spec.labels
    drop, interval = stats.paired_drop(one == truth, other == truth)
    classes = [
        (labels[i], lost) for i, (_, lost, _) in enumerate(stats.class_drops(truth, one, other, len(labels))) if lost
    ]
    flipped = [int(i) for i in (one != other).nonzero()[0]]
    positions = stats.stratified(new.labels, len(truth))
    examples = [
        Flip(int(positions[i]), *(_label(labels, int(top1[i])) for top1 in (truth, one, other)))
        for i in flipped[:MOST_FLIPS]
    ]
    return replace(
        change,
        drop_points=drop,
        drop_interval=interval,
        classes=tuple(classes),
        flips=len(flipped),
        examples=tuple(examples),
    )


def _label(labels: Sequence[str], index: int) -> str:
    """A class's label; outputs that are not finite are no class."""
    return labels[index] if 0 <= index < len(labels) else "no class"


def _milliseconds(side: Measured) -> float | None:
    return side.cell.latency_ms.p50 if side.cell.latency_ms else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(to_json(value), ensure_ascii=False)
