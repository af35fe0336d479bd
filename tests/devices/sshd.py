"""A board for tests: an OpenSSH server on the loopback address with its own keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core import Device

SSHD = "/usr/sbin/sshd"
ENDED = (FileNotFoundError, ProcessLookupError)
"""Errors from reading /proc of a process that has ended in the meantime."""
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
PidFile "{folder}/pid"
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
{more}
"""


def key(path: Path) -> Path:
    """A new key pair."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@dataclass
class Board:
    """A running server.

    Attributes:
        folder: contains its keys and its log.
        home: Lastmile's folder "on the board".
    """

    folder: Path
    home: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @classmethod
    def start(cls, folder: Path, more: str = "") -> Board:
        folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        board = cls(folder, folder / "its home", free_port())
        key(folder / "host_key")
        shutil.copy(str(key(folder / "client_key")) + ".pub", folder / "authorized_keys")
        board.trust()
        board.launch(more)
        return board

    def launch(self, more: str = "") -> None:
        config = self.folder / "config"
        config.write_text(CONFIG.format(port=self.port, folder=self.folder, more=more))
        log = self.folder / "log"
        self.process = subprocess.Popen([SSHD, "-D", "-f", config, "-E", log], stdin=subprocess.DEVNULL)
        for _ in range(500):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.02)
        raise AssertionError("sshd is not listening")

    def trust(self) -> None:
        """Writes the server's key into known_hosts, as a user does after comparing it."""
        public = (self.folder / "host_key.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")

    def device(self, name: str = "board", emulated: bool = False, **changes: Any) -> Device:
        options = {
            "address": "127.0.0.1",
            "port": self.port,
            "identity": str(self.folder / "client_key"),
            "known_hosts": str(self.folder / "known_hosts"),
            "folder": str(self.home),
        }
        return Device(name, "ssh", emulated, {**options, **changes})

    def replaced_by(self, machine_id: Path | None) -> None:
        """Lets commands see another machine-id, as on another board; None: this machine's again.

        Args:
            machine_id: a file; written if it does not exist.
        """
        keys = self.folder / "authorized_keys"
        key = keys.read_text()[keys.read_text().index("ssh-ed25519") :]
        if machine_id is None:
            keys.write_text(key)
            return
        if not machine_id.exists():
            machine_id.write_text(os.urandom(16).hex() + "\n")
        mine = "--user --map-root-user" if os.getuid() else ""
        script = self.folder / "command"
        script.write_text(f"mount --bind '{machine_id}' /etc/machine-id && eval \"$SSH_ORIGINAL_COMMAND\"\n")
        keys.write_text(f"command=\"unshare {mine} --mount sh '{script}'\" {key}")

    def sessions(self) -> list[int]:
        """The server's child processes, which serve its connections."""
        return [pid for pid in below(self.process.pid) if pid != self.process.pid]

    def cut(self) -> None:
        """Kills every connection, like a pulled cable. Processes started over them have to notice by themselves."""
        for pid in self.sessions():
            with contextlib.suppress(*ENDED):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "sshd":
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self.cut()
        self.process.kill()
        self.process.wait()


def below(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(*ENDED):
            for child in task.read_text().split():
                found += below(int(child))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
