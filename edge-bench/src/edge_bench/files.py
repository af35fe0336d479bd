"""File hashes, and atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import BadArtifact, CannotWrite

CHUNK_BYTES = 1 << 20


def sha256(path: Path) -> str:
    """The file's SHA-256 as 64 hex digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def contains(path: Path, pattern: bytes) -> bool:
    """Whether the file contains these bytes. It is mapped, not read into memory."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(pattern) >= 0


def check_artifact(path: Path) -> None:
    """Raises BadArtifact unless `path` is a readable file."""
    if not path.exists():
        raise BadArtifact(f"{path}: no such file; give the path of a model file")
    if not path.is_file():
        raise BadArtifact(f"{path} is not a file; give the path of a model file")
    if not os.access(path, os.R_OK):
        raise BadArtifact(f"{path} cannot be read; check its permissions")


def check_writable(path: Path) -> None:
    """Raises CannotWrite if `path` cannot be written. Call it before a long run, so that the run is not wasted."""
    folder = path.parent
    if not folder.is_dir():
        raise CannotWrite(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if path.is_dir():
        raise CannotWrite(f"cannot write {path}: it is a folder; give a file name")
    if not os.access(folder, os.W_OK):
        raise CannotWrite(f"cannot write {path}: no permission to write in {folder}")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into CannotWrite for `path`."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}; nothing was written") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that is renamed to `path` at the end of the block, or deleted if the block raises.

    It is in the same folder, because a rename is atomic only within one file system.

    Raises:
        CannotWrite: the disk is full, or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
