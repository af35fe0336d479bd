"""The emulated phone from within: its first process, which mounts what it sees, starts adb's two ends and answers am,
pm and the like. Run as `python -m pipeline.emulate.phone.system SETTINGS` in namespaces of its own.

The app's process sees this machine's file system with the phone's /data, /sdcard, /dev and /proc in it; adbd and all
that runs in its shells see the phone's own only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.emulate.phone.app import App, Log
from pipeline.emulate.phone.services import Services
from pipeline.system import proc

NODES = ("null", "zero", "random", "urandom", "tty")
SHELL = {
    "PATH": "/system/bin", "HOME": "/", "SHELL": "/system/bin/sh", "TMPDIR": "/data/local/tmp",
    "EXTERNAL_STORAGE": "/sdcard", "ANDROID_DATA": "/data", "ANDROID_ROOT": "/system", "LC_ALL": "C",
}  # fmt: skip
"""What a program that adbd starts finds in its environment."""
CHROOT = "/usr/sbin/chroot"
OWN = ("data", "sdcard", "dev", "proc")


def main(settings: dict[str, Any]) -> None:
    """Lives until it is killed."""
    home, image = Path(settings["home"]), Path(settings["image"])
    root, view = home / "root", home / "view"
    _mount_root(root, image / "root", settings["data_mb"])
    _mount_view(view, root)
    _forbid_vsock()
    if os.fork():
        _reap()
    log = Log(timedelta(seconds=int(settings["clock"].get("PHONE_CLOCK_OFFSET", 0))))
    properties = {**_properties(root / "system" / "build.prop"), **settings["properties"]}
    clock: dict[str, str] = settings["clock"]
    app = App(Path(settings["app"]), home, view, properties, log, clock)
    services = Services(root, app, log, properties)
    with _listening(root / "dev" / "socket") as listener:
        _start_adb(root, home, settings["socket"], _inside(root, clock))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, services.answer), daemon=True).start()


# -- what it sees ------------------------------------------------------------------------------------------------------


def _mount_root(root: Path, image: Path, data_mb: int) -> None:
    """The phone's root: a copy of the image in memory, a /data of so much room, and devices."""
    _mount("-t", "tmpfs", "tmpfs", root)
    _run(["cp", "-a", f"{image}/.", root])
    _mount("-t", "proc", "proc", root / "proc")
    _mount("-t", "tmpfs", "tmpfs", root / "dev")
    for name in NODES:
        (root / "dev" / name).touch()
        _mount("--bind", f"/dev/{name}", root / "dev" / name)
    _mount("-t", "devpts", "devpts", root / "dev" / "pts", "-o", "newinstance,ptmxmode=0666")
    (root / "dev" / "ptmx").symlink_to("pts/ptmx")
    _mount("-t", "tmpfs", "tmpfs", root / "data", "-o", f"size={data_mb}m")
    for folder in ("data/local/tmp", "data/app", "data/misc", "data/tombstones", "data/media/0/Android/data"):
        (root / folder).mkdir(parents=True)
    _mount("--bind", root / "data" / "media" / "0", root / "sdcard")
    _run(["ip", "link", "set", "lo", "up"])


