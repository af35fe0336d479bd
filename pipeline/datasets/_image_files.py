"""Image files in a folder or a zip, by relative name; a zip is read without unpacking it.

Ignores hidden files and files without an image suffix. Refuses names and links that lead out of the folder, because a
dataset must not depend on files outside of it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.datasets._images import is_image_file
from pipeline.errors import BadData

LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, length of the name, length of the extra field. Source: APPNOTE.TXT, 4.3.7."""


class Files(Protocol):
    """A folder or a zip.

    Attributes:
        images: names of the image files, "/" between folders, sorted.
        folders: names of all folders, empty ones too.
    """

    @property
    def images(self) -> tuple[str, ...]: ...

    @property
    def folders(self) -> frozenset[str]: ...

    def where(self, name: str = "") -> str:
        """The name for messages: the path, or zip!member."""

    def read(self, name: str) -> bytes:
        """An image file's content.

        Raises:
            BadData: it cannot be read.
        """

    def sha256(self, name: str) -> str:
        """Hash of an image file's content."""

    def below(self, folder: str) -> Files:
        """The files of one of the folders, with names relative to it."""


def open_files(data: Path) -> Files:
    """The image files of a folder or a zip.

    Raises:
        BadData: the path is missing, or neither a folder nor a zip; the zip is corrupt; a name or link leads outside.
    """
    if data.is_dir():
        return _open_folder(data)
    if not data.exists():
        raise BadData(f"{data} does not exist: --data must be a folder or a zip of images")
    if not os.access(data, os.R_OK):
        raise BadData(f"{data} cannot be read: permission denied")
    if not zipfile.is_zipfile(data):
        is_zip = data.suffix.lower() == ".zip"
        found = "a corrupt zip, without its directory" if is_zip else "neither a folder nor a zip"
        raise BadData(f"{data} is {found}; --data must be a folder or a zip of images")
    return _open_zip(data)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


# -- a folder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Folder:
    root: Path
    images: tuple[str, ...]
    folders: frozenset[str]

    def where(self, name: str = "") -> str:
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise BadData(f"{self.root / name}: cannot be read any more ({error.strerror})") from error

    def sha256(self, name: str) -> str:
        path = self.root / name
        try:
            status = path.stat()
            return _file_sha256(str(path), status.st_size, status.st_mtime_ns, status.st_ino)
        except OSError as error:
            raise BadData(f"{path}: cannot be read any more ({error.strerror})") from error

    def below(self, folder: str) -> _Folder:
        return _Folder(self.root / folder, tuple(_inside(self.images, folder)), _folders_inside(self.folders, folder))


@lru_cache(maxsize=1_000_000)
def _file_sha256(path: str, size: int, changed_ns: int, inode: int) -> str:
    """A file's hash, cached because all three splits need it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_folder(root: Path) -> _Folder:
    images: list[str] = []
    folders: set[str] = set()
    try:
        _walk(root.resolve(), "", images, folders)
    except OSError as error:
        raise BadData(f"{error.filename}: cannot be read ({error.strerror})") from error
    return _Folder(root, tuple(sorted(images)), frozenset(folders))


def _walk(root: Path, prefix: str, images: list[str], folders: set[str]) -> None:
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            name = prefix + entry.name
            if entry.is_symlink():
                if _links_to_image(root, Path(entry.path)):
                    images.append(name)
            elif entry.is_dir():
                folders.add(name)
                _walk(root, f"{name}/", images, folders)
            elif entry.is_file() and is_image_file(name):
                images.append(name)


def _links_to_image(root: Path, link: Path) -> bool:
    """Whether a link points to an image; False for a link to a file of another type, which is ignored.

    Raises:
        BadData: it points to a folder, to nothing, or out of the root.
    """
    if not link.is_dir() and not is_image_file(link.name):
        return False
    target = link.resolve()
    if not target.is_file():
        raise BadData(f"{link} is a link to {target}, which is not a file; replace it by the images themselves")
    if not target.is_relative_to(root):
        raise BadData(f"{link} is a link out of the dataset (to {target}); replace it by the image itself")
    return True


# -- a zip -------------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A zip's directory entry: offset of the local header, compressed and real size in bytes, CRC-32, method."""

    offset: int
    stored_bytes: int
    size_bytes: int
    crc: int
    method: int


