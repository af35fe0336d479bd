"""The system's OpenSSH client: one kept-open connection a command, strict about host keys.

The user's ~/.ssh/config, agent and jump hosts count; nothing is ever asked (BatchMode) and no host key is taken on
trust. A session is `_board.py` on the board's python3, fed through standard input and then asked line by line, so the
only words that a remote shell sees are those that `remote` quotes. It ends with its standard input: when the job is
done, when this process ends in whatever way, or when the connection does.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import proc
from pipeline.core import Device
from pipeline.errors import BadOption, NeedsTool, StageFailed, Unreachable
from pipeline.progress import say

CONNECT_SECONDS = 15
ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
"""A connection that says nothing for half a minute is lost."""
PERSIST_SECONDS = 120
"""A kept connection outlives a killed command by so long."""
LOST = 255  # Source: ssh(1), EXIT STATUS
NO_PYTHON, OLD_PYTHON = 127, 70
STOP_SECONDS = 30.0
"""So long after it was told to stop, a board has said that it did."""

BOOT = (
    "import sys, zlib; sys.version_info < (3, 7) and sys.exit(70); i = sys.stdin.buffer; "
    "exec(compile(zlib.decompress(i.read(int(i.readline()))), 'board', 'exec'))"
)
SOURCE = Path(__file__).with_name("_board.py")

OPTIONS = ("address", "port", "identity", "known_hosts", "config")
"""Keys of a device's table that say how to get there."""


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
        words: the command line that starts it.
        traffic: where what it carries is counted.
    """

    def __init__(self, name: str, words: Sequence[str], traffic: Traffic) -> None:
        self.name, self.traffic = name, traffic
        self.err = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = _started(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err)
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
        value: dict[str, Any] = json.loads(line)
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


@dataclass
class Link:
    """A kept-open connection to one board.

    Attributes:
        device: its table of devices.toml.
        socket: the client's control socket, in a folder that only this user can enter.
        holds: while a job has the board, the request by which a session takes it.
        said: what the board said of itself when it was taken.
        runtimes: what is known to be there, archives by runtime; of the present session only.
    """

    device: Device
    socket: Path
    traffic: Traffic = field(default_factory=Traffic)
    holds: Mapping[str, Any] | None = None
    runtimes: dict[str, str] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    session: Session | None = None

    def open(self) -> None:
        """Connects, unless it is connected.

        Raises:
            Unreachable: it is not let in, or nobody answers; in one line with what mends it.
        """
        if self.socket.exists() and self._control("check") == 0:
            return
        with tempfile.TemporaryFile("w+", errors="replace") as err:  # a pipe would be held open by the connection
            words = [*client(self.device), "-M", "-f", "-N", "-S", str(self.socket)]
            words += ["-o", f"ControlPersist={PERSIST_SECONDS}", "--", address(self.device)]
            code = _started(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err).wait()
            err.seek(0)
            if code != 0:
                raise Unreachable(f"{self.device.name}: {explain(self.device, err.read())}")

    @contextlib.contextmanager
    def alone(self, hold: Mapping[str, Any]) -> Iterator[None]:
        """Has the board for all that is asked inside; within another such block it is had already.

        Args:
            hold: the request that takes it.
        """
        if self.holds is not None:
            yield
            return
        self.end()  # it was asked without having the board
        self.holds = hold
        try:
            self.begin()
            yield
        finally:
            self.holds = None
            self.end()

    def begin(self) -> Session:
        """The session; a new one takes the board if a job needs it, and waits, saying for whom, while another has it.

        Raises:
            Unreachable, StageFailed: there is no connection, or no Python.
        """
        if self.session is None or self.session.process.poll() is not None:
            self.end()
            self.open()
            words = [*client(self.device), "-S", str(self.socket), "-o", "ControlMaster=no", "--", address(self.device)]
            self.session = Session(self.device.name, [*words, remote(["python3", "-c", BOOT])], self.traffic)
            if self.holds is not None:
                self.said = self.request(self.holds)
        return self.session

    def request(
        self,
        verb: Mapping[str, Any],
        sent: Iterable[bytes] = (),
        timeout: float | None = None,
        outs: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """One round trip; see `Session.request`."""
        session = self.begin()
        try:
            return session.request(verb, sent, timeout, outs)
        except Refused:
            raise
        except BaseException:  # nobody knows what of it was heard
            self.end(at_once=True)
            raise

    def end(self, at_once: bool = False) -> None:
        """Ends the session. The board is free then, unless the connection was lost or `at_once` was said."""
        if self.session is not None:
            self.session.end(at_once)
        self.session = None
        self.runtimes.clear()

    def close(self) -> None:
        """Ends the connection."""
        self.end(at_once=True)
        if self.socket.exists():
            self._control("exit")
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    def _control(self, word: str) -> int:
        words = [*client(self.device), "-S", str(self.socket), "-O", word, "--", address(self.device)]
        return proc.run(words, timeout=CONNECT_SECONDS).code


LINKS: dict[str, Link] = {}
"""Connections of this process, by device and way there."""


def link(device: Device) -> Link:
    """The connection to a device, not opened yet where it is new; all are closed when this process ends.

    Raises:
        BadOption: a key of its table cannot be.
        NeedsTool: there is no OpenSSH client.
    """
    if shutil.which("ssh") is None:
        raise NeedsTool("ssh is not installed; install it with: apt-get install openssh-client")
    client(device)
    address(device)
    key = json.dumps([device.name, *(device.options.get(name) for name in OPTIONS)])
    if key not in LINKS:
        if not LINKS:
            atexit.register(close_all)
        LINKS[key] = Link(device, Path(tempfile.mkdtemp(prefix="lastmile-")) / "ssh")
    return LINKS[key]


def close_all() -> None:
    """Ends every connection of this process."""
    while LINKS:
        LINKS.popitem()[1].close()


def remote(words: Sequence[str]) -> str:
    """Words for the board's shell, which gets them as they are: the one place where anything is quoted."""
    return " ".join(map(shlex.quote, words))


