"""Bundles: reads what `inv ship` wrote, and checks every file of it.

A bundle comes from somewhere else. So nothing in it is trusted: a name must stay inside the folder, a link or a device
is no file, and a file is not read beyond the size that it should have.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipeline.core import Artifact, Bundle, BundledCell, BundledFile, Golden, Measurement, from_json, to_json
from pipeline.errors import Broken
from pipeline.packages import Contents, ShippedCell

T = TypeVar("T")

MANIFEST, SIGNATURE = "bundle.json", "bundle.sig"
LARGEST_MANIFEST = 64 << 20
MOST_FILES = 100_000
DEEPEST = 64
UNSET = "0" * 64
"""The value of Bundle.digest while its digest is computed."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Problem:
    """A file of a bundle that is not what it should be.

    Attributes:
        file: its path in the bundle.
        reason: for example "was changed".
    """

    file: str
    reason: str

    def __str__(self) -> str:
        name = self.file if self.file.isprintable() else ascii(self.file)  # a name must not control the terminal
        return f"{name} {self.reason}"


# -- reading -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Bundle:
    """The bundle in a folder, after a check of every file. The signature is not checked; see `signature.check`.

    Raises:
        Broken: it is no bundle, or a file of it was changed, is missing or does not belong to it.
    """
    found = problems(path)
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Broken(f"{path}: {found[0]}{more}")
    return manifest(path)


def manifest(path: Path) -> Bundle:
    """bundle.json of a folder. Only this file is checked.

    Raises:
        Broken: it cannot be read, or was changed.
    """
    content = limited(path, MANIFEST)
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise Broken(f"{path}: {MANIFEST} is not JSON: it was changed") from error
    bundle = from_json(Bundle, value, MANIFEST)
    if digest(content, bundle.digest) != bundle.digest:
        raise Broken(f"{path}: {MANIFEST} was changed: its digest does not match")
    for name in bundle.files:
        _require_inside(name)
    for cell in bundle.cells:
        for name in (cell.file, f"models/{cell.recipe}/{cell.target}/artifact.json", *cell.measurements):
            if name not in bundle.files and not any(file.startswith(f"{name}/") for file in bundle.files if name):
                raise Broken(f"{path}: {MANIFEST} names {name!r}, which is not the path of a file of the bundle")
    return bundle


def text(bundle: Bundle) -> str:
    """bundle.json of a bundle, with the digest of the text filled in."""
    value = {**to_json(bundle), "digest": UNSET}
    unset = json.dumps(value, indent=1) + "\n"
    return unset.replace(UNSET, hashlib.sha256(unset.encode()).hexdigest(), 1)


def digest(content: bytes, recorded: str) -> str:
    """The digest that bundle.json should record: sha256 of the file with zeros in place of the recorded digest."""
    return hashlib.sha256(content.replace(recorded.encode(), UNSET.encode(), 1)).hexdigest()


def artifact(path: Path, cell: BundledCell) -> Artifact:
    """The manifest of a model file of a checked bundle."""
    return _noun(Artifact, path / "models" / cell.recipe / cell.target / "artifact.json")


def measurements(path: Path, cell: BundledCell) -> tuple[Measurement, ...]:
    """The raw measurements of a model file of a checked bundle, in the order of `cell.results`."""
    return tuple(_noun(Measurement, path / name) for name in cell.measurements)


def golden(path: Path) -> Golden:
    """The manifest of the golden data of a checked bundle."""
    return _noun(Golden, path / "golden" / "golden.json")


def labels(path: Path) -> Any:
    """The true class of every evaluation sample: int64 (N,)."""
    return array(path / "measured" / "labels.npy")


def float_top1(path: Path) -> Any:
    """The float model's top-1 of every evaluation sample: int32 (N,)."""
    return array(path / "measured" / "float.npy")


def top1(path: Path, measurement: str) -> Any:
    """The top-1 of every sample that a measurement ran: int32 (n,); see `stats.stratified` for a subset.

    Args:
        measurement: one of `BundledCell.measurements`.
    """
    return array((path / measurement).with_suffix(".npy"))


