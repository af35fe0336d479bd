"""Emulated boards: whole aarch64 machines in QEMU, reached over real SSH on this machine's loopback address only.

Their clock counts instructions: with `-icount shift=0` the machine's time goes on by one nanosecond an instruction, so
an unmodified harness's nanoseconds are instructions. That is a repeatable cost, and no latency.

    build/boards/keys/             the boards' host key and our client key
    build/boards/<hash>/           the system's disk image, kernel and initramfs; never written to
    build/boards/<board>/          board.json while it runs, known_hosts, console.log; data.img, the disk of /home/pi

/home/pi is a disk of its own and outlives the machine, as a board's card outlives a power cut; the system's disk is as
new at every boot, so nothing that breaks there stays broken.
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
"""Far above the few seconds that it takes: a machine of other work boots slowly too."""
STOP_SECONDS = 30.0
ATTEMPTS = 3


@dataclass(frozen=True)
class Board:
    """What a board is made like.

    Attributes:
        model: its name in the device tree, which facts report.
        cpu: QEMU's name of the processor's design.
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
    """How to boot.

    Attributes:
        data_mb: size of a new /home/pi; one that is there stays as it is.
        fresh: start with an empty /home/pi.
        clock: the date at boot ("2001-01-01"), for a board whose clock is wrong; None for this machine's.
    """

    data_mb: int = 4096
    fresh: bool = False
    clock: str | None = None


def endpoint(build: Store, board: str) -> dict[str, Any] | str:
    """How the ssh kind reaches a board that runs: the keys that a table of devices.toml has for a real one.

    `pipeline.emulate.pi.endpoint(build, board)` is what pipeline/devices/ssh.py calls for a table with `board = "pi4"`.

    Returns:
        address, port, user, identity, known_hosts (paths as text); or, in one line, why it cannot be reached.

    Raises:
        UnknownName: there is no such board.
    """
    _board(board)
    state = _state(build, board)
    if state is None:
        return f"it does not run; start it: inv devices.emulate --board {board}"
    return {key: state[key] for key in ("address", "port", "user", "identity", "known_hosts")}


def boot(build: Store, name: str, how: Boot | None = None) -> dict[str, Any]:
    """Boots a board, unless it runs, and waits until its SSH server answers.

    Returns:
        Its endpoint.

    Raises:
        UnknownName, NeedsTool: there is no such board; QEMU or another program is missing.
        StageFailed: it did not come up; the console's last lines are in the message.
    """
    board, how = _board(name), how or Boot()
    with store.lock(Store(build.root / "boards"), f"boot of {name}"):
        if _state(build, name) is None:
            packages.require("emulate")
            made = image.there(build)
            if made is None:
                with store.lock(build, "making the system of the emulated boards"):
                    made = image.make(build)
            _start(build, board, made, how)
    there = endpoint(build, name)
    assert isinstance(there, dict)  # it has just answered
    return there


def stop(build: Store, name: str, cut: bool = False) -> bool:
    """Ends a board: orderly, or as when its power is cut.

    Returns:
        Whether it ran.
    """
    _board(name)
    state = _state(build, name)
    if state is None:
        return False
    if not cut:
        with contextlib.suppress(NeedsTool):  # then it is ended as a power cut would: its disk has a journal
            done = proc.run([*as_root(build, name), "/usr/sbin/poweroff"], timeout=STOP_SECONDS)
            if done.code == 0:
                processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    if _runs(state):
        os.kill(state["pid"], signal.SIGKILL)
        processes.wait_for_end(state["pid"], state["started"], STOP_SECONDS)
    _home(build, name).joinpath("board.json").unlink(missing_ok=True)
    return True


def as_root(build: Store, name: str) -> list[str]:
    """The words before a command that the board's root runs: to end it, and to break it in tests.

    Raises:
        StageFailed: it does not run.
    """
    there = endpoint(build, name)
    if isinstance(there, str):
        raise StageFailed(f"{name}: {there}")
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": there["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "30",
        "LogLevel": "ERROR",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", *words, "-i", there["identity"], "-p", str(there["port"]), f"root@{there['address']}"]


# -- the machine -------------------------------------------------------------------------------------------------------


def _start(build: Store, board: Board, made: image.Image, how: Boot) -> None:
    """Boots the machine and writes board.json once its SSH server answers."""
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
    """Starts QEMU in the background. Returns the port of this machine that leads to the board's SSH server."""
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
                # An instruction is a nanosecond; while the machine idles, time goes on as it does outside. (sleep=off
                # would skip idle time, and with it the time that sshd gives a client to log in.)
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
            break  # anything but a port that another program took in between
    raise StageFailed(f"QEMU did not start {board.name}: {done.reason}")


def _machine(board: Board) -> list[str]:
    return [
        "qemu-system-aarch64", "-machine", "virt", "-cpu", board.cpu, "-smp", "1", "-m", str(board.memory_mb),
        "-accel", "tcg,thread=single", "-nodefaults",
    ]  # fmt: skip


def _disk(path: Path, name: str, option: str) -> list[str]:
    # A comma in a path would end the option; QEMU's way to write one is to double it.
    file = str(path).replace(",", ",,")
    drive = f"file={file},format=raw,if=none,id={name},{option},cache=unsafe"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]


def _device_tree(board: Board, path: Path) -> None:
    """The emulator's own device tree, with the board's name in it. Made at every boot: it holds the kernel's seeds."""
    words = _machine(board)
    words[words.index("virt")] = f"virt,dumpdtb={str(path).replace(',', ',,')}"
    commands: tuple[list[str | Path], ...] = ([*words], ["fdtput", "-t", "s", path, "/", "model", board.model])
    for argv in commands:
        done = proc.run(argv, timeout=60)
        if done.code != 0:
            raise StageFailed(f"no device tree for {board.name}: {done.reason}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_ssh(state: dict[str, Any], home: Path) -> None:
    """
    Raises:
        StageFailed: the machine ended, or said nothing in time.
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
    raise StageFailed(f"{state['board']} did not answer within {BOOT_SECONDS:.0f} s: {_last_lines(home)}")


def _last_lines(home: Path) -> str:
    """What the console said last, and where the rest is."""
    log = home / "console.log"
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return f"{' | '.join(lines[-5:]) or 'its console is silent'} ({log})"


# -- what runs ---------------------------------------------------------------------------------------------------------


def _board(name: str) -> Board:
    if name not in BOARDS:
        raise UnknownName("board", name, BOARDS)
    return BOARDS[name]


def _home(build: Store, name: str) -> Path:
    return build.root / "boards" / name


def _state(build: Store, name: str) -> dict[str, Any] | None:
    """board.json of a board that runs; None where none does, whatever an old file says."""
    try:
        state = json.loads((_home(build, name) / "board.json").read_text())
    except (OSError, ValueError):
        return None
    return state if _runs(state) else None


def _runs(state: dict[str, Any]) -> bool:
    """Whether that very process lives: a number is given to another process after a while, with another start."""
    return processes.runs(state["pid"], state["started"])
