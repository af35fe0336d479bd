"""Releases: the files of one model with what was measured of them, from a bundle or from a build folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline import stats
from pipeline.core import Artifact, Cell, Measurement, ModelSpec
from pipeline.errors import BadOption, Broken
from pipeline.results import bundle as bundles
from pipeline.results import collect, reference, rows
from pipeline.system import store
from pipeline.system.store import Store


class Top1(Protocol):
    def __call__(self) -> Any:
        """The top-1 of every sample that a measurement ran: (n,) class indices."""


@dataclass(frozen=True)
class Measured:
    """A file on a device."""

    cell: Cell
    measurement: Measurement
    top1: Top1


@dataclass(frozen=True)
class Released:
    """One model file.

    Attributes:
        file: its path.
        measured_sha256, measured_bytes: of the file that was measured. A bundle's file has metadata added to it.
        measured: by the name of the device; with one thread.
    """

    artifact: Artifact
    file: Path
    measured_sha256: str
    measured_bytes: int
    measured: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.artifact.recipe} on {self.artifact.target}"

    def require_intact(self) -> None:
        """
        Raises:
            Broken: the file does not match its manifest.
        """
        if not self.file.exists() or store.sha256(self.file) != self.artifact.sha256:
            raise Broken(f"{self.file} does not match artifact.json")


@dataclass(frozen=True)
class Release:
    """A model's files.

    Attributes:
        version, licence: None of a build folder.
        labels: the true class of every sample of the evaluation split.
        files: by (recipe, target).
        others: why a cell has no file, or a device no measurement of it, by (recipe, target, device or None).
    """

    path: Path
    version: str | None
    licence: str | None
    framework: str
    spec: ModelSpec
    weights_sha256: str
    dataset_sha256: str
    accuracy: float
    labels: Any
    files: Mapping[tuple[str, str], Released]
    others: Mapping[tuple[str, str, str | None], Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In a sentence: "digits_cnn 1.0.0"."""
        return f"{self.spec.name} {self.version}" if self.version else f"{self.spec.name} in {self.path}"

    @property
    def devices(self) -> list[str]:
        """The devices that measured any file."""
        return sorted({device for file in self.files.values() for device in file.measured})


def read(path: Path, model: str | None = None, framework: str | None = None) -> Release:
    """The release in a folder: a bundle, or a build folder with one model.

    Args:
        model, framework: which of a build folder's models; None for its only one.

    Raises:
        BadOption: the folder is neither, or has several such models.
        Broken: a file of a bundle was changed.
    """
    if (path / bundles.MANIFEST).exists():
        return _of_bundle(path)
    known = Store(path).models() if path.is_dir() else []
    if not known:
        raise BadOption(f"{path} is no bundle and no build folder with a model")
    chosen = [pair for pair in known if model in (None, pair[0]) and framework in (None, pair[1])]
    if len(chosen) != 1:
        names = ", ".join(f"{name} ({kind})" for name, kind in known)
        raise BadOption(f"{path} has {names}: name one with --model and --framework")
    return of_build(Store(path), *chosen[0])


def _of_bundle(path: Path) -> Release:
    bundle = bundles.read(path)
    files = {}
    for cell in bundle.cells:
        artifact = bundles.artifact(path, cell)
        found = zip(cell.results, cell.measurements, bundles.measurements(path, cell), strict=False)
        measured = {
            str(row.device): Measured(row, measurement, partial(bundles.top1, path, name))
            for row, name, measurement in found
            if row.threads in (None, 1)
        }
        size = cell.results[0].size_bytes
        assert size is not None  # true of every cell of a bundle
        files[cell.recipe, cell.target] = Released(artifact, path / cell.file, cell.measured_sha256, size, measured)
    return Release(
        path, bundle.version, bundle.licence, bundle.framework, bundle.spec, bundle.weights_sha256,
        bundle.dataset_sha256, bundle.accuracy, bundles.labels(path), files,
    )  # fmt: skip


def of_build(build: Store, model: str, framework: str) -> Release:
    """The files of a model in a build folder.

    Raises:
        BadOption: it has no such model.
        Broken: its checkpoint is broken.
    """
    baseline = reference.read(build, model, framework)
    checkpoint = baseline.checkpoint
    if checkpoint is None:
        if baseline.status != "missing":
            raise Broken(str(baseline.problem))
        known = ", ".join(f"{name} ({kind})" for name, kind in build.models()) or "no model"
        raise BadOption(f"{build.root} has {known}, and not {model} ({framework})")
    files: dict[tuple[str, str], Released] = {}
    others: dict[tuple[str, str, str | None], Cell] = {}
    for row in collect.rows(build, [(model, framework)]):
        cell, place = row.cell, (row.cell.recipe, row.cell.target)
        if row.artifact is None or cell.status != "ok":
            others[(*place, cell.device)] = cell
        if row.artifact is None:
            continue
        folder = build.cell(model, framework, *place)
        made = row.artifact
        one = files.get(place, Released(made, folder / made.file, made.sha256, made.size_bytes))
        measured = dict(one.measured)
        if cell.status == "ok" and row.measurement and cell.device and cell.threads in (None, 1):
            measured[cell.device] = Measured(cell, row.measurement, partial(_top1, row))
        files[place] = replace(one, measured=measured)
    return Release(
        build.root, None, None, framework, checkpoint.spec, checkpoint.weights_sha256, checkpoint.dataset_sha256,
        checkpoint.accuracy, baseline.labels, files, others,
    )  # fmt: skip


def _top1(row: rows.Row) -> Any:
    return stats.top1(rows.outputs(row)[0])


def same_samples(old: Release, new: Release, before: Measured, after: Measured) -> tuple[Any, Any, Any] | str:
    """The truth and both top-1 of the samples that both measurements ran, or the reason why there are none.

    Of two subsets of one split, the larger contains the smaller; see `stats.stratified`.
    """
    splits = before.measurement.accuracy.dataset_sha256, after.measurement.accuracy.dataset_sha256
    if splits[0] != splits[1]:
        return "measured on other images"
    labels = new.labels
    one, other = before.top1(), after.top1()
    smaller = stats.stratified(labels, min(len(one), len(other)))
    return labels[smaller], *(_of(labels, top1, smaller) for top1 in (one, other))


def _of(labels: Any, top1: Any, wanted: Any) -> Any:
    """The predictions of these samples, from those of a subset of the split that contains them."""
    import numpy as np

    return top1[np.searchsorted(stats.stratified(labels, len(top1)), wanted)]
