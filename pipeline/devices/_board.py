"""The board's side of a session. The host sends this source at the start; the board's own python3 runs it from memory.

Standard input: a line with the length of this source (compressed), the source, a line with a random mark, then
requests: each a line of JSON and the request's bytes. Standard output: a response to each, a line with the mark and
JSON, and the bytes of the files that it sends back. The mark tells a response from what the board's shell prints.
Both sides also send blank lines: from the board as a heartbeat, by which a dead connection is noticed; from the host to
stop a request.

It requires Python 3.7 and only the standard library. A session that holds the board holds a lock, which the kernel
frees when the process ends for any reason. End of standard input means that the connection is gone and ends this
process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

PIECE = 1 << 20
TEMPORARY = ".tmp-"
ERR_BYTES = 1 << 16
"""How much of the end of a program's standard error is sent back."""
THERMAL = Path("/sys/class/thermal")
MODEL = ("/proc/device-tree/model", "/sys/class/dmi/id/product_name")
SERIAL = ("/proc/device-tree/serial-number",)
MACHINE_ID = ("/etc/machine-id",)
COOL_SECONDS, COOL_POLL_SECONDS = 900, 5
BEAT_SECONDS = 30
"""Interval of the heartbeat. Writing it fails if the other end of the connection has vanished."""
DIES_WITH_PARENT = 1  # Source: linux/prctl.h, PR_SET_PDEATHSIG

if TYPE_CHECKING:  # Python 3.7 has neither dict[str, Any] nor X | None outside annotations
    from collections.abc import Callable, Iterable

    Request = dict[str, Any]


