"""Runs `inv` as a user does: in a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from invoke.parser import ParserContext

ROOT = Path(__file__).parents[1]
INV = (sys.executable, str(ROOT / "tasks.py"))
"""The command that ./inv runs."""
INTERRUPTED = "interrupted; run the command again to continue"


@dataclass(frozen=True)
class Done:
    """A finished call."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The output of a successful call."""
        assert self.code == 0, self.err
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads("\n".join(self.lines))

    @property
    def complaint(self) -> str:
        """The error line that ends a refused call. Progress may precede it; a traceback may not."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err + self.out
        *before, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert not [line for line in before if line.startswith("error")], self.err
        return last.removeprefix("error: ")

    @property
    def only(self) -> str:
        """The error line of a call that printed nothing else."""
        assert self.complaint and len(self.err.splitlines()) == 1 and self.out == "", (self.out, self.err)
        return self.complaint


@cache
def contexts() -> list[ParserContext]:
    """Every task as invoke's parser sees it. Cached, because invoke removes a task's help texts on the first call."""
    import tasks

    return list(tasks.namespace.to_contexts())


def environment(build: Path, **more: str) -> dict[str, str]:
    """This process's environment with a build folder and more variables. One thread is fastest for small networks."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "LASTMILE_BUILD": str(build), **more}


def inv(build: Path, *args: object, **more: str) -> Done:
    """Runs `inv ARGS` and waits for it; `more` are environment variables."""
    command = [*INV, *map(str, args)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(build, **more), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


class Running:
    """A running command in its own process group, like a foreground job of a terminal, and the lines it has printed."""

    def __init__(self, build: Path, *args: object, **more: str) -> None:
        self.build = build
        self.printed: list[str] = []
        self.process = subprocess.Popen(
            [*INV, *map(str, args)], cwd=ROOT, env=environment(build, **more), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def until_printed(self, text: str) -> None:
        """Waits for a line that contains this text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed.append(line.rstrip("\n"))
            if text in line:
                return
        raise AssertionError(f"it ended without {text!r}: {self.printed}")

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition."""
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)

    def wait(self) -> Done:
        """Waits for the end of the command; its result."""
        out, err = self.process.communicate()
        return Done(self.process.returncode, out, "\n".join([*self.printed, *err.splitlines()]))

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> Done:
        """Sends Ctrl-C and checks the end: one line, no traceback, no process left, no temporary file.

        Args:
            number: SIGTERM and SIGHUP go to `inv` alone, as `timeout` sends them; SIGINT to its process group.
        """
        (os.killpg if number is signal.SIGINT else os.kill)(self.process.pid, number)
        done = self.wait()
        assert (done.code, done.err.splitlines()[-1]) == (128 + number, INTERRUPTED), done
        assert "Traceback" not in done.out + done.err
        until = time.monotonic() + 1  # the kernel ends a killed process a moment later
        while processes(self.build) and time.monotonic() < until:
            time.sleep(0.01)
        assert processes(self.build) == []
        assert unfinished(self.build) == []
        return done


def processes(build: Path) -> list[str]:
    """Command lines of all processes that were started for a build folder, in any process group."""
    mark, found = f"LASTMILE_BUILD={build}\0".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() + b"\0":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below a build folder, except its locks and its tag."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", ".lastmile")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def unfinished(build: Path) -> list[str]:
    """Temporary files below a build folder."""
    return [str(path) for path in build.rglob(".tmp-*")]
