"""Running programs: argv lists, never a shell string."""

from __future__ import annotations

import calendar
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pipeline.errors import NeedsTool

RUNNING: set[subprocess.Popen[str]] = set()
"""What `watch` is watching now."""
SETPRIV = shutil.which("setpriv")
LEASH = (SETPRIV, "--pdeathsig", "KILL") if SETPRIV else ()
"""Arguments before a program that `run` and `watch` wait for: the kernel ends it when the waiting thread is gone, so
that after a kill -9 no program works on in a folder whose lock is free. What the program itself forks and leaves
running (QEMU, adb's server, an ssh connection) is not ended. It is a program and not a preexec_fn, which may hang where
there are threads. macOS has no setpriv: there, programs outlive a kill -9."""


@dataclass(frozen=True)
class Done:
    """A program that has ended.

    Attributes:
        argv: what was run.
        code: its exit code; negative is the signal that ended it.
        out, err: what it printed.
        seconds: wall time.
        timed_out: it was ended because its time was up.
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool = False

    @property
    def reason(self) -> str:
        """Why it failed, in one line: its last words, or how it ended."""
        if self.timed_out:
            return f"no end after {self.seconds:.0f} s"
        lines = [line for line in self.err.strip().splitlines() if line.strip()]
        if self.code < 0:
            try:
                name = signal.Signals(-self.code).name
            except ValueError:  # a real-time signal has none
                name = f"signal {-self.code}"
            return f"ended by {name}" + (f" after: {lines[-1]}" if lines else "")
        return lines[-1] if lines else f"exit code {self.code}"


def run(
    argv: Sequence[str | Path],
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    own_group: bool = True,
) -> Done:
    """Runs a program to its end and returns what it said.

    On a time limit, and when this process is interrupted, it is ended with everything it started; when this process is
    killed, the program is.

    Args:
        timeout: seconds after which it is ended; None waits for ever.
        env: variables added to this process's own.
        own_group: it gets a process group of its own; False where this process's group is itself ended as a whole.

    Raises:
        NeedsTool: the program does not exist.
    """
    words = tuple(str(word) for word in argv)
    started = time.perf_counter()
    process, timed_out = None, False
    try:
        with unbroken():
            process = _start(words, subprocess.PIPE, env, cwd, own_group)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            end(process)
            out, err = process.communicate()
    except BaseException:
        if process is not None:
            end(process)
            process.wait()
        raise
    return Done(words, process.returncode, out, err, time.perf_counter() - started, timed_out)


def watch(argv: Sequence[str | Path], each: Callable[[str], None], env: Mapping[str, str] | None = None) -> Done:
    """Runs a program and calls `each` with every line of its standard output as it comes; the rest is as for `run`."""
    words = tuple(str(word) for word in argv)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as err:
        process = None
        try:
            with unbroken():
                process = _start(words, err, env)
                RUNNING.add(process)
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    each(line)
            code = process.wait()
        except BaseException:
            if process is not None:
                end(process)
                process.wait()
            raise
        finally:
            if process is not None:
                RUNNING.discard(process)
        err.seek(0)
        return Done(words, code, "", err.read(), time.perf_counter() - started)


def started(words: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    """A program in a process group of its own, left to the caller to end."""
    with unbroken():
        return subprocess.Popen(words, start_new_session=True, **streams)


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C and its like wait for the end of the block: inside Popen they would lose a process that has just begun."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append((number, frame)))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        handler = handlers[signal.Signals(came[0][0])]
        if callable(handler):
            handler(*came[0])
        elif handler == signal.SIG_DFL:
            signal.raise_signal(came[0][0])


def _start(
    words: tuple[str, ...],
    err: int | IO[str],
    env: Mapping[str, str] | None,
    cwd: Path | None = None,
    own_group: bool = True,
) -> subprocess.Popen[str]:
    if shutil.which(words[0]) is None:
        raise NeedsTool(f"{words[0]} is not installed or not on PATH")
    return subprocess.Popen(
        [*LEASH, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=err,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=own_group,
    )


def began(pid: int) -> int | None:
    """When a process began, in a unit of the system: process ids are reused, but by a process with another start.

    Returns:
        Ticks since boot, on Linux; seconds since 1970 where there is no /proc (macOS). None where the process is gone.

    Source: proc(5), stat; ps(1).
    """
    if not Path("/proc/self").exists():
        return _own_start(pid) if pid == os.getpid() else _start_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


@cache
def _own_start(pid: int) -> int | None:
    """As `_start_by_ps`, for this process, whose start does not change. The argument tells it from what it forks."""
    return _start_by_ps(pid)


def _start_by_ps(pid: int) -> int | None:
    done = run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], timeout=30, env={"LC_ALL": "C", "TZ": "UTC0"})
    state, _, start = done.out.strip().partition(" ")
    if done.code != 0 or not start or state.startswith("Z"):
        return None
    return calendar.timegm(time.strptime(start.strip(), "%a %b %d %H:%M:%S %Y"))


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a group, and everything it started; of another, only itself."""
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass  # it ended by itself in the meantime


def end_all() -> None:
    """Ends what threads of this process watch: the main thread is the one that Ctrl-C reaches."""
    for process in list(RUNNING):
        end(process)
