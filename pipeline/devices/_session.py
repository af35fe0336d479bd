"""A session: a Python process on a board that handles requests, over the connection that a command line opens.

The process runs `_board.py`, which it receives through standard input. It ends with its standard input: when the job is
done, when this process ends for any reason, or when the connection is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
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
"""How long a board may take to respond after it was told to stop."""

BOOT = (
    "import sys, zlib; sys.version_info < (3, 7) and sys.exit(70); i = sys.stdin.buffer; "
    "exec(compile(zlib.decompress(i.read(int(i.readline()))), 'board', 'exec'))"
)
STARTS = ("python3", "-c", BOOT)
"""The command that starts it on the board."""
SOURCE = Path(__file__).with_name("_board.py")


class Refused(StageFailed):
    """A request that the board refused.

    Args:
        kind: as in _board.py: full, gone, cut, corrupt, hot or system.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


@dataclass
class Traffic:
    """What went over a connection. Attributes: trips: requests."""

    trips: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class Session:
    """A Python process on the board that handles requests, one after another.

    Args:
        name: the device's name, for messages.
        argv: the command that connects to the board and runs STARTS in its shell.
        traffic: counts what is sent and received.

    Attributes:
        mark: begins every response, and nothing else that the board's shell may print.
    """

    def __init__(self, name: str, argv: Sequence[str], traffic: Traffic) -> None:
        self.name, self.traffic = name, traffic
        self.err = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = proc.started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err)
        self.mark = secrets.token_hex(8).encode()
        proc.RUNNING.add(self.process)
        source = zlib.compress(SOURCE.read_bytes())
        self._send([b"%d\n" % len(source), source, self.mark + b"\n"])

    def request(
        self,
        verb: Mapping[str, Any],
        sent: Iterable[bytes] = (),
        timeout: float | None = None,
        outs: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """Sends a request and waits for the response.

        Args:
            verb: the request; see _board.py.
            sent: the bytes that follow it.
            timeout: seconds after which the board is told to stop; STOP_SECONDS later the connection is closed.
            outs: where to write the files that the board sends back.

        Returns:
            The response.

        Raises:
            Refused: the board refused the request.
            Unreachable: the connection was lost.
            StageFailed: python3 is missing on the board, or its process ended.
            TimeoutError: the timeout passed, and the board did not confirm that it stopped.
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
            response = self._response()
            if "waits_for" in response:
                say(f"{self.name} is in use by {response['waits_for']}; waiting for it")
                response = self._response()
            for path, (_, size, _) in zip(outs, response.get("files", ()), strict=False):
                self._receive(path, size)
        except (Unreachable, StageFailed) as error:
            if expired.is_set():
                raise TimeoutError from error
            raise
        finally:
            for clock in clocks:
                clock.cancel()
        return response

    def end(self, at_once: bool) -> None:
        """Closes the process's standard input, which ends it, and waits for its end; `at_once` does not wait."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(0 if at_once else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            proc.end(self.process)
            self.process.wait()
        proc.RUNNING.discard(self.process)
        self.process.stdout.close()
        self.err.close()

    def _send(self, pieces: Iterable[bytes]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has responded already, or is gone: `_response` handles both
            for piece in pieces:
                self.process.stdin.write(piece)
                self.process.stdin.flush()
                self.traffic.sent_bytes += len(piece)

    def _response(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = b"\n"
        while line == b"\n":  # the heartbeat
            line = self.process.stdout.readline()
            self.traffic.received_bytes += len(line)
        if not line.endswith(b"\n"):
            raise self._ended()
        greeting, marked, answer = line.partition(self.mark)
        if greeting or not marked:
            text = greeting[:80].decode("utf-8", "replace").strip()
            raise StageFailed(
                f"{self.name}: its shell prints {text!r} before the response: remove what prints that from the board's "
                "~/.bashrc, which is read for commands too"
            )
        value: dict[str, Any] = json.loads(answer)
        if "refused" in value:
            raise Refused(value["refused"], f"{self.name}: {value['why']}")
        return value

    def _receive(self, path: Path, size: int) -> None:
        """Writes the next `size` bytes to a file."""
        assert self.process.stdout is not None
        with path.open("wb") as file:
            while size and (piece := self.process.stdout.read(min(size, 1 << 20))):
                file.write(piece)
                size -= len(piece)
                self.traffic.received_bytes += len(piece)
        if size:
            raise self._ended()

    def _ended(self) -> StageFailed:
        """Why there is no response."""
        code = self.process.wait()
        proc.check_interrupt()
        self.err.seek(0)
        done = proc.Done((), code, "", self.err.read().decode("utf-8", "replace"), 0.0)
        if code == LOST or code < 0:
            return Unreachable(
                f"{self.name}: the connection was lost; run the same command again: finished work is kept"
            )
        if code == NO_PYTHON:
            return StageFailed(f"{self.name}: python3 is not installed: run on the board: sudo apt-get install python3")
        if code == OLD_PYTHON:
            return StageFailed(
                f"{self.name}: its python3 is older than 3.7; Raspberry Pi OS 11 and later have a newer one"
            )
        return StageFailed(f"{self.name}: the process on the board ended without a response ({done.reason})")
