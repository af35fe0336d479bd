"""Image files in a folder or a zip, by relative name; a zip is read without unpacking it.

Hidden files and files that are no images are ignored; images that cannot be decoded are listed. A folder's links are
followed, to files and folders, also outside of it: images are identified by content. A zip must not have links, or
names that lead out of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from pipeline.datasets import _images
from pipeline.datasets._images import Kind
from pipeline.errors import BadData

LOCAL_SIGNATURE = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, length of the name, length of the extra field. Source: APPNOTE.TXT, 4.3.7."""

BEGINNING_BYTES = 1 << 20
"""What is read of a file without a known suffix to see whether it is an image."""


class Files(Protocol):
    """A folder or a zip.

    Attributes:
        images: names of the image files, "/" between folders, sorted.
        unread: names of files that are images by suffix or content, but cannot be decoded; sorted.
        folders: names of all folders, empty ones too.
    """

    @property
    def images(self) -> tuple[str, ...]: ...

    @property
    def unread(self) -> tuple[str, ...]: ...

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
        BadData: the path is missing, or neither a folder nor a zip; a link is broken or leads in a circle; the zip is
            corrupt, or has a link or a name that leads outside.
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
    unread: tuple[str, ...]
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
        images, unread = (tuple(_inside(names, folder)) for names in (self.images, self.unread))
        return _Folder(self.root / folder, images, unread, _folders_inside(self.folders, folder))


@lru_cache(maxsize=1_000_000)
def _file_sha256(path: str, size: int, changed_ns: int, inode: int) -> str:
    """A file's hash, cached because all three splits need it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_folder(root: Path) -> _Folder:
    images: list[str] = []
    unread: list[str] = []
    folders: set[str] = set()
    real = root.resolve()
    pending = [("", frozenset(_identity(parent.stat()) for parent in (real, *real.parents)))]
    while pending:  # folders to list, each with the identities of itself and of the folders that it is in
        prefix, within = pending.pop()
        for entry in _entries(root / prefix):
            name = prefix + entry.name
            if entry.is_symlink() and not _is_whole(entry):
                continue
            if entry.is_dir():
                own = _identity(entry.stat())
                if own in within:
                    target = os.path.realpath(entry.path)
                    raise BadData(f"{entry.path}: a link leads in a circle, back to {target}; remove it")
                folders.add(name)
                pending.append((f"{name}/", within | {own}))
            elif entry.is_file():
                match _kind(name, partial(_beginning, Path(entry.path))):
                    case Kind.IMAGE:
                        images.append(name)
                    case Kind.OTHER_IMAGE:
                        unread.append(name)
    return _Folder(root, tuple(sorted(images)), tuple(sorted(unread)), frozenset(folders))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder contains, without hidden entries."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _hidden(entry.name)]
    except OSError as error:
        raise BadData(f"{error.filename}: cannot be read ({error.strerror})") from error


def _is_whole(link: os.DirEntry[str]) -> bool:
    """Whether a link has a target; False for a broken link whose name is that of a file, but not of an image.

    Raises:
        BadData: the broken link may be that of an image or a folder.
    """
    try:
        link.stat()
    except OSError as error:
        if _images.kind(link.name) is Kind.NO_IMAGE:
            return False
        target = Path(link.path).readlink()
        raise BadData(
            f"{link.path}: the link to {target} is broken ({error.strerror}); restore or remove it"
        ) from error
    return True


def _beginning(path: Path) -> bytes:
    """A file's first bytes; empty if it cannot be read, because nothing says yet that it is an image."""
    try:
        with path.open("rb") as file:
            return file.read(BEGINNING_BYTES)
    except OSError:
        return b""


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


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
    unread: tuple[str, ...]
    folders: frozenset[str]
    prefix: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(sorted(self.members))

    def where(self, name: str = "") -> str:
        return f"{self.path}!{self.prefix}{name}" if self.prefix or name else str(self.path)

    def read(self, name: str) -> bytes:
        return _content(self.path, self.members[name], self.where(name))

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def below(self, folder: str) -> _Zip:
        members = {inner: self.members[f"{folder}/{inner}"] for inner in _inside(self.members, folder)}
        unread = tuple(_inside(self.unread, folder))
        return _Zip(self.path, members, unread, _folders_inside(self.folders, folder), f"{self.prefix}{folder}/")


def _content(path: Path, member: _Member, where: str) -> bytes:
    try:
        content = _inflated(member, _stored(path, member))
    except (OSError, struct.error, zlib.error) as error:
        raise BadData(f"{where}: cannot be read ({error}); fetch the zip again") from error
    if len(content) != member.size_bytes or zlib.crc32(content) != member.crc:
        raise BadData(f"{where}: size or checksum differ from the zip's directory; fetch the zip again")
    return content


def _stored(path: Path, member: _Member) -> bytes:
    with path.open("rb", buffering=0) as file:
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
    unread: list[str] = []
    folders: set[str] = set()
    for info in infos:
        parts = _parts(path, info.filename)
        if any(map(_hidden, parts)):
            continue
        names = parts if info.is_dir() else parts[:-1]
        folders.update("/".join(names[:depth]) for depth in range(1, len(names) + 1))
        if info.is_dir():
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BadData(f"{path}!{info.filename}: is a link; create the zip with the files that its links point to")
        name = "/".join(parts)
        match _kind(name, partial(_member_beginning, path, path_bytes, info)):
            case Kind.IMAGE:
                if name in members:
                    raise BadData(f"{path}!{name}: the zip has two files of this name; create the zip again")
                members[name] = _member(path, path_bytes, info)
            case Kind.OTHER_IMAGE:
                unread.append(name)
    return _Zip(path, members, tuple(sorted(unread)), frozenset(folders))


def _member_beginning(path: Path, path_bytes: int, info: zipfile.ZipInfo) -> bytes:
    """As `_beginning`, of a member."""
    try:
        member = _member(path, path_bytes, info)
        stored = _stored(path, member._replace(stored_bytes=min(member.stored_bytes, BEGINNING_BYTES)))
        return _inflated(member._replace(size_bytes=BEGINNING_BYTES), stored)
    except (BadData, OSError, struct.error, zlib.error):
        return b""


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


def _kind(name: str, beginning: Callable[[], bytes]) -> Kind:
    """What a file is: by its suffix, and without a known suffix by its content. Only a file without any suffix becomes
    an image by its content, so that no unfinished download (cat.jpg.part) is used."""
    found = _images.kind(name)
    if found is not Kind.UNKNOWN:
        return found
    if not _images.is_image(beginning()):
        return Kind.NO_IMAGE
    return Kind.OTHER_IMAGE if PurePosixPath(name).suffix else Kind.IMAGE


def _inside(names: Iterable[str], folder: str) -> list[str]:
    prefix = f"{folder}/"
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _folders_inside(folders: frozenset[str], folder: str) -> frozenset[str]:
    return frozenset(_inside(folders, folder))
