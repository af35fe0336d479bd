"""The build/ tree: paths, manifests, content hashes, atomic writes and the lock.

    build/<model>.<framework>/checkpoint/                            checkpoint.json, weights, predictions
    build/<model>.<framework>/graphs/                                the captured float graph
    build/<model>.<framework>/<recipe>/graphs/                       the quantized graphs, for static recipes
    build/<model>.<framework>/<recipe>/<target>/                     artifact.json, model.<suffix>, export.log
    build/<model>.<framework>/<recipe>/<target>/<device>/            measurement.json, predictions.npz

The path says what a thing is, the manifest's key what went into it. A manifest is written last, by a rename: a file
without a manifest that fits it does not count.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from pipeline.core import from_json, to_json
from pipeline.errors import Broken, DiskFull
from pipeline.system import proc
from pipeline.system.progress import say

T = TypeVar("T")

TEMPORARY = ".tmp-"
"""How names of unfinished files begin; what an interrupted run left of them is swept by the next."""
OWNED = re.compile(re.escape(TEMPORARY) + r"(\d+)-(\d+)-")
"""How those begin that need no lock: with the process that makes them, by number and start, for numbers come again."""
THREADS = "threads-"
"""Prefix of the folder, inside a device's, that holds the measurement with more than one thread."""
LOCK = ".lock"
"""The file that who writes into a folder holds."""
TAG = ".lastmile"
"""Marks a folder that began as a build folder: `inv clean` empties no other. It is no CACHEDIR.TAG, for which backups
would leave trained weights out."""
SIGNATURE = "A build folder of Lastmile's: inv clean empties it.\n"


@dataclass(frozen=True)
class Store:
    """Paths in one build folder."""

    root: Path

    def home(self, model: str, framework: str) -> Path:
        return self.root / f"{model}.{framework}"

    def checkpoint(self, model: str, framework: str) -> Path:
        return self.home(model, framework) / "checkpoint"

    def graphs(self, model: str, framework: str, recipe: str | None = None) -> Path:
        """Captured graphs: the float one, or a static recipe's quantized ones."""
        home = self.home(model, framework)
        return (home / recipe if recipe else home) / "graphs"

    def cell(self, model: str, framework: str, recipe: str, target: str) -> Path:
        return self.home(model, framework) / recipe / target

    def models(self) -> list[tuple[str, str]]:
        """(model, framework) of every checkpoint that is there."""
        found = sorted(self.root.glob("*/checkpoint/checkpoint.json"))
        return [(home.stem, home.suffix[1:]) for home in (path.parent.parent for path in found)]

    @property
    def tagged(self) -> bool:
        """Whether the folder began as a build folder."""
        tag = self.root / TAG
        return tag.is_file() and tag.read_bytes() == SIGNATURE.encode()

    def contents(self) -> list[Path]:
        """All that was made: everything but the tag and locks, which others may be waiting for, in folders too."""
        there = sorted(self.root.iterdir()) if self.root.is_dir() else []
        parts = [
            Store(path).contents() if (path / LOCK).is_file() and not path.is_symlink() else [path] for path in there
        ]
        return [path for part in parts for path in part if path.name not in (TAG, LOCK)]


# -- manifests ---------------------------------------------------------------------------------------------------------


