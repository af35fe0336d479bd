"""The system's OpenSSH client: one kept-open connection a command, strict about host keys.

The user's ~/.ssh/config, agent and jump hosts count; nothing is ever asked (BatchMode) and no host key is taken on
trust. A request is `_board.py` with a line of JSON and its bytes on standard input, so the only words that a remote
shell sees are those that `remote` quotes.
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
from typing import IO, Any

from pipeline import proc
from pipeline.core import Device
from pipeline.errors import BadOption, NeedsTool, StageFailed, Unreachable

CONNECT_SECONDS = 15
ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
"""A connection that says nothing for half a minute is lost."""
PERSIST_SECONDS = 120
"""A kept connection outlives a killed command by so long."""
LOST = 255  # Source: ssh(1), EXIT STATUS
NO_PYTHON, OLD_PYTHON = 127, 70

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
        kind: as in _board.py: full, busy, gone, cut, corrupt, hot or system.
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


@dataclass
class Link:
    """A kept-open connection to one board.

    Attributes:
        device: its table of devices.toml.
        socket: the client's control socket, in a folder that only this user can enter.
    """

    device: Device
    socket: Path
    traffic: Traffic = field(default_factory=Traffic)

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

    def request(
        self,
        verb: Mapping[str, Any],
        sent: Iterable[bytes] = (),
        timeout: float | None = None,
        outs: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """One round trip.

        Args:
            verb: the request; see _board.py.
            sent: the bytes that follow it.
            timeout: seconds after which the board is left to end what it does.
            outs: where the files go that come back.

        Returns:
            The answer.

        Raises:
            Refused: the board would not.
            Unreachable: it does not answer, or the connection was lost.
            TimeoutError: time is up.
        """
        self.open()
        source = zlib.compress(SOURCE.read_bytes())
        head = b"%d\n%s%s\n" % (len(source), source, json.dumps(dict(verb)).encode())
        words = [*client(self.device), "-S", str(self.socket), "-o", "ControlMaster=no", "--", address(self.device)]
        with tempfile.TemporaryFile() as out:
            words.append(remote(["python3", "-c", BOOT]))
            done = self._talk(words, itertools.chain([head], sent), timeout, out)
            answer = self._answer(done, out)
            for path, (_, size, _) in zip(outs, answer.get("files", ()), strict=False):
                with path.open("wb") as file:
                    file.writelines(_take(out, size))
            return answer

    def close(self) -> None:
        """Ends the connection."""
        if self.socket.exists():
            self._control("exit")
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    def _control(self, word: str) -> int:
        words = [*client(self.device), "-S", str(self.socket), "-O", word, "--", address(self.device)]
        return proc.run(words, timeout=CONNECT_SECONDS).code

    def _talk(self, words: Sequence[str], sent: Iterable[bytes], timeout: float | None, out: IO[bytes]) -> proc.Done:
        """Runs ssh; standard input stays open until it ends, since its end tells the board that nobody waits."""
        with tempfile.TemporaryFile() as err:
            process = _started(words, stdin=subprocess.PIPE, stdout=out, stderr=err)
            expired = threading.Event()

            def expire() -> None:
                expired.set()
                proc.end(process)

            clock = threading.Timer(timeout or 0, expire)
            if timeout is not None:
                clock.start()
            try:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has its answer already
                    for piece in sent:
                        process.stdin.write(piece)
                        process.stdin.flush()
                        self.traffic.sent_bytes += len(piece)
                code = process.wait()
            except BaseException:
                proc.end(process)
                process.wait()
                raise
            finally:
                clock.cancel()
                with contextlib.suppress(BrokenPipeError):
                    if process.stdin is not None:
                        process.stdin.close()
            err.seek(0)
            told = err.read().decode("utf-8", "replace")
        self.traffic.trips += 1
        self.traffic.received_bytes += out.seek(0, 2)
        out.seek(0)
        return proc.Done(tuple(words), code, "", told, timeout or 0.0, expired.is_set())

    def _answer(self, done: proc.Done, out: IO[bytes]) -> dict[str, Any]:
        name = self.device.name
        line = out.readline()
        if done.timed_out:
            raise TimeoutError
        if line.endswith(b"\n"):
            value: dict[str, Any] = json.loads(line)
            if "refused" not in value:
                return value
            raise Refused(value["refused"], f"{name}: {value['why']}")
        if done.code == LOST or done.code < 0:
            raise Unreachable(f"{name}: the connection was lost; run the same command again: what is finished is kept")
        if done.code == NO_PYTHON:
            raise StageFailed(f"{name}: there is no python3 on it: run there: sudo apt-get install python3")
        if done.code == OLD_PYTHON:
            raise StageFailed(f"{name}: its python3 is older than 3.7; Raspberry Pi OS 11 and later have a newer one")
        raise StageFailed(f"{name}: its side of the work ended without an answer ({done.reason})")


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
        words += ["-F", _file(device, "config")]
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


def _take(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes, or as many as there are."""
    while size and (piece := file.read(min(size, 1 << 20))):
        size -= len(piece)
        yield piece


def _started(words: Sequence[str], **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, start_new_session=True, **streams)