def contents(path: Path) -> Contents:
    """What the packages of a checked bundle were written from."""
    bundle = manifest(path)
    cells = [
        ShippedCell(
            cell.recipe,
            cell.target,
            artifact(path, cell),
            measurements(path, cell),
            cell.results,
            cell.golden,
            cell.tolerance,
        )
        for cell in bundle.cells
    ]
    return Contents(
        path,
        bundle.model,
        bundle.version,
        bundle.spec,
        bundle.framework,
        bundle.weights_sha256,
        bundle.licence,
        tuple(cells),
        bundle.accuracy,
        bundle.samples,
        bundle.recommended,
    )


def array(path: Path) -> Any:
    """An array of a bundle. A header that claims more than the file holds is refused before anything is allocated.

    Raises:
        Broken: it is not an array.
    """
    import numpy as np

    content = path.read_bytes()
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
        count = 1
        for size in shape:
            count *= size
        if dtype.hasobject or count * dtype.itemsize != len(content) - file.tell():
            raise ValueError("its size does not fit its header")
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, KeyError, OSError, EOFError, SyntaxError) as error:
        raise Broken(f"{path.name} is not an array: {error}") from error


def _noun(kind: type[T], path: Path) -> T:
    try:
        return from_json(kind, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise Broken(f"{path} cannot be read: {error}") from error


# -- checking ----------------------------------------------------------------------------------------------------------


def problems(path: Path) -> list[Problem]:
    """Every file of a bundle that was changed, is missing or does not belong to it. Nothing is written.

    Raises:
        Broken: the folder is no bundle, or its bundle.json cannot be trusted.
    """
    if not path.is_dir():
        raise Broken(f"{path}: there is no such folder" if not path.exists() else f"{path} is not a folder")
    bundle = manifest(path)
    found, seen = [], set()
    for name, reason in walk(path):
        seen.add(name)
        if reason:
            found.append(Problem(name, reason))
        elif name not in bundle.files and name not in (MANIFEST, SIGNATURE):
            found.append(Problem(name, "does not belong to the bundle"))
    for name, file in bundle.files.items():
        if name not in seen:
            found.append(Problem(name, "is missing"))
        elif name not in {problem.file for problem in found} and not _is_intact(path / name, file):
            found.append(Problem(name, "was changed"))
    return found


def walk(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every file below a folder by its relative path, with the reason where it is no plain file. No link is followed.

    Raises:
        Broken: there are too many files, or they lie too deep.
    """
    left, count = [path], 0
    while left:
        folder = left.pop()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            inside = Path(entry.path).relative_to(path)
            count += 1
            if count > MOST_FILES or len(inside.parts) > DEEPEST:
                raise Broken(f"{path}: more than {MOST_FILES:,} files, or more than {DEEPEST} folders deep")
            if entry.is_symlink():
                yield inside.as_posix(), "is a symbolic link"
            elif entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield inside.as_posix(), None
            else:
                yield inside.as_posix(), "is not a plain file"


def _is_intact(path: Path, expected: BundledFile) -> bool:
    """Whether a file has its size and sha256. A file of another size is not read."""
    if path.stat().st_size != expected.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256


def limited(path: Path, name: str) -> bytes:
    """The content of a manifest of a bundle: a plain file of at most LARGEST_MANIFEST bytes.

    Raises:
        Broken: it is missing, too large, or not a plain file.
    """
    try:
        about = (path / name).lstat()
    except OSError as error:
        raise Broken(f"{path} is not a bundle: it has no {name}") from error
    if not stat.S_ISREG(about.st_mode):
        raise Broken(f"{path}: {name} is not a plain file")
    if about.st_size > LARGEST_MANIFEST:
        raise Broken(f"{path}: {name} has {about.st_size:,} bytes, and may have {LARGEST_MANIFEST:,}")
    return (path / name).read_bytes()


def _require_inside(name: str) -> None:
    """
    Raises:
        Broken: a path could point out of the bundle.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != name or "\\" in name or not name.isprintable():
        raise Broken(f"{MANIFEST} names {name!r}, which is not the path of a file of the bundle")