def read(kind: type[T], path: Path) -> T | None:
    """The noun in a manifest; None where there is no file.

    Raises:
        Broken: it is not JSON, or not this noun.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        value = json.loads(content.decode())
    except ValueError as error:
        raise Broken(f"{path}: not JSON ({error})") from error
    return from_json(kind, value, str(path))


def read_or_warn(kind: type[T], path: Path) -> T | None:
    """As `read`, but a broken manifest counts as none, with a line saying so: what it described is made anew."""
    try:
        return read(kind, path)
    except Broken as error:
        say(f"{error}; made anew")
        return None


def write(path: Path, noun: Any) -> None:
    """Writes a noun as JSON, whole or not at all."""
    write_text(path, json.dumps(to_json(noun), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes `path`'s place when the block ends without an error.

    The block makes a file or a folder there. Errors leave `path` as it was, and nothing beside it.

    Raises:
        DiskFull: no space is left.
    """
    temporary, old = unfinished(path), unfinished(path.with_name(f"old-{path.name}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.exists():  # a folder can't be renamed over a full one
            path.rename(old)
            temporary.rename(path)
            remove(old)
        else:
            temporary.replace(path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        remove(temporary)
        if isinstance(error, OSError) and is_full(error):
            raise full(path) from error
        raise


def unfinished(path: Path) -> Path:
    """A name beside `path` for what will be there: this process's own, which nobody sweeps while it lives."""
    pid = os.getpid()
    return path.with_name(f"{TEMPORARY}{pid}-{proc.began(pid)}-{path.name}")


def is_full(error: OSError) -> bool:
    """Whether an error says that no space is left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full(path: Path) -> DiskFull:
    """The error for a disk without space at `path`."""
    return DiskFull(
        f"no space left on the disk of {path.parent}: free some (inv clean) and run again; nothing was lost"
    )


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -- content -----------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """Content hash of a file, or of a folder's files with their relative names."""
    if path.is_dir():
        parts = [(str(p.relative_to(path)), sha256(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return digest(parts)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hash of anything JSON can say."""
    return hashlib.sha256(json.dumps(to_json(value), sort_keys=True).encode()).hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


# -- one writer at a time ----------------------------------------------------------------------------------------------


@contextmanager
def lock(store: Store, what: str) -> Iterator[None]:
    """Holds the build folder: stages that write wait here for each other, with a line that says for whom.

    The kernel gives the lock back when its holder ends, however that happens.
    """
    with _held(store.root) as file:
        file.seek(0)
        file.truncate()
        file.write(f"{what} (process {os.getpid()})\n")
        file.flush()
        sweep(store.root)
        yield


def _held(root: Path) -> IO[str]:
    """The lock's file, open and held. Where the folder was removed while this waited, that of the new one."""
    path = root / LOCK
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(_opened(path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                say(f"{root} is in use by {file.read().strip() or 'another run'}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _opened(path: Path) -> IO[str]:
    """The lock's file; a folder that is new, or empty, gets its tag before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not any(path.parent.iterdir()):
            with atomic(path.with_name(TAG)) as temporary:
                temporary.write_text(SIGNATURE)
        return path.open("a+")
    except OSError as error:
        if is_full(error):
            raise full(path) from error
        raise


def sweep(root: Path) -> None:
    """Removes what interrupted runs left unfinished; only the holder of the lock may. A folder below with a lock of its
    own is its holder's to sweep, and what a living process makes without the lock (a report) is that process's."""
    for home, folders, files in os.walk(root):
        for name in (*folders, *files):
            if name.startswith(TEMPORARY) and not _in_the_making(name):
                remove(Path(home) / name)
        folders[:] = [name for name in folders if not (name.startswith(TEMPORARY) or Path(home, name, LOCK).exists())]


def _in_the_making(name: str) -> bool:
    """Whether an unfinished file's process lives. A name without one was made under the lock, by its last holder."""
    owner = OWNED.match(name)
    return owner is not None and proc.began(int(owner[1])) == int(owner[2])


def threads_folder(device: Path, number: int) -> Path:
    """The folder of a measurement with so many threads: the device's own for one, one within it for more."""
    return device if number == 1 else device / f"{THREADS}{number}"


def device_and_threads(home: Path) -> tuple[str, int]:
    """Device and number of threads of such a folder; 0 where its name is no number's.

    Args:
        home: relative to the artifact's folder.
    """
    device, *more = home.parts
    number = more[0].removeprefix(THREADS) if more else "1"
    return device, int(number) if number.isdecimal() else 0