def _mount_view(view: Path, root: Path) -> None:
    """What the app's process sees: every folder of this machine's root, but for those that are the phone's."""
    _mount("-t", "tmpfs", "tmpfs", view)
    for entry in Path("/").iterdir():
        if entry.name in OWN:
            continue
        if entry.is_symlink():
            (view / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir():
            _mount("--rbind", entry, view / entry.name)
    for name in OWN:
        _mount("--rbind", root / name, view / name)


def _mount(*words: str | Path) -> None:
    place = words[3] if words[0] == "-t" else words[2]
    Path(place).mkdir(parents=True, exist_ok=True) if not Path(place).exists() else None
    _run(["mount", *words])


def _run(words: Sequence[str | Path]) -> None:
    done = proc.run(words, timeout=60)
    if done.code != 0:
        raise SystemExit(f"{' '.join(done.argv)}: {done.reason}")


def _properties(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    return {key: value for key, _, value in pairs}


class _Filter(ctypes.Structure):
    """Source: linux/filter.h, struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def _forbid_vsock() -> None:
    """adbd listens on vsock too, which knows no namespaces: whoever runs this machine could come in. So no process here
    gets such a socket. Source: seccomp(2); linux/audit.h, socket.h: x86-64's socket is 41, AF_VSOCK 40."""
    program = (
        (0x20, 0, 0, 4), (0x15, 0, 5, 0xC000003E),  # another architecture's calls are let through
        (0x20, 0, 0, 0), (0x15, 0, 3, 41),
        (0x20, 0, 0, 16), (0x15, 0, 1, 40),
        (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT), (0x06, 0, 0, 0x7FFF0000),
    )  # fmt: skip
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_Filter(len(program), code)), 0, 0) != 0:
        raise SystemExit(f"no seccomp filter: {os.strerror(ctypes.get_errno())}")


# -- what runs ---------------------------------------------------------------------------------------------------------


def _reap() -> None:
    """The namespace's first process is the parent of all whose own has ended."""
    while True:
        with contextlib.suppress(ChildProcessError):
            os.wait()
            continue
        os._exit(1)  # none is left: the phone is gone


def _inside(root: Path, clock: dict[str, str]) -> dict[str, str]:
    """The same clock for programs that see the phone's root only."""
    if not clock:
        return {}
    library = root / "system" / "clock.so"
    shutil.copyfile(clock["LD_PRELOAD"], library)
    return {**clock, "LD_PRELOAD": f"/{library.relative_to(root)}"}


def _start_adb(root: Path, home: Path, client: str, clock: dict[str, str]) -> None:
    """adbd in the phone's root, and beside it the server that finds it and that clients outside reach."""
    threading.Thread(target=_keep_adbd, args=(root, home, {**SHELL, **clock}), daemon=True).start()
    _wait_for_port(5555)
    keys = home / "adb-keys"  # adb makes a pair in its user's home, whether it is asked for or not
    keys.mkdir(exist_ok=True)
    with (home / "adb.log").open("wb") as log:
        subprocess.Popen(
            ["adb", "-L", f"localfilesystem:{client}", "nodaemon", "server"], env={**os.environ, "HOME": str(keys)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _keep_adbd(root: Path, home: Path, environment: dict[str, str]) -> None:
    """As Android's init does: one that ended is started again, and adb's server finds it again by itself."""
    with (home / "adbd.log").open("wb") as log:
        while True:
            subprocess.run(
                [CHROOT, root, "/usr/sbin/adbd"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, check=False,
            )  # fmt: skip
            time.sleep(0.2)


def _wait_for_port(port: int) -> None:
    for _ in range(500):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise SystemExit("adbd does not listen")


@contextlib.contextmanager
def _listening(folder: Path) -> Any:
    """A socket in a folder, bound from within it: the name of a socket has at most 107 bytes."""
    folder.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("system")
            Path("system").chmod(0o666)
            listener.listen()
            os.chdir(here)
            yield listener
    finally:
        os.chdir(here)


def _answer(connection: socket.socket, answer: Callable[[list[str]], tuple[int, str]]) -> None:
    """One question: see files/ask."""
    with connection, connection.makefile("rb") as asked:
        words: list[str] = []
        count = -1
        piece = b""
        while count < 0 or len(words) <= count:
            letter = asked.read(1)
            if not letter:
                return
            if letter != b"\0":
                piece += letter
                continue
            if count < 0:
                count = int(piece)
            else:
                words.append(piece.decode("utf-8", "surrogateescape"))
            piece = b""
        try:
            code, text = answer(words)
        except Exception as error:  # a question that this phone does not know must not end it
            code, text = 255, f"{words[0]}: {type(error).__name__}: {error}\n"
        with contextlib.suppress(OSError):  # who asked may be gone
            connection.sendall(f"{code}\n{text}".encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
