"""Emulated boards: whole aarch64 machines in QEMU, reached over real SSH, on this machine's loopback address only.

Their clock counts instructions: with `-icount shift=0`, the machine's time advances by one nanosecond per instruction,
so edge-bench's nanoseconds are instructions. They are a repeatable cost, not a latency.

    build/boards/keys/             the boards' host key and the client key
    build/boards/<hash>/           the system's disk image, kernel and initramfs; never written to
    build/boards/<board>/          board.json while it runs, known_hosts, console.log; data.img, the disk of /home/pi

/home/pi is a separate disk that survives a power cut, like a board's SD card. The system's disk is reset at every boot,
so damage to it does not last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.emulate import processes
from pipeline.emulate.pi import image
from pipeline.errors import NeedsTool, StageFailed, UnknownName
from pipeline.system import packages, proc, store
from pipeline.system.progress import say
from pipeline.system.store import Store

USER = "pi"
BOOT_SECONDS = 180.0
"""Far more than the few seconds that it takes, for a host that is busy."""
STOP_SECONDS = 30.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Board:
    """The hardware of an emulated board.

    Attributes:
        model: its name in the device tree, which `edge-bench facts` reports.
        cpu: QEMU's name of the CPU model.
    """

    name: str
    model: str
    cpu: str
    memory_mb: int = 2048


BOARDS = {
    board.name: board
    for board in (
        Board("pi4", "Raspberry Pi 4 Model B (emulated)", "cortex-a72"),
        Board("pi5", "Raspberry Pi 5 Model B (emulated)", "cortex-a76"),
    )
}


@dataclass(frozen=True)
class Boot:
    """Options of a boot.

    Attributes:
        data_mb: size of a new /home/pi; an existing one keeps its size.
        fresh: start with an empty /home/pi.
        clock: the date at boot ("2001-01-01"), for tests with a wrong clock; None for this machine's date.
    """

    data_mb: int = 4096
    fresh: bool = False
    clock: str | None = None


def endpoint(build: Store, board: str) -> dict[str, Any] | str:
    """How to connect to a running board: the keys that a table of devices.toml has for a real one.

    pipeline/devices/ssh.py calls it for a table with `board = "pi4"`.

    Returns:
        address, port, user, identity, known_hosts (paths as text); or, in one line, why there is no connection.

    Raises:
        UnknownName: there is no such board.
    """
    _board(board)
    state = _state(build, board)
    if state is None:
        return f"it is not running; start it with inv devices.emulate --board {board}"
    return {key: state[key] for key in ("address", "port", "user", "identity", "known_hosts")}


def boot(build: Store, name: str, how: Boot | None = None) -> dict[str, Any]:
    """Boots a board, unless it is running, and waits until its SSH server responds.

    Returns:
        Its endpoint.

    Raises:
        UnknownName: there is no such board.
        NeedsTool: QEMU or another program is missing.
        StageFailed: it did not boot. The message has the console's last lines.
    """
    board, how = _board(name), how or Boot()
    with store.lock(Store(build.root / "boards"), f"boot of {name}"):
        if _state(build, name) is None:
            packages.require("emulate")
            made = image.find(build)
            if made is None:
                with store.lock(build, "building the system of the emulated boards"):
                    made = image.make(build)
            _start(build, board, made, how)
    found = endpoint(build, name)
    assert isinstance(found, dict)  # it has just responded
    return found


def stop(build: Store, name: str, cut: bool = False) -> bool:
    """Stops a board.

    Args:
        cut: cut its power instead of shutting it down.

    Returns:
        Whether it was running.
    """
    _board(name)
    state = _state(build, name)
    if state is None:
        return False
    if not cut:
        with contextlib.suppress(NeedsTool):  # without ssh its power is cut; the disk's journal protects it
            done = proc.run([*as_root(build, name), "/usr/sbin/poweroff"], timeout=STOP_SECONDS)
            if done.code == 0:
                processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    if _runs(state):
        os.kill(state["pid"], signal.SIGKILL)
        processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    _home(build, name).joinpath("board.json").unlink(missing_ok=True)
    return True


def as_root(build: Store, name: str) -> list[str]:
    """The ssh command line, up to the command, that runs a command as root on the board: to shut it down, and for
    tests.

    Raises:
        StageFailed: it is not running.
    """
    found = endpoint(build, name)
    if isinstance(found, str):
        raise StageFailed(f"{name}: {found}")
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": found["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "30",
        "LogLevel": "ERROR",
    }
    args = [arg for key, value in options.items() for arg in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", *args, "-i", found["identity"], "-p", str(found["port"]), f"root@{found['address']}"]


# -- the machine -------------------------------------------------------------------------------------------------------


def _start(build: Store, board: Board, made: image.Image, how: Boot) -> None:
    """Boots the machine and writes board.json when its SSH server responds."""
    home = _home(build, board.name)
    home.mkdir(parents=True, exist_ok=True)
    if how.fresh or not (home / "data.img").is_file():
        store.remove(home / "data.img")
        image.data_disk(home / "data.img", how.data_mb)
    pairs = image.keys(build)
    began = time.monotonic()
    port = _launch(board, made, home, how)
    pid = int((home / "pid").read_text())
    state = {
        "schema": 1, "board": board.name, "pid": pid, "started": proc.began(pid), "image": made.folder.name,
        "address": "127.0.0.1", "port": port, "user": USER, "identity": str(pairs.client.resolve()),
        "known_hosts": str((home / "known_hosts").resolve()),
    }  # fmt: skip
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {pairs.public(pairs.host)}\n")
    try:
        _wait_for_ssh(state, home)
    except BaseException:
        if _runs(state):
            os.kill(pid, signal.SIGKILL)
        raise
    (home / "new.json").write_text(json.dumps(state, indent=1) + "\n")
    (home / "new.json").replace(home / "board.json")
    say(f"{board.model} booted in {time.monotonic() - began:.1f} s; ssh on 127.0.0.1 port {port}")


def _launch(board: Board, made: image.Image, home: Path, how: Boot) -> int:
    """Starts QEMU in the background. Returns the port on this machine that forwards to the board's SSH server."""
    for attempt in range(1, ATTEMPTS + 1):
        port = _free_port()
        store.remove(home / "pid")
        store.remove(home / "console.log")
        _device_tree(board, home / "board.dtb")
        done = proc.run(
            [
                *_machine(board),
                "-dtb", home / "board.dtb",
                "-kernel", made.kernel, "-initrd", made.initramfs,
                "-append", f"console=ttyAMA0 quiet panic=-1 norandmaps hostname={board.name}",
                *_disk(made.disk, "root", "snapshot=on"), *_disk(home / "data.img", "data", "snapshot=off"),
                "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
                "-device", "virtio-net-pci,netdev=net,romfile=",
                # An instruction takes a nanosecond; while the machine is idle, time advances as on the host.
                # (sleep=off would skip idle time, and with it the time that sshd gives a client to log in.)
                "-icount", "shift=0,sleep=on",
                *(["-rtc", f"base={how.clock}"] if how.clock else []),
                "-display", "none", "-monitor", "none", "-serial", f"file:{home / 'console.log'}", "-no-reboot",
                "-daemonize", "-pidfile", home / "pid",
            ],
            timeout=60,
        )  # fmt: skip
        if done.code == 0:
            return port
        if ("hostfwd" not in done.err.lower() and "forwarding" not in done.err.lower()) or attempt == ATTEMPTS:
            break  # retry only if another program took the port in the meantime
    raise StageFailed(f"QEMU did not start {board.name}: {done.reason}")


