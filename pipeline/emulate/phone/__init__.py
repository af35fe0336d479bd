"""An emulated phone: the real adbd with mksh and toybox in separate namespaces, and the app from the APK in a JVM.

system.py implements Android's commands (am, pm, dumpsys, …) for the phone's shell and starts the app's process: R8's
class-file output of the app under Robolectric, with Android's own native libraries. Its accuracy, outputs and behaviour
are those of the app; its times mean nothing. Every boot starts from a clean state. The phone has a separate network and
reaches nothing outside; adb clients connect through a unix socket only, because this adbd authenticates nobody.

    build/boards/<hash>/        adbd, mksh, toybox and their libraries; never written to
    build/boards/phone/         board.json while it runs, system.log; its file systems, visible only inside
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.emulate import processes
from pipeline.emulate.phone import image
from pipeline.errors import NeedsTool, StageFailed
from pipeline.system import packages, proc, store
from pipeline.system.progress import say
from pipeline.system.store import Store

BOARD = "phone"
SERIAL = "emulator-5554"
"""adb's name of a device that listens on port 5555 of the same machine."""
BOOT_SECONDS, STOP_SECONDS = 60.0, 30.0
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child")
REPLACED = ("data", "sdcard")
"""Folders of the root that the app sees the phone's version of."""
ROOT = Path(__file__).parents[3]
STARTED: list[subprocess.Popen[bytes]] = []
"""Phones that this process started. They outlive it; if one ends earlier, `stop` reaps it."""


@dataclass(frozen=True)
class Boot:
    """Options of a boot.

    Attributes:
        data_mb: size of its /data, which is in memory.
        properties: system properties; they override or extend those of files/build.prop.
        app: folder of the app's JVM build by `inv android.build`; None for that of the store.
        clock: the phone's time in seconds since 1970, for tests with a wrong clock; None for this machine's time.
    """

    data_mb: int = 1024
    properties: Mapping[str, str] | None = None
    app: Path | None = None
    clock: int | None = None


def endpoint(build: Store) -> dict[str, str] | str:
    """The environment variables with which adb connects to it; or, in one line, why there is no connection."""
    state = _state(build)
    if state is None:
        return f"it is not running; start it with inv devices.emulate --board {BOARD}"
    return {"ADB_SERVER_SOCKET": f"localfilesystem:{state['socket']}", "ANDROID_SERIAL": SERIAL}


def boot(build: Store, how: Boot | None = None) -> dict[str, Any]:
    """Starts it, unless it is running, and waits until adb lists it.

    Raises:
        NeedsTool: this machine is not x86-64, or a program or the permission to make namespaces is missing.
        StageFailed: it did not boot. The message has the last lines of its log.
    """
    with store.lock(Store(build.root / "boards"), f"boot of the {BOARD}"):
        if _state(build) is None:
            prefix = _namespaces()
            made = image.find(build)
            if made is None:
                with store.lock(build, "building the system of the emulated phone"):
                    made = image.make(build)
            _start(build, prefix, made, how or Boot())
    state = _state(build)
    assert state is not None  # adb has just listed it
    return state


def stop(build: Store) -> bool:
    """Stops it with all its processes. Returns whether it was running."""
    state = _state(build)
    if state is None:
        return False
    os.kill(state["pid"], signal.SIGKILL)  # its first process: the kernel then kills all others of the namespace
    processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    for process in STARTED:
        process.poll()
    _home(build).joinpath("board.json").unlink(missing_ok=True)
    store.remove(Path(state["socket"]).parent)
    return True


def _namespaces() -> list[str]:
    """The command that starts its first process in new namespaces.

    Raises:
        NeedsTool: see `boot`.
    """
    if platform.machine() != "x86_64":
        raise NeedsTool(f"the emulated phone runs Android's x86-64 libraries, and this machine is {platform.machine()}")
    packages.require("phone")
    argv = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *NAMESPACES]
    done = proc.run([*argv, "true"], timeout=30)
    if done.code != 0:
        raise NeedsTool(
            f"the emulated phone needs its own namespaces, which only root can make on this machine ({done.reason}); "
            "run as root, or allow unprivileged user namespaces"
        )
    return argv