class Refused(Exception):
    """A request that could not be carried out.

    Args:
        kind: one of full, gone, cut, corrupt, hot and system; the host adds advice by it.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


# -- verbs -------------------------------------------------------------------------------------------------------------


def ask(request: Request) -> Request:
    """Describes the board and lists its runtimes."""
    folder = home(request)
    library = ""
    with contextlib.suppress(ValueError, OSError):  # musl does not have this name
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return {
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "libc": library,
        "python": list(sys.version_info[:2]),
        "folder": str(folder),
        "free_bytes": free(folder),
        "runtimes": [path.name for path in entries(folder / "runtimes")],
        "hardware": {"model": first(MODEL), "serial": first(SERIAL), "machine_id": machine_id()},
    }


def first(paths: Iterable[str]) -> str:
    """The first of these files that has a text; "" if none has."""
    return next(filter(None, (sensor(Path(path)).strip("\0 \n") for path in paths)), "")


def machine_id() -> str:
    """A hash of the machine-id, which is confidential. Source: machine-id(5)."""
    found = first(MACHINE_ID)
    return hashlib.sha256(("lastmile " + found).encode()).hexdigest()[:16] if found else ""


def hold(request: Request) -> Request:
    """Locks the board until this session ends, and returns what `ask` returns. While another session has the board, a
    first response names that session; the second follows when the lock is free."""
    folder = home(request)
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        reply({"waits_for": file.read().strip() or "another job"})

        def give_up(stopped: bool) -> None:
            if not stopped:
                os._exit(0)

        with Listening(give_up):
            fcntl.flock(file, fcntl.LOCK_EX)
    HELD.append(file)
    with contextlib.suppress(OSError):  # a full disk must not prevent cleaning it
        file.truncate(0)
        file.write(request["who"])
        file.flush()
    for parent in (folder, folder / "files", folder / "runtimes"):
        for path in parent.glob(TEMPORARY + "*"):
            discard(path)
    return ask(request)


def have(request: Request) -> Request:
    """Lists which of the named files are missing. Existing files are hashed, and corrupt ones removed."""
    folder = home(request) / "files"
    missing = []
    for name, digest in request["files"]:
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif sha256(path) != digest:
            path.unlink()
            missing.append(name)
        else:
            os.utime(str(path))
    return {"missing": missing, "folder": str(folder)}


def room(request: Request) -> Request:
    """Frees space for the files of the next request, or refuses before they are sent."""
    make_room(request, request["needed"], request["wanted"])
    return {}


def put(request: Request) -> Request:
    """Receives files. A file is stored only if it is complete and its hash is right."""
    folder = home(request) / "files"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size, digest in request["files"]:
        temporary = folder / (TEMPORARY + name)
        try:
            with temporary.open("wb") as file:
                arriving = Arriving(request, size)
                shutil.copyfileobj(arriving, file, PIECE)
                file.flush()
                os.fsync(file.fileno())
            arriving.check(digest)
            temporary.rename(folder / name)
        finally:
            discard(temporary)
    return {}


def unpack(request: Request) -> Request:
    """Receives a runtime, a .tar.gz, and unpacks it into a folder of its own, completely or not at all."""
    folder = home(request) / "runtimes"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (TEMPORARY + request["name"])
    arriving = Arriving(request, request["bytes"])
    try:
        with tarfile.open(fileobj=arriving, mode="r|gz") as archive:  # type: ignore[call-overload]
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(str(temporary), **safely)
        while arriving.read(PIECE):
            pass
        arriving.check(request["sha256"])
        os.sync()  # otherwise a power cut could leave the folder with empty files
        temporary.rename(folder / request["name"])
    except (tarfile.TarError, EOFError) as error:
        raise Refused("cut", "the received runtime is incomplete") from error
    finally:
        discard(temporary)
    return {}


def call(request: Request) -> None:
    """Runs a program and responds; the files that it wrote follow the response.

    The hash seed is fixed: with a random one, dictionary look-ups take more or fewer steps, which changed a count of
    200,000 instructions by 0.1 % between two processes.
    """
    folder = home(request)
    runtime = folder / "runtimes" / request["runtime"]
    if not runtime.is_dir():
        raise Refused("gone", "the runtime was removed from the board")
    os.utime(str(runtime))
    scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(folder)))
    try:
        outputs: list[Path] = []
        argv = [arg.format(python=sys.executable, runtime=runtime) for arg in request["program"]]
        for arg in request["words"]:
            if isinstance(arg, str):
                argv.append(arg)
            elif "file" in arg:
                argv.append(str(present(folder / "files" / arg["file"])))
            else:
                outputs.append(scratch / arg["out"])
                argv.append(str(outputs[-1]))
        environment = {**os.environ, "PYTHONPATH": str(runtime), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
        done = run(argv, environment, scratch)
        sent = [path for path in outputs if path.is_file()]
        done["files"] = [[path.name, path.stat().st_size, sha256(path)] for path in sent]
        done["folder"] = str(folder)
        reply(done, sent)
    finally:
        discard(scratch)


def cool(request: Request) -> Request:
    """Waits until the board has cooled down to cool_down_c."""
    cool_down(request["cool_down_c"])
    return {}


def probe(request: Request) -> Request:
    """Runs a program of the standard library alone, which prints JSON; see _machine.py."""
    folder = home(request)
    scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(folder)))
    try:
        return run([sys.executable, "-c", request["program"], str(folder)], dict(os.environ), scratch)
    finally:
        discard(scratch)


def clean(request: Request) -> Request:
    """Removes all files and runtimes."""
    folder = home(request)
    found = [path for path in (folder / "files", folder / "runtimes") if path.is_dir()]
    freed = sum(map(size_bytes, found))
    for path in found:
        shutil.rmtree(str(path))
    return {"freed_bytes": freed}


VERBS: dict[str, Callable[[Request], Request]] = {
    "ask": ask,
    "hold": hold,
    "have": have,
    "room": room,
    "put": put,
    "unpack": unpack,
    "cool": cool,
    "probe": probe,
    "clean": clean,
}
HELD: list[IO[str]] = []
"""The lock file, while this session has the board. The host sends every verb but `ask` only then."""


# -- running -----------------------------------------------------------------------------------------------------------


def run(argv: list[str], environment: dict[str, str], scratch: Path) -> Request:
    """Runs a program to its end. When the host stops the request or is gone, it kills the program and its children.

    The program inherits the lock: if this process is killed, the board is free only when the program is gone.
    """
    ended: list[bool] = []
    with (scratch / "out").open("w+b") as out, (scratch / "err").open("w+b") as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=str(scratch),
            start_new_session=True,
            pass_fds=[file.fileno() for file in HELD],
            preexec_fn=prepare_child,  # noqa: PLW1509 (prctl takes no lock that a thread could hold)
        )

        def end(stopped: bool) -> None:
            ended.append(stopped)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        with Listening(end):
            code = process.wait()
        if False in ended:
            raise Refused("cut", "the connection was lost")
        printed = [text(file) for file in (out, err)]
    return {"code": code, "out": printed[0], "err": printed[1][-ERR_BYTES:], "timed_out": True in ended}


class Listening:
    """Calls `callback` once, in a thread, if the host stops the request (True) or is gone (False).

    While a request is in progress, the host sends nothing but a blank line, which stops it.
    """

    def __init__(self, callback: Callable[[bool], Any]) -> None:
        self.callback = callback
        self.ended, self.end = os.pipe()
        self.thread = threading.Thread(target=self.listen, daemon=True)

    def listen(self) -> None:
        if self.ended not in select.select([0, self.ended], [], [])[0]:
            self.callback(os.read(0, 1) != b"")

    def __enter__(self) -> Listening:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.end)
        self.thread.join()
        os.close(self.ended)


def prepare_child() -> None:
    """Runs in the child. If memory runs out, the kernel kills the child first, not this process or other work of the
    board. It also kills the child when this process ends (without ctypes, the child outlives a kill -9)."""
    with contextlib.suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("1000")
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)


def text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def cool_down(limit: float, thermal: Path = THERMAL) -> None:
    """Waits until the hottest sensor is at or below the limit. Returns at once if the board has no sensor."""
    waited = 0
    while True:
        zones = sorted(thermal.glob("thermal_zone*/temp"))
        celsius = [int(value) / 1000 for value in map(sensor, zones) if value.lstrip("-").isdigit()]
        if not celsius or max(celsius) <= limit:
            return
        if waited >= COOL_SECONDS:
            raise Refused("hot", f"still at {max(celsius):.0f} °C after {waited} s of cooling: above cool_down_c")
        if select.select([0], [], [], COOL_POLL_SECONDS)[0]:
            raise Refused("cut", "the host no longer waits for it to cool down")
        waited += COOL_POLL_SECONDS


def sensor(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


# -- the folder --------------------------------------------------------------------------------------------------------


def home(request: Request) -> Path:
    """The folder that contains everything that the host sends."""
    folder = Path(os.path.expanduser(request["folder"]))  # noqa: PTH111 (`~x` stays a name if there is no user x)
    return Path(os.path.abspath(str(folder)))  # noqa: PTH100 (no link is resolved)


def make_room(request: Request, needed: int, wanted: list[str]) -> None:
    """Keeps the folder within space_bytes: removes the least recently used entries, files before runtimes."""
    folder, limit = home(request), request.get("space_bytes")
    if limit is not None:
        old = [*entries(folder / "files"), *entries(folder / "runtimes")[:-1]]
        used = size_bytes(folder)
        for path in old:
            if used + needed <= limit or path.name in wanted:
                continue
            used -= size_bytes(path)
            discard(path)
        if used + needed > limit:
            raise Refused("full", f"space_bytes = {limit} is less than the {used + needed} bytes needed")
    if free(folder) < needed:
        raise Refused("full", f"{needed / 1e6:.1f} MB are needed on the board, {free(folder) / 1e6:.1f} MB are free")


def entries(folder: Path) -> list[Path]:
    """The entries of a folder, least recently used first."""
    found = [path for path in folder.glob("*") if not path.name.startswith(TEMPORARY)]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def present(path: Path) -> Path:
    if not path.is_file():
        raise Refused("gone", "a file that was sent is no longer on the board")
    return path


def size_bytes(path: Path) -> int:
    """Size of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
    return path.lstat().st_size


