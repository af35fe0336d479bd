"""Any Linux board over SSH. It requires only sshd and python3; this machine sends everything else.

Keys of its table in devices.toml: address (host, user@host or a Host of ~/.ssh/config), port, identity, known_hosts,
config (another ssh_config file), folder (for everything that is sent; default ~/.lastmile), space_bytes (maximum size
of that folder), cool_down_c (wait before measuring until no sensor is hotter than this), chunk_samples (samples per
call), clock = "instructions" (for an emulated board whose clock counts instructions), board = "pi4" or "pi5" (an
emulated board of `inv devices.emulate`, instead of an address), summary, targets, runtimes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core import Assumption, Device, Probe
from pipeline.devices import _bundle, _edge_bench, _probe, _session, _ssh
from pipeline.emulate import pi
from pipeline.emulate.pi import image
from pipeline.errors import BadOption, Broken, PipelineError, StageFailed, Unreachable
from pipeline.system import store
from pipeline.system.proc import Done
from pipeline.system.progress import bar, say
from pipeline.system.store import Store

CHUNK: int | None = 500
RUNTIMES: Mapping[str, str] = {"executorch": "executorch_runner"}
DECODES = False
ROUTE: tuple[str, ...] = (*_ssh.OPTIONS, "folder", "space_bytes", "cool_down_c")
KEYS = (
    *_ssh.OPTIONS, "folder", "space_bytes", "cool_down_c", "chunk_samples", "clock", "summary", "targets", "runtimes",
    "board",
)  # fmt: skip
PIECE = 1 << 18
ASK_SECONDS = 60.0
WORDS = 'it\'s $HOME `x` "y" \\ *;\n ä'
"""What a shell would change if it were not quoted."""


def unsupported(runtime: str) -> str | None:
    """See `DeviceKind.unsupported`."""
    offer = _edge_bench.outside(runtime)
    return f"{runtime} is a runtime of {offer}; boards support only edge-bench's own runtimes" if offer else None


def describe(device: Device) -> str:
    """See `DeviceKind.describe`."""
    place = device.options.get("address", f"board {device.options.get('board', 'nowhere')}")
    return f"{device.options.get('summary', 'a Linux board')} at {place}"


def discover(build: Store, known: Sequence[Device]) -> Sequence[str]:
    """See `DeviceKind.discover`."""
    return ()


def unavailable(build: Store, device: Device) -> str | None:
    """See `DeviceKind.unavailable`."""
    try:
        device = _resolved(build, device)
        _ask(device)
        return _bundle.Board.of(_ssh.link(device).description).unsupported()
    except PipelineError as error:
        return str(error).removeprefix(f"{device.name}: ")


@contextlib.contextmanager
def exclusive(build: Store, device: Device) -> Iterator[None]:
    """See `DeviceKind.exclusive`: a session on the board holds a lock and handles all requests of the block.

    Raises:
        Unreachable, StageFailed: there is no connection, or no Python on the board.
    """
    device = _resolved(build, device)
    who = f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}, since {_now()}"
    with _ssh.link(device).exclusive({**_common(device), "verb": "hold", "who": who}):
        yield


def setup(build: Store, device: Device, runtime: str) -> None:
    """See `DeviceKind.setup`: sends edge-bench with the runtime as one archive, unless the board has this archive.

    Raises:
        StageFailed: there is no such runtime for the board, or the board refuses it.
    """
    with exclusive(build, device):
        device = _resolved(build, device)
        link = _ssh.link(device)
        link.begin()
        if runtime in link.runtimes:
            return
        board = _bundle.Board.of(link.description)
        try:
            bundle, path = _bundle.make(build, board, runtime)
        except StageFailed as error:
            raise StageFailed(f"{device.name}: {error}") from error
        if bundle.sha256 not in board.runtimes:
            say(f"sending {runtime} to {device.name} ({bundle.size_bytes / 1e6:.0f} MB)")
            verb = {"verb": "unpack", "name": bundle.sha256, "sha256": bundle.sha256}
            _send(device, verb, [(path, bundle.size_bytes)], bundle.unpacked_bytes, [bundle.sha256])
        link.runtimes[runtime] = bundle.sha256


def hardware(build: Store, device: Device) -> str:
    """See `DeviceKind.hardware`: model, serial number and machine-id. A board that has neither of the last two is known
    by its address only.

    The emulated boards are all the same, so one that does not run need not be asked.
    """
    _check(device)
    if "board" in device.options:
        return f"emulated {device.options['board']}"
    link = _ssh.link(device)
    if not link.description:
        _ask(device)
    found = _bundle.Board.of(link.description).hardware
    own = [f"serial {found['serial']}"] if found["serial"] else []
    own += [f"machine {found['machine_id']}"] if found["machine_id"] else []
    return ", ".join(filter(None, [found["model"], *(own or [f"at {_ssh.address(device)}"])]))


def identity(build: Store, device: Device, runtime: str) -> str:
    """See `DeviceKind.identity`. The system of an emulated board is ours too, and decides how many instructions run."""
    system = [image.definition()] if "board" in device.options else []
    return store.digest([_edge_bench.identity(runtime), *system])


def push(build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """See `DeviceKind.push`: one round trip lists the missing files, two more send them."""
    with exclusive(build, device):
        device = _resolved(build, device)
        names = {path: _name(path) for path in files}
        wanted = {name: path for path, name in names.items()}
        found = _request(device, {"verb": "have", "files": [(name, Path(name).stem) for name in wanted]})
        missing = [(name, wanted[name], store.size(wanted[name])) for name in found["missing"]]
        sent = sum(size for _, _, size in missing)
        if missing:
            verb = {"verb": "put", "files": [(name, size, Path(name).stem) for name, _, size in missing]}
            _send(device, verb, [(path, size) for _, path, size in missing], sent, [name for name, _, _ in missing])
    return {path: f"{found['folder']}/{name}" for path, name in names.items()}, sent


def call(build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    """See `DeviceKind.call`.

    Raises:
        StageFailed: the board refuses the call, or the runtime cannot be set up on it.
        Unreachable: the connection was lost.
        Broken: a received file differs from the one that the board sent.
    """
    with exclusive(build, device):
        setup(build, device, runtime)
        return _call(_resolved(build, device), runtime, words, timeout)


def clean(build: Store, device: Device) -> int:
    """See `DeviceKind.clean`."""
    with exclusive(build, device):
        device = _resolved(build, device)
        freed = int(_request(device, {"verb": "clean"})["freed_bytes"])
        _refresh(device)
    return freed


def probe(build: Store, device: Device) -> Probe:
    """See `DeviceKind.probe`. It holds the board, so it waits for other jobs and disturbs none."""
    with exclusive(build, device):
        identity = hardware(build, device)
        device = _resolved(build, device)
        done = _request(device, {"verb": "probe", "program": _probe.MACHINE.read_text()}, _probe.SECONDS)
        if done["code"] != 0:
            raise StageFailed(f"{device.name}: the probe failed: {' '.join(done['err'].split())[-200:]}")
        model, system, found = _probe.of_machine(done["out"])
        found.append(_shell(device))
        own = _bundle.Board.of(_ssh.link(device).description).hardware
    private = [own["serial"], own["machine_id"], _ssh.address(device).rpartition("@")[2]]
    return _probe.made(device, identity, model, system, found, private)


def _shell(device: Device) -> Assumption:
    """Sends words that a shell could misread, and compares what comes back byte for byte."""
    done = _ssh.link(device).run(["printf", "%s", WORDS])
    seen = "the words, unchanged" if done.out == WORDS else repr(done.out[:200])
    assumed = "the login shell prints nothing of its own and passes quoted words on unchanged"
    return Assumption("shell", assumed, seen, done.out == WORDS)


def _call(device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    files: dict[str, Path] = {}
    outs: list[Path] = []
    args: list[Any] = []
    for before, word in zip(["", *words], words, strict=False):
        if isinstance(word, str):
            args.append(word)
        elif before == "--out":
            args.append({"out": f"{len(outs)}{word.suffix}"})
            outs.append(word)
        else:
            args.append({"file": _name(word)})
            files[_name(word)] = word
    verb = {
        "verb": "call", "runtime": _ssh.link(device).runtimes[runtime], "program": _bundle.PROGRAM, "words": args,
    }  # fmt: skip
    limit = device.options.get("cool_down_c")
    if limit is not None and words[:1] == ["run"]:  # a separate request, because the timeout is for the run only
        _request(device, {"verb": "cool", "cool_down_c": limit})
    started = time.perf_counter()
    argv = ("edge-bench", *map(str, words))
    try:
        value = _request(device, verb, timeout, outs)
    except TimeoutError:
        return Done(argv, -9, "", "", timeout or 0.0, timed_out=True)
    except _session.Refused as error:
        if error.kind == "gone":
            _refresh(device)
        raise
    if value["timed_out"]:
        return Done(argv, -9, "", "", timeout or 0.0, timed_out=True)
    for out, (_, _, digest) in zip(outs, value["files"], strict=False):
        if store.sha256(out) != digest:
            raise Broken(f"{out} differs from the file that {device.name} sent; run the same command again")
    return Done(argv, value["code"], value["out"], _err(value, files), time.perf_counter() - started)


def _resolved(build: Store, device: Device) -> Device:
    """The device with its address; that of an emulated board is known only while the board runs.

    Raises:
        BadOption: a key of the table is unknown, or its value is invalid.
        Unreachable: the emulated board is not running.
    """
    _check(device)
    if "board" not in device.options:
        return device
    endpoint = pi.endpoint(build, str(device.options["board"]))
    if isinstance(endpoint, str):
        raise Unreachable(f"{device.name}: {endpoint}")
    address = f"{endpoint['user']}@{endpoint['address']}"
    found = {key: endpoint[key] for key in ("port", "identity", "known_hosts")}
    options = {key: value for key, value in device.options.items() if key != "board"}
    return replace(device, options={**options, **found, "address": address})


# -- requests ----------------------------------------------------------------------------------------------------------


def _request(
    device: Device, verb: Mapping[str, Any], timeout: float | None = None, outs: Sequence[Path] = ()
) -> dict[str, Any]:
    with _advice(device):
        return _ssh.link(device).request({**_common(device), **verb}, (), timeout, outs)


def _refresh(device: Device) -> None:
    """Asks the board again which runtimes it has."""
    link = _ssh.link(device)
    link.runtimes.clear()
    _ask(device)


def _ask(device: Device) -> None:
    """Asks the board what it is.

    Raises:
        Unreachable: it does not respond.
    """
    try:
        _ssh.link(device).description = _request(device, {"verb": "ask"}, ASK_SECONDS)
    except TimeoutError as error:
        raise Unreachable(f"{device.name}: no response within {ASK_SECONDS:.0f} s") from error


def _send(
    device: Device, verb: Mapping[str, Any], files: Sequence[tuple[Path, int]], needed: int, wanted: Sequence[str]
) -> None:
    """Sends a request with files.

    Args:
        files: paths and sizes.
        needed: bytes that they need on the board.
        wanted: names of files that must not be removed to make room for them.
    """
    _request(device, {"verb": "room", "needed": needed, "wanted": wanted})
    with _advice(device):
        size = sum(size for _, size in files)
        _ssh.link(device).request({**_common(device), **verb, "bytes": size}, _bytes(device, files))


@contextlib.contextmanager
def _advice(device: Device) -> Iterator[None]:
    """Adds to the board's refusals how to fix them."""
    fixes = {
        "full": f"inv devices.clean --device {device.name} removes Lastmile's files from it; nothing was lost",
        "corrupt": "run the same command again",
        "gone": "run the same command again: it will be sent again",
    }
    try:
        yield
    except _session.Refused as error:
        if error.kind not in fixes:
            raise
        raise _session.Refused(error.kind, f"{error}; {fixes[error.kind]}") from error


