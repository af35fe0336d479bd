"""Semantic versions of bundles: what changed since an earlier bundle decides which part of the version must grow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import Artifact, Bundle, ModelSpec
from pipeline.errors import BadOption
from pipeline.results import bundle as bundles

VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")
PARTS = ("major", "minor", "patch")


@dataclass(frozen=True, order=True)
class Version:
    """major.minor.patch."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    def next(self, part: str) -> Version:
        """The lowest version above this one in which a part has grown."""
        return {
            "major": Version(self.major + 1, 0, 0),
            "minor": Version(self.major, self.minor + 1, 0),
            "patch": Version(self.major, self.minor, self.patch + 1),
        }[part]


@dataclass(frozen=True)
class Change:
    """What is different from an earlier bundle.

    Attributes:
        part: which part of the version must grow: one of PARTS.
        reasons: what changed, for example "the labels".
    """

    part: str
    reasons: tuple[str, ...]


def parse(text: str) -> Version:
    """
    Raises:
        BadOption: the text is not major.minor.patch.
    """
    match = VERSION.fullmatch(text)
    if match is None:
        raise BadOption(f"--version {text!r} is not major.minor.patch, such as 1.2.0")
    return Version(*map(int, match.groups()))


def earlier(folder: Path, model: str) -> Iterator[tuple[Version, Path]]:
    """Every bundle of a model in a folder, with its version: the names of the folders decide."""
    for path in sorted(folder.glob("*")):
        name, _, version = path.name.rpartition("-")
        if name == model and VERSION.fullmatch(version) and path.is_dir():
            yield parse(version), path


def change(path: Path, old: Bundle, spec: ModelSpec, weights_sha256: str, files: Sequence[Artifact]) -> Change:
    """What changed from an earlier bundle in `path` to a model with these files.

    Args:
        files: the manifests of the measured files.
    """
    broken = [name for name, before, after in _contract(old.spec, spec) if before != after]
    before = {(cell.recipe, cell.target): bundles.artifact(path, cell) for cell in old.cells}
    for file in files:
        known = before.get((file.recipe, file.target))
        if known is not None and not broken and _ports(known) != _ports(file):
            broken.append(f"the inputs or outputs of {file.recipe} on {file.target}")
    if broken:
        return Change("major", tuple(broken))
    if old.weights_sha256 != weights_sha256:
        return Change("minor", ("the weights",))
    measured = {(cell.recipe, cell.target): cell.measured_sha256 for cell in old.cells}
    other = [
        f"{file.recipe} on {file.target} (of the same weights)"
        for file in files
        if measured.get((file.recipe, file.target), file.sha256) != file.sha256
    ]
    return Change("patch", tuple(other) or ("neither the contract nor the files",))


def check(version: Version, highest: Version, found: Change) -> None:
    """
    Raises:
        BadOption: the version is not above the highest one, or says less than what changed.
    """
    least = highest.next(found.part)
    if version < least:
        what = " and ".join(found.reasons)
        raise BadOption(
            f"--version {version}: {what} changed since {highest}, so the {found.part} version must grow: "
            f"{least} or above"
        )


def _contract(old: ModelSpec, new: ModelSpec) -> Iterator[tuple[str, object, object]]:
    yield "the task", old.task, new.task
    yield "the labels", old.labels, new.labels
    yield "the inputs", old.inputs, new.inputs
    yield "the outputs", old.outputs, new.outputs
    yield "the preprocessing", old.preprocessing, new.preprocessing


def _ports(file: Artifact) -> list[tuple[object, ...]]:
    """What an app must know of a file's inputs and outputs. Scales belong to the weights."""
    sides = ((port, side) for side, ports in (("in", file.inputs), ("out", file.outputs)) for port in ports)
    return [(side, port.name, port.shape, port.dtype, port.layout) for port, side in sides]