def free(folder: Path) -> int:
    """Free bytes on the disk of a folder."""
    while not folder.exists():
        folder = folder.parent
    space = os.statvfs(str(folder))
    return space.f_bavail * space.f_frsize


def discard(path: Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path), ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


# -- talking -----------------------------------------------------------------------------------------------------------


class Arriving:
    """The next `size` bytes of a request as a file, hashed while they are read."""

    def __init__(self, request: Request, size: int) -> None:
        self.request, self.left, self.digest = request, size, hashlib.sha256()

    def read(self, size: int = PIECE) -> bytes:
        piece = sys.stdin.buffer.read(min(size, self.left))
        if not piece and self.left:
            raise Refused("cut", "the connection ended in the middle of a file")
        self.request["bytes"] -= len(piece)
        self.left -= len(piece)
        self.digest.update(piece)
        return piece

    def check(self, expected: str) -> None:
        if self.left or self.digest.hexdigest() != expected:
            raise Refused("corrupt", "the received data differs from the sent data")


WRITING = threading.Lock()
MARK = [b""]


def reply(response: Request, files: Iterable[Path] = ()) -> None:
    out = sys.stdout.buffer
    with WRITING:
        out.write(MARK[0] + json.dumps(response).encode() + b"\n")
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, out, PIECE)
        out.flush()


def beat() -> None:
    """Sends the heartbeat, so rarely that it does not disturb a measurement."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(BEAT_SECONDS)
            with WRITING:
                sys.stdout.buffer.write(b"\n")
                sys.stdout.buffer.flush()


def handle(request: Request) -> None:
    """Carries out a request and responds."""
    try:
        if request["verb"] == "call":
            call(request)
        else:
            reply(VERBS[request["verb"]](request))
    except Refused as error:
        refuse(request, error.kind, str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        kind = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        refuse(request, kind, f"{error.filename or 'the disk'}: {error.strerror}")


def refuse(request: Request, kind: str, why: str) -> None:
    """Responds with the reason, and skips the rest of the request's bytes, so that the session can go on."""
    reply({"refused": kind, "why": why})
    rest = Arriving(request, request.setdefault("bytes", 0))
    with contextlib.suppress(Refused):  # the connection is gone
        while rest.read():
            pass


def main() -> None:
    """Handles requests, one after another, until the end of standard input."""
    MARK[0] = sys.stdin.buffer.readline().strip()
    threading.Thread(target=beat, daemon=True).start()
    for line in iter(sys.stdin.buffer.readline, b""):
        if line.strip():
            handle(json.loads(line.decode()))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)
