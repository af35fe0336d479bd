"""The emulated phone's first process: mounts its file systems, starts adbd and adb's server, and carries out am, pm and
so on. Run as `python -m pipeline.emulate.phone.system SETTINGS` in separate namespaces.

The app's process sees this machine's file system with the phone's /data, /sdcard, /dev and /proc. adbd and its shells
see only the phone's file system.
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
from collections.abc import Callable, Mapping, Sequence
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
"""Environment variables of the programs that adbd starts."""
CHROOT = "/usr/sbin/chroot"
PHONE_FOLDERS = ("data", "sdcard", "dev", "proc")


def main(settings: dict[str, Any]) -> None:
    """Runs the phone until it is killed."""
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
            threading.Thread(target=_handle, args=(connection, services.run), daemon=True).start()


# -- file systems ------------------------------------------------------------------------------------------------------


def _mount_root(root: Path, image: Path, data_mb: int) -> None:
    """Mounts the phone's root: a copy of the image in memory, /data with the given size, and devices."""
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
    """Mounts what the app's process sees: this machine's root folders, except those that come from the phone."""
    _mount("-t", "tmpfs", "tmpfs", view)
    for entry in Path("/").iterdir():
        if entry.name in PHONE_FOLDERS:
            continue
        if entry.is_symlink():
            (view / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir():
            _mount("--rbind", entry, view / entry.name)
    for name in PHONE_FOLDERS:
        _mount("--rbind", root / name, view / name)


def _mount(*args: str | Path) -> None:
    target = Path(args[3] if args[0] == "-t" else args[2])
    if not target.exists():
        target.mkdir(parents=True)
    _run(["mount", *args])


def _run(argv: Sequence[str | Path]) -> None:
    done = proc.run(argv, timeout=60)
    if done.code != 0:
        raise SystemExit(f"{' '.join(done.argv)}: {done.reason}")


def _properties(path: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    return {key: value for key, _, value in pairs}


class _Filter(ctypes.Structure):
    """Source: linux/filter.h, struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def _forbid_vsock() -> None:
    """Forbids vsock sockets to all processes of the phone. adbd listens on vsock too, which has no namespaces: if this
    machine is a virtual machine, its host could connect. Source: seccomp(2); linux/audit.h, socket.h: x86-64's socket
    is 41, AF_VSOCK 40."""
    program = (
        (0x20, 0, 0, 4), (0x15, 0, 5, 0xC000003E),  # allow system calls of other architectures
        (0x20, 0, 0, 0), (0x15, 0, 3, 41),
        (0x20, 0, 0, 16), (0x15, 0, 1, 40),
        (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT), (0x06, 0, 0, 0x7FFF0000),
    )  # fmt: skip
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_Filter(len(program), code)), 0, 0) != 0:
        raise SystemExit(f"cannot set a seccomp filter: {os.strerror(ctypes.get_errno())}")


# -- processes ---------------------------------------------------------------------------------------------------------


def _reap() -> None:
    """Waits for all processes that have lost their parent: the namespace's first process inherits them."""
    while True:
        with contextlib.suppress(ChildProcessError):
            os.wait()
            continue
        os._exit(1)  # no process is left: the phone has ended


def _inside(root: Path, clock: dict[str, str]) -> dict[str, str]:
    """The clock's variables for programs that see only the phone's root."""
    if not clock:
        return {}
    library = root / "system" / "clock.so"
    shutil.copyfile(clock["LD_PRELOAD"], library)
    return {**clock, "LD_PRELOAD": f"/{library.relative_to(root)}"}


def _start_adb(root: Path, home: Path, client: str, clock: dict[str, str]) -> None:
    """Starts adbd in the phone's root, and an adb server that finds it and that clients outside connect to."""
    adbd = (CHROOT, root, "/usr/sbin/adbd")
    threading.Thread(target=_keep, args=(adbd, home / "adbd.log", {**SHELL, **clock}), daemon=True).start()
    _wait_for_port(5555)
    keys = home / "adb-keys"  # adb always makes a key pair in its user's home
    keys.mkdir(exist_ok=True)
    server = ("adb", "-L", f"localfilesystem:{client}", "nodaemon", "server")
    own = {**os.environ, "HOME": str(keys)}
    threading.Thread(target=_keep, args=(server, home / "adb.log", own), daemon=True).start()


def _keep(argv: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
    """Restarts a program when it ends: adbd, as Android's init does, and adb's server, which then finds adbd again."""
    with log.open("wb") as out:
        while True:
            subprocess.run(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                check=False,
            )  # fmt: skip
            time.sleep(0.2)


def _wait_for_port(port: int) -> None:
    for _ in range(500):
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise SystemExit("adbd is not listening")


@contextlib.contextmanager
def _listening(folder: Path) -> Any:
    """A socket in a folder, bound by its relative path: a socket's path has at most 107 bytes."""
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("system")
            Path("system").chmod(0o666)
            listener.listen()
            os.chdir(before)
            yield listener
    finally:
        os.chdir(before)


def _handle(connection: socket.socket, run: Callable[[list[str]], tuple[int, str]]) -> None:
    """Handles one command; see files/ask for the format."""
    with connection, connection.makefile("rb") as request:
        argv: list[str] = []
        count = -1
        piece = b""
        while count < 0 or len(argv) <= count:
            byte = request.read(1)
            if not byte:
                return
            if byte != b"\0":
                piece += byte
                continue
            if count < 0:
                count = int(piece)
            else:
                argv.append(piece.decode("utf-8", "surrogateescape"))
            piece = b""
        try:
            code, text = run(argv)
        except Exception as error:  # a command that is not supported must not end the phone
            code, text = 255, f"{argv[0]}: {type(error).__name__}: {error}\n"
        with contextlib.suppress(OSError):  # the client may be gone
            connection.sendall(f"{code}\n{text}".encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
