"""The emulated phone for tests, and an adb server that lists made-up phones."""

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
    """Builds the app without models into a store.

    Raises:
        NeedsTool: a program is missing.
    """
    made = android.build(build, [], android.Options(abis=("x86_64",)))
    android_phone.make(build, [], made)


@dataclass(frozen=True)
class Phone:
    """A running phone.

    Attributes:
        build: the store that contains it and its app.
    """

    build: Store

    @property
    def env(self) -> Mapping[str, str]:
        endpoint = phone.endpoint(self.build)
        assert isinstance(endpoint, dict), endpoint
        return endpoint

    def adb(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["adb", *args], env={**os.environ, **self.env}, capture_output=True, text=True, check=False, timeout=120
        )

    def shell(self, command: str) -> str:
        """The output of a command in the phone's shell."""
        done = self.adb("shell", command)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def app(self) -> str:
        """The PID of the app's process; empty if it is not running."""
        return self.adb("shell", f"pidof {adb.PACKAGE}").stdout.strip()

    def reboot(self, how: phone.Boot | None = None) -> None:
        """Boots it again, from a clean state."""
        phone.stop(self.build)
        phone.boot(self.build, how)


class Server:
    """An adb server that lists the given phones and supports nothing else. Source: adb's OVERVIEW.TXT and SERVICES.TXT:
    a request is its length in four hexadecimal digits and its text; a response begins with OKAY or FAIL."""

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
                request = connection.recv(int(connection.recv(4), 16)).decode()
                found = {"host:version": f"{self.VERSION:04x}", "host:devices-l": self.phones}.get(request)
                status, text = ("OKAY", found) if found is not None else ("FAIL", "device offline")
                connection.sendall(f"{status}{len(text):04x}{text}".encode())
