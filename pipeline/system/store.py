"""The build folder: paths, manifests, content hashes, atomic writes and the lock.

    build/<model>.<framework>/checkpoint/                            checkpoint.json, weights, predictions
    build/<model>.<framework>/graphs/                                the captured float graph
    build/<model>.<framework>/<recipe>/graphs/                       the quantized graphs, for static recipes
    build/<model>.<framework>/<recipe>/recipe.json                   a recipe that came from a file
    build/<model>.<framework>/<recipe>/<target>/                     artifact.json, model.<suffix>, export.log
    build/<model>.<framework>/<recipe>/<target>/<device>/            measurement.json, predictions.npz

The path identifies a file; the cache key in its manifest identifies its inputs. The manifest is written last, by an
atomic rename. A file without a matching manifest does not count.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
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
"""Prefix of temporary files. The next run removes those that an interrupted run left."""
ASIDE = ".old-"
"""Prefix of a folder that is being replaced, where the file system cannot exchange two names in one call."""
OWNED = re.compile(rf"(?:{re.escape(TEMPORARY)}|{re.escape(ASIDE)})(\d+)-(\d+)-(?:\d+-)?(.*)")
"""A temporary name: the writing process's id and start time, because ids are reused; a number; the final name."""
FEW_FILES = 100
"""Up to so many files are flushed one by one; more of them with everything else on the disk."""
THREADS = "threads-"
"""Prefix of the folder within a device's folder that contains a measurement with several threads."""
LOCK = ".lock"
"""The file that a writer locks."""
TAG = ".lastmile"
"""Marks a build folder: `inv clean` empties no other folder. It is not a CACHEDIR.TAG, because backups would then
exclude trained weights."""
POLL_SECONDS = 0.1
SIGNATURE = "A build folder of Lastmile's: inv clean empties it.\n"
OLD_SIGNATURE = "The build folder of Lastmile: inv clean empties it.\n"


_of_thread = threading.local()
"""Build folders that each thread has locked."""
_numbers = itertools.count(1)


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

    def recipe(self, model: str, framework: str, recipe: str) -> Path:
        """A recipe that came from a file, as JSON."""
        return self.home(model, framework) / recipe / "recipe.json"

    def cell(self, model: str, framework: str, recipe: str, target: str) -> Path:
        return self.home(model, framework) / recipe / target

    def device(self, name: str) -> Store:
        """The folder whose lock the measurements under a device's name hold: they write the same files."""
        return Store(self.root / "devices" / name)

    def hardware(self, identity: str) -> Store:
        """The folder whose lock the measurements on one piece of hardware hold, whatever its name in devices.toml."""
        return Store(self.root / "devices" / f"hardware-{digest(identity)[:16]}")

    def models(self) -> list[tuple[str, str]]:
        """(model, framework) of every checkpoint."""
        found = sorted(self.root.glob("*/checkpoint/checkpoint.json"))
        return [(home.stem, home.suffix[1:]) for home in (path.parent.parent for path in found)]

    def locked(self) -> list[Store]:
        """It and the folders below it, as far as they have a lock of their own."""
        return [] if self.root.is_symlink() else [Store(path.parent) for path in sorted(self.root.rglob(LOCK))]

    @property
    def tagged(self) -> bool:
        """Whether the folder is marked as a build folder."""
        tag = self.root / TAG
        return tag.is_file() and tag.read_bytes() in (SIGNATURE.encode(), OLD_SIGNATURE.encode())

    def contents(self) -> list[Path]:
        """Everything but the tag and the locks, which other processes may be waiting for, also in nested folders."""
        entries = sorted(self.root.iterdir()) if self.root.is_dir() else []
        parts = [Store(path).contents() if Store(path).locked() else [path] for path in entries]
        return [path for part in parts for path in part if path.name not in (TAG, LOCK)]


# -- manifests ---------------------------------------------------------------------------------------------------------


def read(kind: type[T], path: Path) -> T | None:
    """The object of this class in a manifest; None if there is no file.

    Raises:
        Broken: the file is not JSON, or not an object of this class.
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
    """As `read`, but a broken manifest gives a warning and None, so that the caller rebuilds what it described."""
    try:
        return read(kind, path)
    except Broken as error:
        say(f"{error}; rebuilding")
        return None


def write(path: Path, noun: Any) -> None:
    """Writes an object as JSON, atomically."""
    write_text(path, json.dumps(to_json(noun), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which replaces `path` when the block ends without an error.

    The block creates a file or a folder there. After an error, `path` is unchanged and nothing temporary remains. After
    a kill or a power cut at any moment, `path` is the old or the new one, complete.

    Raises:
        DiskFull: no space is left on the disk.
    """
    temporary = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        if path.exists() and (temporary.is_dir() or path.is_dir()):
            _replace_folder(temporary, path)
        else:
            temporary.replace(path)
        _flush_entry(path.parent)
        remove(temporary)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and is_full(error):
            raise full(path) from error
        raise


def _replace_folder(new: Path, path: Path) -> None:
    """Gives `new` the name `path`, and what is there the name `new`. A rename cannot replace a folder with contents.

    Where the file system cannot exchange names, the old folder gets a name from which the next holder of the lock
    restores it.
    """
    if _exchanged(new, path):
        return
    pid = os.getpid()
    old = path.with_name(f"{ASIDE}{pid}-{proc.began(pid)}-{next(_numbers)}-{path.name}")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    old.rename(new)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchanges two names in one call. False where the system or the file system cannot.

    Source: renameat2(2), RENAME_EXCHANGE; macOS's rename(2), RENAME_SWAP.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(-100, names[0], -100, names[1], 2)  # -100: AT_FDCWD
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, 2)
    else:
        return False
    number = ctypes.get_errno() if failed else 0
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    if number:
        raise OSError(number, os.strerror(number), str(second))
    return True