def address(device: Device) -> str:
    """Where it is: a host, user@host, or a Host of the user's ssh_config.

    Raises:
        BadOption: there is none, or it would be taken for an option.
    """
    text = device.options.get("address")
    if not isinstance(text, str) or not text or text.startswith("-") or re.search(r"\s", text):
        raise BadOption(f'[{device.name}] of devices.toml needs address = "user@host", or a Host of ~/.ssh/config')
    return text


def client(device: Device) -> list[str]:
    """The ssh command line up to the address.

    Raises:
        BadOption: a file that the table names is not there.
    """
    words = ["ssh", "-T", *ALIVE, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    words += ["-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "LogLevel=ERROR", "-o", "RemoteCommand=none"]
    words += ["-o", "PermitLocalCommand=no", "-o", "ClearAllForwardings=yes"]
    if "port" in device.options:
        words += ["-p", str(int(device.options["port"]))]
    if "identity" in device.options:
        words += ["-i", _file(device, "identity"), "-o", "IdentitiesOnly=yes"]
    if "known_hosts" in device.options:
        quoted = _file(device, "known_hosts").replace("%", "%%")
        words += ["-o", f'UserKnownHostsFile="{quoted}"', "-o", "GlobalKnownHostsFile=/dev/null"]
    if "config" in device.options:
        config = _file(device, "config")
        if not re.fullmatch(r"[\w./+,:@=-]+", config):  # OpenSSH quotes nothing when it starts itself for a jump host
            raise BadOption(
                f"[{device.name}] of devices.toml: config = {config!r} has a space or another character that a shell "
                "would not leave alone, and ssh hands it to one for jump hosts: rename it"
            )
        words += ["-F", config]
    return words


EXPLAINED = {
    r"Connection refused": "{where} refuses connections: start sshd there (sudo systemctl enable --now ssh)",
    r"timed out|No route to host|Network is unreachable|Host is down": (
        "no answer from {where}: is it on, and in reach of this network?"
    ),
    r"Could not resolve hostname": "no host is known by the name of {where}: mend address in devices.toml",
    r"[Bb]ad (owner or )?permissions|UNPROTECTED PRIVATE KEY": (
        "ssh refuses the key file, which others can read: chmod 600 {identity}"
    ),
    r"Permission denied": "{where} lets in none of your keys: ssh-copy-id {options}{address}",
    r"Connection (closed|reset)|kex_exchange_identification": (
        "{where} closed the connection before anyone was let in: see its log (journalctl -u ssh)"
    ),
}
"""What ssh says → what that means, and what mends it."""


def explain(device: Device, told: str) -> str:
    """What ssh said, as one line with the command that mends it."""
    options = "".join(f"-p {device.options['port']} " if "port" in device.options else "")
    known = Path(str(device.options.get("known_hosts", "~/.ssh/known_hosts")))
    if "HOST IDENTIFICATION HAS CHANGED" in told:
        who = re.search(r'-R "?([^"\n]+)"?', told) or re.search(r"Host key for (\S+) has changed", told)
        host = who.group(1) if who else _host(device)
        return (
            "its host key is not the one that is known: another machine may be answering. If the board was installed "
            f"anew: ssh-keygen -f {shlex.quote(str(known))} -R {shlex.quote(host)}, then {_keyscan(host, known)}"
        )
    unknown = re.search(r"No \S+ host key is known for (\S+)", told)
    if unknown or "Host key verification failed" in told:
        return (
            "its host key is not known here. Compare the fingerprints (on the board: ssh-keygen -lf "
            f"/etc/ssh/ssh_host_ed25519_key.pub), then: {_keyscan(unknown[1] if unknown else _host(device), known)}"
        )
    for pattern, line in EXPLAINED.items():
        if re.search(pattern, told):
            return line.format(
                where=_host(device),
                address=address(device),
                identity=device.options.get("identity", "FILE"),
                options=options + (f"-i {device.options['identity']} " if "identity" in device.options else ""),
            )
    lines = [line for line in told.splitlines() if line.strip()]
    return f"ssh: {lines[-1].strip()}" if lines else "ssh ended without saying why"


def _host(device: Device) -> str:
    """Its host as ssh writes it in known_hosts: [host]:port where the port is not 22."""
    host = address(device).rpartition("@")[2]
    port = int(device.options.get("port", 22))
    return host if port == 22 else f"[{host}]:{port}"


def _keyscan(host: str, known: Path) -> str:
    found = re.fullmatch(r"\[(.+)\]:(\d+)", host)
    place = f"-p {found[2]} {found[1]}" if found else host
    return f"ssh-keyscan {place} >> {shlex.quote(str(known)) if '~' not in str(known) else known}"


def _file(device: Device, key: str) -> str:
    path = Path(str(device.options[key])).expanduser()
    if key != "known_hosts" and not path.is_file():
        raise BadOption(f"[{device.name}] of devices.toml: {key} = {str(path)!r} is not a file")
    return str(path)


def _started(words: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    with proc.unbroken():
        return subprocess.Popen(words, start_new_session=True, **streams)
