"""An emulated phone: the real adbd with mksh and toybox in namespaces of its own, and the app out of the APK in a JVM.

What the shell there asks of Android (am, pm, dumpsys, …) is answered by system.py, which starts the app's process:
R8's class-file output of the app under Robolectric, with Android's own native libraries. Its accuracy, outputs and
behaviour are those of the app; its times mean nothing. It is as new at every boot, and reaches nothing outside: it has
a network of its own, and adb clients come in over a unix socket only (adbd asks nobody who he is).

    build/boards/<hash>/        adbd, mksh, toybox and what they need, and the JVM's part of it; never written to
    build/boards/phone/         board.json while it runs, system.log; its file systems, seen from within only
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
"""What adb calls whatever listens on port 5555 of its own machine."""
BOOT_SECONDS, STOP_SECONDS = 60.0, 30.0
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child")
TAKEN = ("data", "sdcard")
"""Folders at the root that the app sees the phone's of."""
ROOT = Path(__file__).parents[3]
STARTED: list[subprocess.Popen[bytes]] = []
"""What this process started. It goes on when its starter ends; where that lives longer, it is waited for."""


@dataclass(frozen=True)
class Boot:
    """How to start it.

    Attributes:
        data_mb: size of its /data, which is in memory.
        properties: in place of those of files/build.prop, or beside them.
        app: the folder that `inv android.build` leaves the app in, for a JVM; None for the store's own.
        clock: what it believes the time to be, in seconds since 1970; None for this machine's time.
    """

    data_mb: int = 1024
    properties: Mapping[str, str] | None = None
    app: Path | None = None
    clock: int | None = None


def endpoint(build: Store) -> dict[str, str] | str:
    """What adb needs to reach it, as environment variables; or, in one line, why it cannot be reached."""
    state = _state(build)
    if state is None:
        return f"it does not run; start it: inv devices.emulate --board {BOARD}"
    return {"ADB_SERVER_SOCKET": f"localfilesystem:{state['socket']}", "ANDROID_SERIAL": SERIAL}


def boot(build: Store, how: Boot | None = None) -> dict[str, Any]:
    """Starts it, unless it runs, and waits until adb sees it.

    Raises:
        NeedsTool: this machine is of another kind, or a program or the right to make namespaces is missing.
        StageFailed: it did not come up; the last lines of its log are in the message.
    """
    with store.lock(Store(build.root / "boards"), f"boot of the {BOARD}"):
        if _state(build) is None:
            prefix = _namespaces()
            made = image.there(build)
            if made is None:
                with store.lock(build, "making the system of the emulated phone"):
                    made = image.make(build)
            _start(build, prefix, made, how or Boot())
    state = _state(build)
    assert state is not None  # adb has just seen it
    return state


def stop(build: Store) -> bool:
    """Ends it with all that runs in it. Returns whether it ran."""
    state = _state(build)
    if state is None:
        return False
    os.kill(state["pid"], signal.SIGKILL)  # its first process: the kernel ends all others of the namespace
    processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    for process in STARTED:
        process.poll()
    _home(build).joinpath("board.json").unlink(missing_ok=True)
    store.remove(Path(state["socket"]).parent)
    return True


def _namespaces() -> list[str]:
    """The words before its first process.

    Raises:
        NeedsTool: see `boot`.
    """
    if platform.machine() != "x86_64":
        raise NeedsTool(f"the emulated phone runs Android's x86-64 libraries, and this machine is {platform.machine()}")
    packages.require("phone")
    words = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *NAMESPACES]
    done = proc.run([*words, "true"], timeout=30)
    if done.code != 0:
        raise NeedsTool(
            f"the emulated phone needs namespaces of its own, which only root may make here ({done.reason}); as root, "
            "or where unprivileged user namespaces are allowed, it runs"
        )
    return words


def _start(build: Store, prefix: list[str], made: image.Image, how: Boot) -> None:
    """Starts its first process and writes board.json once adb sees it."""
    home = _home(build)
    if home.resolve().parts[1] in TAKEN:
        raise NeedsTool(
            f"the emulated phone has a /{home.resolve().parts[1]} of its own; {home} lies in this machine's"
        )
    home.mkdir(parents=True, exist_ok=True)
    socket = _socket(home)
    settings = {
        "image": str(made.folder.resolve()), "home": str(home.resolve()), "socket": str(socket),
        "app": str((how.app or build.root / "android" / "phone").resolve()), "data_mb": how.data_mb,
        "properties": dict(how.properties or {}), "clock": _clock(home, how.clock),
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(settings, indent=1))
    words = [*prefix, sys.executable, "-m", "pipeline.emulate.phone.system", str(home / "settings.json")]
    began = time.monotonic()
    with (home / "system.log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
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
    """What makes a program believe that it is now so many seconds after 1970: variables of its environment.

    Raises:
        NeedsTool, StageFailed: there is no compiler, or it refuses.
    """
    if now is None:
        return {}
    packages.require("native")
    library = home / "clock.so"
    done = proc.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, image.FILES / "clock.c"], timeout=60)
    if done.code != 0:
        raise StageFailed(f"the phone's clock: {done.reason}")
    return {"LD_PRELOAD": str(library.resolve()), "PHONE_CLOCK_OFFSET": str(now - int(time.time()))}


def _wait_for_adb(process: subprocess.Popen[bytes], socket: Path, home: Path) -> int:
    """Returns the number of the namespace's first process.

    Raises:
        StageFailed: it ended, or adb did not see it in time.
    """
    env = {"ADB_SERVER_SOCKET": f"localfilesystem:{socket}", "ANDROID_SERIAL": SERIAL}
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise StageFailed(f"the emulated phone ended while it started: {_last_lines(home)}")
        if socket.exists() and proc.run(["adb", "get-state"], timeout=30, env=env).out.strip() == "device":
            return _child(process.pid)
        time.sleep(0.05)
    raise StageFailed(f"the emulated phone did not answer within {BOOT_SECONDS:.0f} s: {_last_lines(home)}")


def _child(parent: int) -> int:
    """The one process that another started. Source: proc(5), stat: the parent is the second field after the name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == parent:
            return int(folder.name)
    raise StageFailed("the emulated phone ended while it started")


def _end(process: subprocess.Popen[bytes]) -> None:
    proc.end(process)
    process.wait()


def _socket(home: Path) -> Path:
    """Where adb's clients come in: in a short folder, since the name of a socket has at most 107 bytes."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"lastmile-phone-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StageFailed(f"{folder} is another user's, or open to others; remove it")
    socket = folder / "adb"
    socket.unlink(missing_ok=True)
    return socket


def _last_lines(home: Path) -> str:
    log = home / "system.log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' | '.join(lines[-5:]) or 'it said nothing'} ({log})"


def _home(build: Store) -> Path:
    return build.root / "boards" / BOARD


def _state(build: Store) -> dict[str, Any] | None:
    """board.json while it runs; None where it does not, whatever an old file says."""
    try:
        state: dict[str, Any] = json.loads((_home(build) / "board.json").read_text())
    except (OSError, ValueError):
        return None
    return state if processes.runs(state["pid"], state["started"]) else None