def _common(device: Device) -> dict[str, Any]:
    """The part that every request contains."""
    return {
        "folder": device.options.get("folder", "~/.lastmile"),
        "space_bytes": device.options.get("space_bytes"),
    }


def _check(device: Device) -> None:
    """
    Raises:
        BadOption: a key of the table is unknown, or its value is invalid.
    """
    for key, value in device.options.items():
        if key not in KEYS:
            raise BadOption(f"[{device.name}] of devices.toml: unknown key {key!r} (known: {', '.join(sorted(KEYS))})")
        count = key in ("port", "space_bytes", "chunk_samples")
        if count and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BadOption(f"[{device.name}] of devices.toml: {key} = {value!r} is not a positive integer")
    limit = device.options.get("cool_down_c", 0)
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        raise BadOption(f"[{device.name}] of devices.toml: cool_down_c = {limit!r} is not a number of °C")
    clock = device.options.get("clock")
    if clock not in (None, "instructions"):
        raise BadOption(f'[{device.name}] of devices.toml: clock = {clock!r} is unknown (known: "instructions")')


def _bytes(device: Device, files: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
    total = sum(-(-size // PIECE) for _, size in files)
    return bar(_pieces(files), f"sending to {device.name}", total)


def _pieces(files: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
    for path, size in files:
        with path.open("rb") as file:
            left = size
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
        if left:
            raise Broken(f"{path} became shorter while it was sent")


def _name(path: Path) -> str:
    """A file's name on the board: the hash of its content, and its suffix."""
    return store.sha256(path) + path.suffix


def _err(value: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """edge-bench's standard error, with the paths of this machine instead of the board's."""
    text = str(value["err"])
    for name, path in files.items():
        text = text.replace(f"{value['folder']}/files/{name}", str(path))
    if value["code"] == -9 and not value["timed_out"]:
        text += "\nkilled on the board, probably because memory ran out: free memory on it and run again\n"
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
