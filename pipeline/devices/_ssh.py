"""The system's OpenSSH client: one persistent connection per `inv` command, with strict host key checking.

The user's ~/.ssh/config, agent and jump hosts apply. ssh never prompts (BatchMode) and accepts no unknown host key.
Requests go through the standard input of a session (`_session.py`), so a remote shell sees only what `remote` quotes.
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
"""A connection without a response for half a minute is lost."""
PERSIST_SECONDS = 120
"""How long the connection outlives a killed command."""
OPTIONS = ("address", "port", "identity", "known_hosts", "config")
"""Keys of a device's table that say how to connect to it."""


@dataclass
class Link:
    """A persistent connection to one board.

    Attributes:
        device: its table of devices.toml.
        socket: the client's control socket, in a folder that only this user can enter.
        hold_request: during a job, the request with which a session locks the board.
        description: the board's response to that request; see `_board.ask`.
        runtimes: archives that the current session knows to be on the board, by runtime.
    """

    device: Device
    socket: Path
    traffic: Traffic = field(default_factory=Traffic)
    hold_request: Mapping[str, Any] | None = None
    runtimes: dict[str, str] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    session: Session | None = None

    def open(self) -> None:
        """Connects, unless it is connected.

        Raises:
            Unreachable: the board does not respond or denies access. The message says how to fix it.
        """
        if self.socket.exists() and self._control("check") == 0:
            return
        with tempfile.TemporaryFile("w+", errors="replace") as err:  # the connection would keep a pipe open
            argv = [*client(self.device), "-M", "-f", "-N", "-S", str(self.socket)]
            argv += ["-o", f"ControlPersist={PERSIST_SECONDS}", "--", address(self.device)]
            process = proc.started(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
            proc.RUNNING.add(process)
            code = process.wait()
            proc.RUNNING.discard(process)
            proc.check_interrupt()
            err.seek(0)
            if code != 0:
                raise Unreachable(f"{self.device.name}: {explain(self.device, err.read())}")

    @contextlib.contextmanager
    def exclusive(self, hold: Mapping[str, Any]) -> Iterator[None]:
        """Locks the board for the block. Nested blocks do nothing.

        Args:
            hold: the request that locks it.
        """
        if self.hold_request is not None:
            yield
            return
        self.end()  # an earlier session may not hold the lock
        self.hold_request = hold
        try:
            self.begin()
            yield
        finally:
            self.hold_request = None
            self.end()

    def begin(self) -> Session:
        """The session. During a job, a new session locks the board; while another job has the board, it prints which
        one and waits.

        Raises:
            Unreachable, StageFailed: there is no connection, or no Python on the board.
        """
        if self.session is None or self.session.process.poll() is not None:
            self.end()
            self.open()
            argv = [*client(self.device), "-S", str(self.socket), "-o", "ControlMaster=no", "--", address(self.device)]
            self.session = Session(self.device.name, [*argv, remote(_session.STARTS)], self.traffic)
            if self.hold_request is not None:
                self.description = self.request(self.hold_request)
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
        except BaseException:  # how much of the request the board received is unknown
            self.end(at_once=True)
            raise

    def run(self, argv: Sequence[str]) -> proc.Done:
        """Runs a command in the board's shell, beside the session."""
        self.open()
        line = [*client(self.device), "-S", str(self.socket), "-o", "ControlMaster=no", "--", address(self.device)]
        return proc.run([*line, remote(argv)], timeout=CONNECT_SECONDS)

    def end(self, at_once: bool = False) -> None:
        """Ends the session. The board is then unlocked, unless the connection was lost or with `at_once`."""
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

    def _control(self, command: str) -> int:
        argv = [*client(self.device), "-S", str(self.socket), "-O", command, "--", address(self.device)]
        return proc.run(argv, timeout=CONNECT_SECONDS).code


LINKS: dict[str, Link] = {}
"""Connections of this process, by device and the options that say how to connect to it."""


def link(device: Device) -> Link:
    """The connection to a device. A new one is not opened yet. All are closed when this process ends.

    Raises:
        BadOption: a value of its table is invalid.
        NeedsTool: the OpenSSH client is not installed.
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


def remote(argv: Sequence[str]) -> str:
    """A command line for the board's shell. Nothing else quotes for a remote shell."""
    return " ".join(map(shlex.quote, argv))


def address(device: Device) -> str:
    """Its address: a host, user@host, or a Host of the user's ssh_config.

    Raises:
        BadOption: the table has none, or ssh would take it for an option.
    """
    text = device.options.get("address")
    if not isinstance(text, str) or not text or text.startswith("-") or re.search(r"\s", text):
        raise BadOption(f'[{device.name}] of devices.toml needs address = "user@host", or a Host of ~/.ssh/config')
    return text


def client(device: Device) -> list[str]:
    """The ssh command line up to the address.

    Raises:
        BadOption: a file that the table names does not exist.
    """
    argv = ["ssh", "-T", *ALIVE, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    argv += ["-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "LogLevel=ERROR", "-o", "RemoteCommand=none"]
    argv += ["-o", "PermitLocalCommand=no", "-o", "ClearAllForwardings=yes"]
    if "port" in device.options:
        argv += ["-p", str(int(device.options["port"]))]
    if "identity" in device.options:
        argv += ["-i", _file(device, "identity"), "-o", "IdentitiesOnly=yes"]
    if "known_hosts" in device.options:
        quoted = _file(device, "known_hosts").replace("%", "%%")
        argv += ["-o", f'UserKnownHostsFile="{quoted}"', "-o", "GlobalKnownHostsFile=/dev/null"]
    if "config" in device.options:
        config = _file(device, "config")
        if not re.fullmatch(r"[\w./+,:@=-]+", config):  # OpenSSH quotes nothing when it starts itself for a jump host
            raise BadOption(
                f"[{device.name}] of devices.toml: config = {config!r} contains a space or another character that a "
                "shell interprets, and ssh passes it to a shell for jump hosts: rename the file"
            )
        argv += ["-F", config]
    return argv


FIXES = {
    r"Connection refused": "{host} refuses connections: start sshd on it (sudo systemctl enable --now ssh)",
    r"timed out|No route to host|Network is unreachable|Host is down": (
        "no response from {host}: is it on, and reachable from this network?"
    ),
    r"Could not resolve hostname": "unknown host {host}: fix address in devices.toml",
    r"[Bb]ad (owner or )?permissions|UNPROTECTED PRIVATE KEY": (
        "ssh refuses the key file because others can read it: chmod 600 {identity}"
    ),
    r"Permission denied": "{host} accepts none of your keys: ssh-copy-id {options}{address}",
    r"Connection (closed|reset)|kex_exchange_identification": (
        "{host} closed the connection before the login: see its log (journalctl -u ssh)"
    ),
}
"""Error of ssh → what it means and how to fix it."""


def explain(device: Device, err: str) -> str:
    """ssh's error output as one line, with the command that fixes it."""
    options = "".join(f"-p {device.options['port']} " if "port" in device.options else "")
    known = Path(str(device.options.get("known_hosts", "~/.ssh/known_hosts")))
    if "HOST IDENTIFICATION HAS CHANGED" in err:
        found = re.search(r'-R "?([^"\n]+)"?', err) or re.search(r"Host key for (\S+) has changed", err)
        host = found.group(1) if found else _host(device)
        return (
            "its host key has changed: this may be another machine. If the board was reinstalled: "
            f"ssh-keygen -f {shlex.quote(str(known))} -R {shlex.quote(host)}, then {_keyscan(host, known)}"
        )
    unknown = re.search(r"No \S+ host key is known for (\S+)", err)
    if unknown or "Host key verification failed" in err:
        return (
            "its host key is unknown to this machine. Compare the fingerprints (on the board: ssh-keygen -lf "
            f"/etc/ssh/ssh_host_ed25519_key.pub), then: {_keyscan(unknown[1] if unknown else _host(device), known)}"
        )
    for pattern, line in FIXES.items():
        if re.search(pattern, err):
            return line.format(
                host=_host(device),
                address=address(device),
                identity=device.options.get("identity", "FILE"),
                options=options + (f"-i {device.options['identity']} " if "identity" in device.options else ""),
            )
    lines = [line for line in err.splitlines() if line.strip()]
    return f"ssh: {lines[-1].strip()}" if lines else "ssh failed without an error message"


def _host(device: Device) -> str:
    """Its host as ssh writes it in known_hosts: [host]:port if the port is not 22."""
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
