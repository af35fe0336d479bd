"""The board's side of a session: sent when it begins and run by the board's own python3; none of it stays there.

Standard input: the length of this source, compressed, on a line; that source; then requests, each a line of JSON and
its bytes. Standard output: an answer to each, a line of JSON and the bytes of the files that go back. Blank lines say
that the other side is there; from us they are how a connection that is dead gets noticed.

It needs Python 3.7 and its standard library. A session that holds the board holds a lock that the kernel frees when its
holder ends, however that happens; standard input's end says that the connection is gone, and ends this process.
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
TOLD_BYTES = 1 << 16
"""So much of a program's last words on standard error goes back."""
THERMAL = Path("/sys/class/thermal")
COOL_SECONDS, COOL_POLL_SECONDS = 900, 5
BEAT_SECONDS = 30
"""So often a blank line goes out: a connection whose other end vanished without a word fails at the next one."""
DIES_WITH_PARENT = 1  # Source: linux/prctl.h, PR_SET_PDEATHSIG

if TYPE_CHECKING:  # Python 3.7 knows neither dict[str, Any] nor X | None outside annotations
    from collections.abc import Callable, Iterable

    Request = dict[str, Any]


class Refused(Exception):
    """What could not be done.

    Args:
        kind: the word by which the host knows it: full, gone, cut, corrupt, hot or system.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


# -- verbs -------------------------------------------------------------------------------------------------------------


def ask(asked: Request) -> Request:
    """What the board is, and which runtimes are there."""
    folder = home(asked)
    library = ""
    with contextlib.suppress(ValueError, OSError):  # musl knows no such name
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    return {
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "libc": library,
        "python": list(sys.version_info[:2]),
        "folder": str(folder),
        "free_bytes": free(folder),
        "runtimes": [path.name for path in entries(folder / "runtimes")],
    }


def hold(asked: Request) -> Request:
    """Takes the board until this session ends, and says what `ask` says. Where another has it, its words about itself
    are a first answer, and the other one comes when that job has ended."""
    folder = home(asked)
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        reply({"waits_for": file.read().strip() or "another job"})

        def give_up(told: bool) -> None:
            if not told:
                os._exit(0)

        with Listening(give_up):
            fcntl.flock(file, fcntl.LOCK_EX)
    HELD.append(file)
    with contextlib.suppress(OSError):  # a full disk must not keep anyone from cleaning it
        file.truncate(0)
        file.write(asked["who"])
        file.flush()
    for place in (folder, folder / "files", folder / "runtimes"):
        for path in place.glob(TEMPORARY + "*"):
            discard(path)
    return ask(asked)


def have(asked: Request) -> Request:
    """Which of the named files are missing. Those that are there are read and hashed: a corrupt one is removed."""
    folder = home(asked) / "files"
    missing = []
    for name, digest in asked["files"]:
        path = folder / name
        if not path.is_file():
            missing.append(name)
        elif sha256(path) != digest:
            path.unlink()
            missing.append(name)
        else:
            os.utime(str(path))
    return {"missing": missing, "folder": str(folder)}


def room(asked: Request) -> Request:
    """Makes room for what is about to be sent, so that nothing is sent in vain."""
    make_room(asked, asked["needed"], asked["wanted"])
    return {}


def put(asked: Request) -> Request:
    """Takes files, each whole and as its hash says or not at all."""
    folder = home(asked) / "files"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size, digest in asked["files"]:
        temporary = folder / (TEMPORARY + name)
        try:
            with temporary.open("wb") as file:
                arriving = Arriving(asked, size)
                shutil.copyfileobj(arriving, file, PIECE)
                file.flush()
                os.fsync(file.fileno())
            arriving.check(digest)
            temporary.rename(folder / name)
        finally:
            discard(temporary)
    return {}


def unpack(asked: Request) -> Request:
    """Takes a runtime: a .tar.gz that becomes one folder, whole or not at all."""
    folder = home(asked) / "runtimes"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (TEMPORARY + asked["name"])
    arriving = Arriving(asked, asked["bytes"])
    try:
        with tarfile.open(fileobj=arriving, mode="r|gz") as archive:  # type: ignore[call-overload]
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(str(temporary), **safely)
        while arriving.read(PIECE):
            pass
        arriving.check(asked["sha256"])
        os.sync()  # else a power cut could leave the folder, and its files empty
        temporary.rename(folder / asked["name"])
    except (tarfile.TarError, EOFError) as error:
        raise Refused("cut", "the runtime arrived in part only") from error
    finally:
        discard(temporary)
    return {}


def call(asked: Request) -> None:
    """Runs a program and answers; the files it wrote follow the answer.

    Its strings hash alike each time: with a seed of chance a look-up in a dictionary takes more or fewer steps, which
    moved a count of 200,000 instructions by 0.1 % from one process to the next.
    """
    folder = home(asked)
    runtime = folder / "runtimes" / asked["runtime"]
    if not runtime.is_dir():
        raise Refused("gone", "its runtime is not there any more")
    os.utime(str(runtime))
    scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(folder)))
    try:
        outputs: list[Path] = []
        words = [word.format(python=sys.executable, runtime=runtime) for word in asked["program"]]
        for word in asked["words"]:
            if isinstance(word, str):
                words.append(word)
            elif "file" in word:
                words.append(str(present(folder / "files" / word["file"])))
            else:
                outputs.append(scratch / word["out"])
                words.append(str(outputs[-1]))
        environment = {**os.environ, "PYTHONPATH": str(runtime), "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
        done = run(words, environment, scratch)
        sent = [path for path in outputs if path.is_file()]
        done["files"] = [[path.name, path.stat().st_size, sha256(path)] for path in sent]
        done["folder"] = str(folder)
        reply(done, sent)
    finally:
        discard(scratch)


def cool(asked: Request) -> Request:
    """Waits until the board is as cool as it shall be."""
    cool_down(asked["cool_down_c"])
    return {}


def clean(asked: Request) -> Request:
    """Frees what all other verbs took."""
    folder = home(asked)
    taken = [path for path in (folder / "files", folder / "runtimes") if path.is_dir()]
    freed = sum(map(weight, taken))
    for path in taken:
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
    "clean": clean,
}
HELD: list[IO[str]] = []
"""The lock, while this session has the board: every verb but `ask` is asked then only."""


# -- running -----------------------------------------------------------------------------------------------------------


def run(words: list[str], environment: dict[str, str], scratch: Path) -> Request:
    """Runs a program to its end; it ends earlier, with all it started, when the other side says so or is gone.

    It holds the lock too: should this process be killed, the board is free only when the program is gone.
    """
    ended: list[bool] = []
    with (scratch / "out").open("w+b") as out, (scratch / "err").open("w+b") as err:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=str(scratch),
            start_new_session=True,
            pass_fds=[file.fileno() for file in HELD],
            preexec_fn=goes_first,  # noqa: PLW1509 (prctl takes no lock that a thread could hold)
        )

        def end(told: bool) -> None:
            ended.append(told)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        with Listening(end):
            code = process.wait()
        if False in ended:
            raise Refused("cut", "the connection is gone")
        told = [tail(file) for file in (out, err)]
    return {"code": code, "out": told[0], "err": told[1][-TOLD_BYTES:], "timed_out": True in ended}


class Listening:
    """Calls `each` once, in a thread, should the other side send something or be gone: True, or False.

    Nothing is sent while a request is under way but a blank line, which asks for its end.
    """

    def __init__(self, each: Callable[[bool], Any]) -> None:
        self.each = each
        self.ended, self.end = os.pipe()
        self.thread = threading.Thread(target=self.listen, daemon=True)

    def listen(self) -> None:
        if self.ended not in select.select([0, self.ended], [], [])[0]:
            self.each(os.read(0, 1) != b"")

    def __enter__(self) -> Listening:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.end)
        self.thread.join()
        os.close(self.ended)


def goes_first() -> None:
    """Runs in the child. Where memory runs out it is the one to go, not this process or what else the board does; and
    the kernel ends it when this process ends (where there is no ctypes, it outlives a kill -9)."""
    with contextlib.suppress(OSError), Path("/proc/self/oom_score_adj").open("w") as file:
        file.write("1000")
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)


def tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def cool_down(limit: float, thermal: Path = THERMAL) -> None:
    """Waits until the hottest sensor is at or below the limit; a board without a sensor is not waited for."""
    waited = 0
    while True:
        zones = sorted(thermal.glob("thermal_zone*/temp"))
        celsius = [int(text) / 1000 for text in map(sensor, zones) if text.lstrip("-").isdigit()]
        if not celsius or max(celsius) <= limit:
            return
        if waited >= COOL_SECONDS:
            raise Refused("hot", f"still at {max(celsius):.0f} °C after {waited} s of cooling: above cool_down_c")
        if select.select([0], [], [], COOL_POLL_SECONDS)[0]:
            raise Refused("cut", "nobody waits for it to cool down any more")
        waited += COOL_POLL_SECONDS


def sensor(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


# -- the folder --------------------------------------------------------------------------------------------------------


def home(asked: Request) -> Path:
    """The folder that everything is in."""
    folder = Path(os.path.expanduser(asked["folder"]))  # noqa: PTH111 (`~x` stays a name where there is no user x)
    return Path(os.path.abspath(str(folder)))  # noqa: PTH100 (no link is resolved)


def make_room(asked: Request, needed: int, wanted: list[str]) -> None:
    """Keeps the folder within its bound: what was used longest ago goes first, files before runtimes."""
    folder, bound = home(asked), asked.get("space_bytes")
    if bound is not None:
        old = [*entries(folder / "files"), *entries(folder / "runtimes")[:-1]]
        taken = weight(folder)
        for path in old:
            if taken + needed <= bound or path.name in wanted:
                continue
            taken -= weight(path)
            discard(path)
        if taken + needed > bound:
            raise Refused("full", f"space_bytes = {bound} is less than the {taken + needed} bytes needed")
    if free(folder) < needed:
        raise Refused("full", f"{needed / 1e6:.1f} MB are needed there, {free(folder) / 1e6:.1f} MB are free")


def entries(folder: Path) -> list[Path]:
    """What is in a folder, the one used longest ago first."""
    found = [path for path in folder.glob("*") if not path.name.startswith(TEMPORARY)]
    return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def present(path: Path) -> Path:
    if not path.is_file():
        raise Refused("gone", "a file that was sent is not there any more")
    return path


def weight(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
    return path.lstat().st_size


def free(folder: Path) -> int:
    """Bytes that may still be written."""
    while not folder.exists():
        folder = folder.parent
    space = os.statvfs(str(folder))
    return space.f_bavail * space.f_frsize


def discard(path: Path) -> None:
    """Removes what is there, if anything is."""
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
    """The next `size` of a request's bytes as a file, hashed on the way."""

    def __init__(self, asked: Request, size: int) -> None:
        self.asked, self.left, self.digest = asked, size, hashlib.sha256()

    def read(self, size: int = PIECE) -> bytes:
        piece = sys.stdin.buffer.read(min(size, self.left))
        if not piece and self.left:
            raise Refused("cut", "the connection ended before the file did")
        self.asked["bytes"] -= len(piece)
        self.left -= len(piece)
        self.digest.update(piece)
        return piece

    def check(self, expected: str) -> None:
        if self.left or self.digest.hexdigest() != expected:
            raise Refused("corrupt", "what arrived is not what was sent")


