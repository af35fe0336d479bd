"""A session: a Python on a board that is asked line by line, through whatever connection its command line makes.

It is `_board.py`, fed through standard input; it ends with its standard input: when the job is done, when this process
ends in whatever way, or when the connection does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed, Unreachable
from pipeline.system import proc
from pipeline.system.progress import say

LOST = 255  # Source: ssh(1), EXIT STATUS
NO_PYTHON, OLD_PYTHON = 127, 70
STOP_SECONDS = 30.0
"""So long after it was told to stop, a board has said that it did."""

BOOT = (
    "import sys, zlib; sys.version_info < (3, 7) and sys.exit(70); i = sys.stdin.buffer; "
    "exec(compile(zlib.decompress(i.read(int(i.readline()))), 'board', 'exec'))"
)
STARTS = ("python3", "-c", BOOT)
"""The words that start it there."""
SOURCE = Path(__file__).with_name("_board.py")


class Refused(StageFailed):
    """What the board would not do.

    Args:
        kind: as in _board.py: full, gone, cut, corrupt, hot or system.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


@dataclass
class Traffic:
    """What a connection carried."""

    trips: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Session:
    """A Python on the board that answers requests, one after another.

    Args:
        words: the command line that starts it; its last words say STARTS to the board's shell.
        traffic: where what it carries is counted.
    """

    def __init__(self, name: str, words: Sequence[str], traffic: Traffic) -> None:
        self.name, self.traffic = name, traffic
        self.err = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = proc.started(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err)
        source = zlib.compress(SOURCE.read_bytes())
        self._send([b"%d\n" % len(source), source])

    def request(
        self,
        verb: Mapping[str, Any],
        sent: Iterable[bytes] = (),
        timeout: float | None = None,
        outs: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """
        Args:
            verb: the request; see _board.py.
            sent: the bytes that follow it.
            timeout: seconds after which the board is told to stop, and some after that left alone.
            outs: where the files go that come back.

        Returns:
            The answer.

        Raises:
            Refused: the board would not.
            Unreachable: it does not answer, or the connection was lost.
            StageFailed: Python is missing there, or died.
            TimeoutError: time was up, and it did not say that it stopped.
        """
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            self._send([b"\n"])

        clocks = []
        if timeout is not None:
            give_up = threading.Timer(timeout + STOP_SECONDS, proc.end, [self.process])
            clocks = [threading.Timer(timeout, stop), give_up]
        for clock in clocks:
            clock.start()
        try:
            self._send(itertools.chain([json.dumps(dict(verb)).encode() + b"\n"], sent))
            self.traffic.trips += 1
            answer = self._answer()
            if "waits_for" in answer:
                say(f"{self.name} is in use by {answer['waits_for']}; waiting for it")
                answer = self._answer()
            for path, (_, size, _) in zip(outs, answer.get("files", ()), strict=False):
                self._receive(path, size)
        except (Unreachable, StageFailed) as error:
            if expired.is_set():
                raise TimeoutError from error
            raise
        finally:
            for clock in clocks:
                clock.cancel()
        return answer

    def end(self, at_once: bool) -> None:
        """Closes its standard input, which ends it, and waits for that; or ends this side of it at once."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(0 if at_once else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            proc.end(self.process)
            self.process.wait()
        self.process.stdout.close()
        self.err.close()

    def _send(self, pieces: Iterable[bytes]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has answered already, or is gone: `_answer` tells
            for piece in pieces:
                self.process.stdin.write(piece)
                self.process.stdin.flush()
                self.traffic.sent_bytes += len(piece)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = b"\n"
        while line == b"\n":  # says only that the board is there
            line = self.process.stdout.readline()
            self.traffic.received_bytes += len(line)
        if not line.endswith(b"\n"):
            raise self._ended()
        try:
            value: dict[str, Any] = json.loads(line)
        except ValueError as error:
            said = line[:80].decode("utf-8", "replace").strip()
            raise StageFailed(
                f"{self.name}: its shell says {said!r} before the answer: take what prints that out of ~/.bashrc "
                "there, which is read for commands too"
            ) from error
        if "refused" in value:
            raise Refused(value["refused"], f"{self.name}: {value['why']}")
        return value

    def _receive(self, path: Path, size: int) -> None:
        """The next `size` bytes, as a file."""
        assert self.process.stdout is not None
        with path.open("wb") as file:
            while size and (piece := self.process.stdout.read(min(size, 1 << 20))):
                file.write(piece)
                size -= len(piece)
                self.traffic.received_bytes += len(piece)
        if size:
            raise self._ended()

    def _ended(self) -> StageFailed:
        """Why there is no answer."""
        code = self.process.wait()
        self.err.seek(0)
        done = proc.Done((), code, "", self.err.read().decode("utf-8", "replace"), 0.0)
        if code == LOST or code < 0:
            return Unreachable(
                f"{self.name}: the connection was lost; run the same command again: what is finished is kept"
            )
        if code == NO_PYTHON:
            return StageFailed(f"{self.name}: there is no python3 on it: run there: sudo apt-get install python3")
        if code == OLD_PYTHON:
            return StageFailed(
                f"{self.name}: its python3 is older than 3.7; Raspberry Pi OS 11 and later have a newer one"
            )
        return StageFailed(f"{self.name}: its side of the work ended without an answer ({done.reason})")