def _flush(path: Path) -> None:
    """Writes a file, or all files of a folder, to the disk."""
    found = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    if len(found) > FEW_FILES:
        os.sync()
        return
    for each in found:
        if each.is_file() and not each.is_symlink():
            with each.open("rb") as file:
                os.fsync(file.fileno())
        elif each.is_dir():
            _flush_entry(each)


def _flush_entry(folder: Path) -> None:
    """Writes the names in a folder to the disk. Some network file systems cannot, and have nothing to write."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def unfinished(path: Path) -> Path:
    """A temporary name next to `path`, owned by this process: no other process removes it while this one lives."""
    pid = os.getpid()
    return path.with_name(f"{TEMPORARY}{pid}-{proc.began(pid)}-{next(_numbers)}-{path.name}")


def is_full(error: OSError) -> bool:
    """Whether an error means that no space is left on the disk or in the quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def full(path: Path) -> DiskFull:
    """The error for a disk without space at `path`."""
    return DiskFull(
        f"no space left on the disk of {path.parent}: free some (inv clean) and run again; nothing was lost"
    )


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -- content -----------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The content hash of a file, or of a folder's files with their relative paths."""
    if path.is_dir():
        parts = [(str(p.relative_to(path)), sha256(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return digest(parts)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The hash of a value that JSON can represent."""
    return hashlib.sha256(json.dumps(to_json(value), sort_keys=True).encode()).hexdigest()


def size(path: Path) -> int:
    """The size of a file, or of all files in a folder, in bytes."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


# -- one writer at a time ----------------------------------------------------------------------------------------------


@contextmanager
def lock(store: Store, what: str) -> Iterator[None]:
    """Locks the build folder for writing. A second writer waits, and prints which process it waits for. Reentrant in
    a thread.

    The kernel releases the lock when the process ends, however it ends.
    """
    held: set[Path] = _of_thread.__dict__.setdefault("held", set())
    root = store.root.absolute()
    if root in held:
        yield
        return
    with _held(store.root) as file:
        file.seek(0)
        file.truncate()
        file.write(f"{what} (process {os.getpid()})\n")
        file.flush()
        sweep(store.root)
        held.add(root)
        try:
            yield
        finally:
            held.remove(root)


def _held(root: Path) -> IO[str]:
    """The lock file, open and locked. If the folder was removed while waiting, that of the new folder."""
    path = root / LOCK
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(_opened(path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                say(f"{root} is in use by {file.read().strip() or 'another run'}; waiting for it")
                _wait_for(file)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _wait_for(file: IO[str]) -> None:
    """Waits for the lock. Ctrl-C ends the wait; in a thread, where no signal arrives, that takes polling."""
    if threading.current_thread() is threading.main_thread():
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while True:
        proc.check_interrupt()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(POLL_SECONDS)


def _opened(path: Path) -> IO[str]:
    """The open lock file. A new or empty folder is first marked as a build folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not any(path.parent.iterdir()):
            write_text(path.with_name(TAG), SIGNATURE)
        return path.open("a+")
    except OSError as error:
        if is_full(error):
            raise full(path) from error
        raise


def sweep(root: Path) -> None:
    """Removes temporary files of interrupted runs, and restores folders that they were replacing. Only the holder of
    the lock may call this.

    Nested folders with their own lock are skipped, as are files that a living process writes without the lock (a
    report).
    """
    for home, folders, files in os.walk(root):
        for name in (*folders, *files):
            if name.startswith(TEMPORARY) and not _in_use(name):
                remove(Path(home) / name)
            elif name.startswith(ASIDE) and not _in_use(name):
                _restore(Path(home) / name)
        folders[:] = [
            name for name in folders if not (name.startswith((TEMPORARY, ASIDE)) or Path(home, name, LOCK).exists())
        ]


def _restore(old: Path) -> None:
    """Gives a folder its name back, unless the new folder has it already."""
    owner = OWNED.fullmatch(old.name)
    assert owner is not None  # `_replace_folder` gave it the name
    path = old.with_name(owner[3])
    if path.exists():
        remove(old)
    else:
        old.rename(path)
        say(f"{path} is the old one again: a run was killed while it replaced it")


def _in_use(name: str) -> bool:
    """Whether the process that owns a temporary file lives. Files without an owner were written under the lock."""
    owner = OWNED.match(name)
    return owner is not None and proc.began(int(owner[1])) == int(owner[2])


def threads_folder(device: Path, number: int) -> Path:
    """The folder of a measurement with this number of threads: the device's folder for one, a subfolder for more."""
    return device if number == 1 else device / f"{THREADS}{number}"


def device_and_threads(home: Path) -> tuple[str, int]:
    """The device and the number of threads of a measurement's folder; 0 threads if its name is not valid.

    Args:
        home: path relative to the artifact's folder.
    """
    device, *more = home.parts
    number = more[0].removeprefix(THREADS) if more else "1"
    return device, int(number) if number.isdecimal() else 0
