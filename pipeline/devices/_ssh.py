"""The system's OpenSSH client: one kept-open connection a command, strict about host keys.

The user's ~/.ssh/config, agent and jump hosts count; nothing is ever asked (BatchMode) and no host key is taken on
trust. What is asked goes through the standard input of a session (`_session.py`), so the only words that a remote shell
sees are those that `remote` quotes.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import Device
from pipeline.devices import _session
from pipeline.devices._session import Refused, Session, Traffic
from pipeline.errors import BadOption, NeedsTool, Unreachable
from pipeline.system import proc

CONNECT_SECONDS = 15
ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
"""A connection that says nothing for half a minute is lost."""
PERSIST_SECONDS = 120
"""A kept connection outlives a killed command by so long."""
OPTIONS = ("address", "port", "identity", "known_hosts", "config")
"""Keys of a device's table that say how to get there."""


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
            code = proc.started(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err).wait()
            err.seek(0)
            if code != 0:
                raise Unreachable(f"{self.device.name}: {explain(self.device, err.read())}")

    @contextlib.contextmanager
    def exclusive(self, hold: Mapping[str, Any]) -> Iterator[None]:
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
            self.session = Session(self.device.name, [*words, remote(_session.STARTS)], self.traffic)
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