def _machine(board: Board) -> list[str]:
    return [
        "qemu-system-aarch64", "-machine", "virt", "-cpu", board.cpu, "-smp", "1", "-m", str(board.memory_mb),
        "-accel", "tcg,thread=single", "-nodefaults",
    ]  # fmt: skip


def _disk(path: Path, name: str, option: str) -> list[str]:
    # QEMU writes a comma in a value as two, because a single one ends the value.
    file = str(path).replace(",", ",,")
    drive = f"file={file},format=raw,if=none,id={name},{option},cache=unsafe"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]


def _device_tree(board: Board, path: Path) -> None:
    """Writes QEMU's device tree with the board's name in it, at every boot because it contains the kernel's seeds."""
    qemu = _machine(board)
    qemu[qemu.index("virt")] = f"virt,dumpdtb={str(path).replace(',', ',,')}"
    commands: tuple[list[str | Path], ...] = ([*qemu], ["fdtput", "-t", "s", path, "/", "model", board.model])
    for argv in commands:
        done = proc.run(argv, timeout=60)
        if done.code != 0:
            raise StageFailed(f"cannot make the device tree of {board.name}: {done.reason}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_ssh(state: dict[str, Any], home: Path) -> None:
    """
    Raises:
        StageFailed: the machine ended, or did not respond in time.
    """
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        if not _runs(state):
            raise StageFailed(f"{state['board']} ended while it booted: {_last_lines(home)}")
        try:
            with socket.create_connection((state["address"], state["port"]), timeout=5) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass  # not yet
        time.sleep(0.2)
    raise StageFailed(f"{state['board']} did not respond within {BOOT_SECONDS:.0f} s: {_last_lines(home)}")


def _last_lines(home: Path) -> str:
    """The console's last lines, and the path of its log."""
    log = home / "console.log"
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return f"{' | '.join(lines[-5:]) or 'its console printed nothing'} ({log})"


# -- state -------------------------------------------------------------------------------------------------------------


def _board(name: str) -> Board:
    if name not in BOARDS:
        raise UnknownName("board", name, BOARDS)
    return BOARDS[name]


def _home(build: Store, name: str) -> Path:
    return build.root / "boards" / name


def _state(build: Store, name: str) -> dict[str, Any] | None:
    """board.json of a running board. None if it is not running, even if an old file exists."""
    try:
        state = json.loads((_home(build, name) / "board.json").read_text())
    except (OSError, ValueError):
        return None
    return state if _runs(state) else None


def _runs(state: dict[str, Any]) -> bool:
    """Whether its process is running. A later process may have the same PID, but not the same start time."""
    return processes.runs(state["pid"], state["started"])