SPEAKING = threading.Lock()


def reply(answer: Request, files: Iterable[Path] = ()) -> None:
    out = sys.stdout.buffer
    with SPEAKING:
        out.write(json.dumps(answer).encode() + b"\n")
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, out, PIECE)
        out.flush()


def beat() -> None:
    """Sends blank lines. It wakes a measuring board up as seldom as makes no difference."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(BEAT_SECONDS)
            with SPEAKING:
                sys.stdout.buffer.write(b"\n")
                sys.stdout.buffer.flush()


def answer(asked: Request) -> None:
    """Answers a request."""
    try:
        if asked["verb"] == "call":
            call(asked)
        else:
            reply(VERBS[asked["verb"]](asked))
    except Refused as error:
        refuse(asked, error.kind, str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        kind = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        refuse(asked, kind, f"{error.filename or 'the disk'}: {error.strerror}")


def refuse(asked: Request, kind: str, why: str) -> None:
    """Says why, and reads past what is still on its way, so that this session keeps the board for what comes next."""
    reply({"refused": kind, "why": why})
    rest = Arriving(asked, asked.setdefault("bytes", 0))
    with contextlib.suppress(Refused):  # the connection is gone
        while rest.read():
            pass


def main() -> None:
    """Answers requests, one after another, until the other side has no more."""
    threading.Thread(target=beat, daemon=True).start()
    for line in iter(sys.stdin.buffer.readline, b""):
        if line.strip():
            answer(json.loads(line.decode()))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)
