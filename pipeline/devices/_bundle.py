"""A runtime for a board as one archive: edge-bench and the wheels for the board, assembled on this machine.

The board needs no internet access, no pip and no compiler. On the board, the archive's name is its hash.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import SCHEMA
from pipeline.devices import _edge_bench, _runner
from pipeline.errors import StageFailed
from pipeline.system import proc, store
from pipeline.system.progress import working
from pipeline.system.store import Store

TOO_LARGE = {"executorch": "executorch_runner"}
"""Runtimes whose packages are too large for a board → the runtime that boards use for the same files."""
PROGRAM = ("{python}", "-s", "-m", "edge_bench")
"""The command that starts edge-bench on a board, which fills in {python} and {runtime}."""
MACHINES = ("aarch64", "x86_64")
GLIBC = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""Minor versions of glibc 2 that uv has a platform for. Source: uv pip install --help."""
OLDEST_PYTHON = (3, 9)
INSTALL_SECONDS = 900
EXCLUDED = ("tests",)
"""Folders of packages that no board needs. They are half of numpy's files, the slowest part to unpack on a board."""
WORKS = "64-bit Raspberry Pi OS 12 works"


@dataclass(frozen=True)
class Board:
    """A board's description of itself.

    Attributes:
        machine: uname's name of the architecture.
        bits: of its Python.
        libc: "glibc 2.36"; empty for another C library.
        python: major and minor version.
        runtimes: names of the archives that are unpacked on it.
        hardware: model, serial and machine_id; "" for what it does not have.
    """

    machine: str
    bits: int
    libc: str
    python: tuple[int, int]
    folder: str
    free_bytes: int
    runtimes: tuple[str, ...]
    hardware: Mapping[str, str]

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> Board:
        """The board that a response of `_board.ask` describes."""
        return cls(**{**response, "python": tuple(response["python"]), "runtimes": tuple(response["runtimes"])})

    def unsupported(self) -> str | None:
        """Why there is no runtime for it, and which system works; None if there may be wheels for it."""
        version = ".".join(map(str, self.python))
        if self.bits != 64 or self.machine in ("armv6l", "armv7l", "i386", "i686"):
            return f"its system is 32-bit ({self.machine}), and the runtimes require 64 bits: {WORKS}"
        if self.machine not in MACHINES:
            return f"no runtime exists for its architecture {self.machine} (known: {', '.join(MACHINES)})"
        if not self.libc.startswith("glibc 2."):
            return f"its C library is not glibc ({self.libc or 'musl?'}), which the runtimes require: {WORKS}"
        if self.python < OLDEST_PYTHON:
            return f"its Python is {version}, and edge-bench requires 3.9 or later: {WORKS}"
        return None

    def platform(self) -> str:
        """uv's name of its platform: with the newest known glibc that is not newer than the board's."""
        own = int(self.libc.removeprefix("glibc 2.").split(".")[0])
        fitting = [number for number in GLIBC if number <= own]
        return f"{self.machine}-manylinux_2_{max(fitting, default=min(GLIBC))}"


@dataclass(frozen=True)
class Bundle:
    """Manifest of an archive that is ready to be sent.

    Attributes:
        file: name of the .tar.gz, in the manifest's folder.
        unpacked_bytes: its size on the board.
    """

    runtime: str
    file: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int
    key: str
    schema: int = SCHEMA


def make(build: Store, board: Board, runtime: str) -> tuple[Bundle, Path]:
    """The archive of a runtime for boards like this one. It is built if there is none yet.

    Raises:
        StageFailed: there is no such runtime for the board. The message says why, and what works.
    """
    reason = board.unsupported()
    if reason:
        raise StageFailed(reason)
    if runtime in TOO_LARGE:
        raise StageFailed(f"{runtime}'s packages are too large for a board; boards use {TOO_LARGE[runtime]}")
    wanted = _edge_bench.requirements(runtime)
    native = [_runner.build(build, board.machine)] if runtime in _edge_bench.NATIVE else []
    source = _edge_bench.HERE / "src"
    parts = [(str(path.relative_to(source)), store.sha256(path)) for path in _edge_bench.sources()]
    key = store.digest([
        runtime, wanted, parts, board.platform(), board.python, [path.name for path in native], EXCLUDED,
    ])  # fmt: skip
    folder = build.root / "environments" / f"{runtime}-{board.machine}-{key[:16]}"
    made = _made(folder)
    if made is None:
        with store.lock(Store(folder.parent), f"fetching {runtime} for a board"):
            made = _made(folder) or _fetch(board, runtime, wanted, native, folder, key)
    return made, folder / made.file


def _made(folder: Path) -> Bundle | None:
    made = store.read_or_warn(Bundle, folder / "bundle.json")
    return made if made is not None and store.size(folder / made.file) == made.size_bytes else None


def _fetch(board: Board, runtime: str, wanted: list[str], native: list[Path], folder: Path, key: str) -> Bundle:
    source = _edge_bench.HERE / "src"
    with (
        working(f"fetching {runtime} for {board.platform()}, Python {'.'.join(map(str, board.python))}"),
        store.atomic(folder) as new,
    ):
        content = new / "content"
        _install(board, wanted, content)
        for path in _edge_bench.sources():
            (content / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, content / path.relative_to(source))
        for path in native:
            shutil.copytree(path, content, dirs_exist_ok=True)
        _compile(board, content)
        unpacked = store.size(content)
        _pack(content, new / "bundle.tar.gz")
        shutil.rmtree(content)
        file = new / "bundle.tar.gz"
        made = Bundle(runtime, file.name, store.sha256(file), store.size(file), unpacked, key)
        store.write(new / "bundle.json", made)
    return made


def _install(board: Board, wanted: list[str], folder: Path) -> None:
    version = ".".join(map(str, board.python))
    argv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", str(folder)]
    argv += ["--link-mode", "copy", "--python-version", version, "--python-platform", board.platform()]
    done = proc.run([*argv, *wanted], timeout=INSTALL_SECONDS)
    if done.code != 0:
        err = " ".join(done.err.split())
        raise StageFailed(
            f"cannot install wheels of {', '.join(wanted)} for Python {version} on {board.platform()}; {WORKS}, with "
            f"Python 3.11. uv reports: {err[-300:] if err else done.reason}"
        )
    for path in sorted(path for name in EXCLUDED for path in folder.rglob(name)):
        if path.is_dir():
            shutil.rmtree(path)


def _compile(board: Board, folder: Path) -> None:
    """Compiles to bytecode, if the board has this Python version. Otherwise the first run on the board compiles, and
    its measured memory and time include that."""
    if board.python != sys.version_info[:2]:
        return
    args = ["-m", "compileall", "-q", "-s", str(folder), "--invalidation-mode", "unchecked-hash", str(folder)]
    proc.run([sys.executable, *args], timeout=INSTALL_SECONDS)  # files that do not compile are never imported


def _pack(folder: Path, archive: Path) -> None:
    """Writes a .tar.gz whose bytes depend only on names and contents."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.rglob("*")):
            entry = tar.gettarinfo(path, str(path.relative_to(folder)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            if entry.isfile():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)