@dataclass(frozen=True)
class _Zip:
    """Reads members by offset and opens the file for each, so that threads and forked processes may read as well."""

    path: Path
    members: Mapping[str, _Member]
    folders: frozenset[str]
    prefix: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(sorted(self.members))

    def where(self, name: str = "") -> str:
        return f"{self.path}!{self.prefix}{name}" if self.prefix or name else str(self.path)

    def read(self, name: str) -> bytes:
        member = self.members[name]
        try:
            content = _inflated(member, self._stored(member))
        except (OSError, struct.error, zlib.error) as error:
            raise BadData(f"{self.where(name)}: cannot be read ({error}); fetch the zip again") from error
        if len(content) != member.size_bytes or zlib.crc32(content) != member.crc:
            raise BadData(f"{self.where(name)}: size or checksum differ from the zip's directory; fetch the zip again")
        return content

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def below(self, folder: str) -> _Zip:
        members = {inner: self.members[f"{folder}/{inner}"] for inner in _inside(self.members, folder)}
        return _Zip(self.path, members, _folders_inside(self.folders, folder), f"{self.prefix}{folder}/")

    def _stored(self, member: _Member) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            header = os.pread(file.fileno(), LOCAL_HEADER.size, member.offset)
            signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
            if signature != LOCAL_SIGNATURE:
                raise OSError("no local header at its offset")
            start = member.offset + LOCAL_HEADER.size + name_bytes + extra_bytes
            return os.pread(file.fileno(), member.stored_bytes, start)


def _inflated(member: _Member, stored: bytes) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return stored
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, member.size_bytes + 1)  # limits a decompression bomb


def _open_zip(path: Path) -> _Zip:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        path_bytes = path.stat().st_size
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise BadData(f"{path}: corrupt zip ({error}); fetch it again") from error
    members: dict[str, _Member] = {}
    folders: set[str] = set()
    for info in infos:
        parts = _parts(path, info.filename)
        if any(map(_hidden, parts)):
            continue
        names = parts if info.is_dir() else parts[:-1]
        folders.update("/".join(names[:depth]) for depth in range(1, len(names) + 1))
        if not info.is_dir() and is_image_file(info.filename):
            members["/".join(parts)] = _member(path, path_bytes, info)
    return _Zip(path, members, frozenset(folders))


def _parts(path: Path, name: str) -> list[str]:
    """The components of a member's name.

    Raises:
        BadData: the name is absolute or contains "..", so that unpacking the zip would write outside of the folder.
    """
    if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0] or ".." in name.split("/"):
        raise BadData(f"{path}!{name}: the name leads out of the zip; create the zip with relative names only")
    return [part for part in name.split("/") if part not in ("", ".")]


def _member(path: Path, path_bytes: int, info: zipfile.ZipInfo) -> _Member:
    if info.header_offset < 0 or info.header_offset + info.compress_size > path_bytes:
        raise BadData(f"{path}!{info.filename}: exceeds the end of the zip; fetch the zip again")
    if info.flag_bits & 1:
        raise BadData(f"{path}!{info.filename}: is encrypted; create the zip without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadData(f"{path}!{info.filename}: unsupported compression {info.compress_type}; use store or deflate")
    return _Member(info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)


# -- both --------------------------------------------------------------------------------------------------------------


def _inside(names: Iterable[str], folder: str) -> list[str]:
    prefix = f"{folder}/"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _folders_inside(folders: frozenset[str], folder: str) -> frozenset[str]:
    return frozenset(_inside(folders, folder))
