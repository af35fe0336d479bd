"""The files of a folder or a zip that a dataset reads whole. A zip is read without unpacking it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import BadData

MOST_BYTES = 1 << 28
"""A larger file is refused: it is no recording, or a bomb."""


def read(data: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names, with "/" between folders, and contents of the wanted files, sorted by name. Hidden files are left out.

    Raises:
        BadData: `data` is missing or neither a folder nor a zip, or a file cannot be read or is too large.
    """
    if data.is_dir():
        yield from _of_folder(data, wanted)
    elif data.is_file():
        yield from _of_zip(data, wanted)
    else:
        raise BadData(f"--data {data}: no such file or folder")


def _of_folder(data: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    found = {path.relative_to(data).as_posix(): path for path in data.rglob("*") if path.is_file()}
    for name in _chosen(list(found), wanted):
        try:
            if found[name].stat().st_size > MOST_BYTES:
                raise BadData(f"{found[name]} has more than {MOST_BYTES >> 20} MB")
            yield name, found[name].read_bytes()
        except OSError as error:
            raise BadData(f"{found[name]}: {error.strerror}") from error


def _of_zip(data: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(data) as archive:
            for name in _chosen([info.filename for info in archive.infolist() if not info.is_dir()], wanted):
                if archive.getinfo(name).file_size > MOST_BYTES:
                    raise BadData(f"{data}!{name} has more than {MOST_BYTES >> 20} MB")
                yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadData(f"{data} cannot be read as a zip: {error}") from error


def _chosen(names: list[str], wanted: Callable[[str], bool]) -> list[str]:
    hidden = [name for name in names if any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    return sorted(name for name in set(names) - set(hidden) if wanted(name))
