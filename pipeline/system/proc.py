"""Running programs with argument lists, never through a shell."""

from __future__ import annotations

import calendar
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar

from pipeline.errors import NeedsTool, StageFailed

T = TypeVar("T")

RUNNING: set[subprocess.Popen[str] | subprocess.Popen[bytes]] = set()
"""Programs that end with this process's work: `end_all` ends them."""
INTERRUPTED = threading.Event()
"""Set while `side_by_side` ends its threads. A thread that runs a program then raises KeyboardInterrupt."""
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
        argv: the program and its arguments.
        code: the exit code; negative if a signal ended it.
        out, err: standard output and standard error.
        seconds: wall time.
        timed_out: whether it was ended because of a timeout.
    """

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool = False

    def result(self, *keys: str) -> dict[str, Any]:
        """The result that edge-bench printed: a JSON object with a schema and these keys.

        Raises:
            StageFailed: it printed something else.
        """
        try:
            value = json.loads(self.out)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not {"schema", *keys} <= value.keys():
            first = next(iter(self.out.strip().splitlines()), "")
            raise StageFailed(f"edge-bench printed {first[:80]!r} instead of a result")
        return value

    @property
    def reason(self) -> str:
        """Why it failed, in one line: the last line of standard error, or how it ended."""
        if self.timed_out:
            return f"timeout after {self.seconds:.0f} s"
        lines = [line for line in self.err.strip().splitlines() if line.strip()]
        if self.code < 0:
            try:
                name = signal.Signals(-self.code).name
            except ValueError:  # real-time signals have no name
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
    """Runs a program to its end and returns its output.

    After a timeout, and when this process is interrupted, the program and all its child processes are ended. When this
    process is killed, the program is ended.

    Args:
        timeout: seconds; None waits without limit.
        env: environment variables in addition to this process's own.
        own_group: whether the program gets its own process group; False if this process's group is ended as a whole.

    Raises:
        NeedsTool: the program does not exist.
    """
    command = tuple(map(str, argv))
    started = time.perf_counter()
    process, timed_out = None, False
    try:
        with unbroken():
            process = _start(command, subprocess.PIPE, env, cwd, own_group)
            RUNNING.add(process)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            end(process)
            out, err = process.communicate()
        check_interrupt()
    except BaseException:
        if process is not None:
            end(process)
            process.wait()
        raise
    finally:
        if process is not None:
            RUNNING.discard(process)
    return Done(command, process.returncode, out, err, time.perf_counter() - started, timed_out)


def watch(argv: Sequence[str | Path], each: Callable[[str], None], env: Mapping[str, str] | None = None) -> Done:
    """As `run`, but calls `each` with every line of standard output as it is printed."""
    command = tuple(map(str, argv))
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as err:
        process = None
        try:
            with unbroken():
                process = _start(command, err, env)
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
        return Done(command, code, "", err.read(), time.perf_counter() - started)


def started(argv: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Starts a program in its own process group. The caller must end it."""
    check_interrupt()
    with unbroken():
        return subprocess.Popen(argv, start_new_session=True, **streams)


def side_by_side(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of functions that run at the same time, each in a thread; a single one runs in this thread.

    Ctrl-C, and an exception of one of them, ends the programs that the others run: KeyboardInterrupt is raised there.
    """
    if len(calls) < 2:
        return [call() for call in calls]
    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            running = [pool.submit(call) for call in calls]
            try:
                for future in wait(running, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                INTERRUPTED.set()
                while not all(future.done() for future in running):
                    end_all()
                    time.sleep(0.05)
                raise
    finally:
        INTERRUPTED.clear()
    return [future.result() for future in running]


def check_interrupt() -> None:
    """
    Raises:
        KeyboardInterrupt: this is a thread of `side_by_side`, and its work is to end.
    """
    if INTERRUPTED.is_set() and threading.current_thread() is not threading.main_thread():
        raise KeyboardInterrupt


@contextmanager
def unbroken() -> Iterator[None]:
    """Delays Ctrl-C and other signals to the end of the block. Inside Popen they would lose a new process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    received: list[tuple[int, FrameType | None]] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: received.append((number, frame)))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        handler = handlers[signal.Signals(received[0][0])]
        if callable(handler):
            handler(*received[0])
        elif handler == signal.SIG_DFL:
            signal.raise_signal(received[0][0])


def _start(
    command: tuple[str, ...],
    err: int | IO[str],
    env: Mapping[str, str] | None,
    cwd: Path | None = None,
    own_group: bool = True,
) -> subprocess.Popen[str]:
    check_interrupt()
    if shutil.which(command[0]) is None:
        raise NeedsTool(f"{command[0]} is not installed or not on PATH")
    return subprocess.Popen(
        [*LEASH, *command],
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
    """Kills a process, and its whole group if it leads one."""
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass  # it has already ended


def end_all() -> None:
    """Ends all programs that threads of this process run: Ctrl-C reaches only the main thread."""
    for process in list(RUNNING):
        end(process)
