"""An emulated phone as tests use it, and an adb server of our own that tells of phones which nobody has here."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline import android
from pipeline.android import phone as android_phone
from pipeline.core import Device
from pipeline.devices import adb
from pipeline.emulate import phone
from pipeline.system.store import Store

DEVICE = Device("phone-emulated", "adb", True, {"board": "phone"})


def app(build: Store) -> None:
    """Builds the app into a store, with no model in it.

    Raises:
        NeedsTool: a program is missing.
    """
    made = android.build(build, [], android.Options(abis=("x86_64",)))
    android_phone.make(build, [], made)


@dataclass(frozen=True)
class Phone:
    """A phone that runs.

    Attributes:
        build: the store whose boards/ it lies in, and whose app is on it.
    """

    build: Store

    @property
    def env(self) -> Mapping[str, str]:
        there = phone.endpoint(self.build)
        assert isinstance(there, dict), there
        return there

    def adb(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["adb", *words], env={**os.environ, **self.env}, capture_output=True, text=True, check=False, timeout=120
        )

    def shell(self, command: str) -> str:
        """What a command says there."""
        done = self.adb("shell", command)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def app(self) -> str:
        """The number of the app's process; nothing while it has none."""
        return self.adb("shell", f"pidof {adb.PACKAGE}").stdout.strip()

    def anew(self, how: phone.Boot | None = None) -> None:
        """Boots it as new."""
        phone.stop(self.build)
        phone.boot(self.build, how)


class Server:
    """An adb server that sees the phones it is told to see, and answers nothing else. Source: adb's OVERVIEW.TXT,
    SERVICES.TXT: a request is its length in four hexadecimal digits and its text, the answer OKAY or FAIL first."""

    VERSION = 41

    def __init__(self, folder: Path, phones: str) -> None:
        self.phones = phones
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "adb"))
        self.listener.listen()
        self.env = {"ADB_SERVER_SOCKET": f"localfilesystem:{folder / 'adb'}"}
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(int(connection.recv(4), 16)).decode()
                said = {"host:version": f"{self.VERSION:04x}", "host:devices-l": self.phones}.get(asked)
                status, text = ("OKAY", said) if said is not None else ("FAIL", "device offline")
                connection.sendall(f"{status}{len(text):04x}{text}".encode())