def _start(build: Store, prefix: list[str], made: image.Image, how: Boot) -> None:
    """Starts its first process and writes board.json when adb lists it."""
    home = _home(build)
    top = home.resolve().parts[1]
    if top in REPLACED:
        raise NeedsTool(f"the emulated phone has its own /{top} and cannot use {home}; move the build folder")
    home.mkdir(parents=True, exist_ok=True)
    socket = _socket(home)
    settings = {
        "image": str(made.folder.resolve()), "home": str(home.resolve()), "socket": str(socket),
        "app": str((how.app or build.root / "android" / "phone").resolve()), "data_mb": how.data_mb,
        "properties": dict(how.properties or {}), "clock": _clock(home, how.clock),
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(settings, indent=1))
    argv = [*prefix, sys.executable, "-m", "pipeline.emulate.phone.system", str(home / "settings.json")]
    began = time.monotonic()
    with (home / "system.log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    STARTED.append(process)
    try:
        pid = _wait_for_adb(process, socket, home)
    except BaseException:
        _end(process)
        raise
    state = {"schema": 1, "board": BOARD, "pid": pid, "started": proc.began(pid), "socket": str(socket)}
    (home / "new.json").write_text(json.dumps(state, indent=1) + "\n")
    (home / "new.json").replace(home / "board.json")
    say(f"the emulated phone started in {time.monotonic() - began:.1f} s")


def _clock(home: Path, now: int | None) -> dict[str, str]:
    """The environment variables with which a program sees this time, in seconds since 1970.

    Raises:
        NeedsTool: there is no compiler.
        StageFailed: files/clock.c does not compile.
    """
    if now is None:
        return {}
    packages.require("native")
    library = home / "clock.so"
    done = proc.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, image.FILES / "clock.c"], timeout=60)
    if done.code != 0:
        raise StageFailed(f"cannot compile the phone's clock: {done.reason}")
    return {"LD_PRELOAD": str(library.resolve()), "PHONE_CLOCK_OFFSET": str(now - int(time.time()))}


def _wait_for_adb(process: subprocess.Popen[bytes], socket: Path, home: Path) -> int:
    """Returns the PID of the namespace's first process.

    Raises:
        StageFailed: it ended, or adb did not list it in time.
    """
    env = {"ADB_SERVER_SOCKET": f"localfilesystem:{socket}", "ANDROID_SERIAL": SERIAL}
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise StageFailed(f"the emulated phone ended while it started: {_last_lines(home)}")
        if socket.exists() and proc.run(["adb", "get-state"], timeout=30, env=env).out.strip() == "device":
            return _child(process.pid)
        time.sleep(0.05)
    raise StageFailed(f"the emulated phone did not respond within {BOOT_SECONDS:.0f} s: {_last_lines(home)}")


def _child(parent: int) -> int:
    """The only child of a process. Source: proc(5), stat: the parent is the second field after the name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended in the meantime
        if int(fields[1]) == parent:
            return int(folder.name)
    raise StageFailed("the emulated phone ended while it started")


def _end(process: subprocess.Popen[bytes]) -> None:
    proc.end(process)
    process.wait()


def _socket(home: Path) -> Path:
    """The socket for adb's clients, in a folder with a short name: a socket's path has at most 107 bytes."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"lastmile-phone-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StageFailed(f"{folder} belongs to another user or is accessible to others; remove it")
    socket = folder / "adb"
    socket.unlink(missing_ok=True)
    return socket


def _last_lines(home: Path) -> str:
    log = home / "system.log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' | '.join(lines[-5:]) or 'it printed nothing'} ({log})"


def _home(build: Store) -> Path:
    return build.root / "boards" / BOARD


def _state(build: Store) -> dict[str, Any] | None:
    """board.json of the running phone. None if it is not running, even if an old file exists."""
    try:
        state: dict[str, Any] = json.loads((_home(build) / "board.json").read_text())
    except (OSError, ValueError):
        return None
    return state if processes.runs(state["pid"], state["started"]) else None
