"""Any Linux board over SSH: it needs sshd and python3, nothing else; everything it is given comes from this side.

Keys of its table in devices.toml: address (host, user@host or a Host of ~/.ssh/config), port, identity, known_hosts,
config (another ssh_config file), folder (where everything goes there; default ~/.lastmile), space_bytes (the most that
it may take), cool_down_c (wait before measuring until no sensor is hotter), chunk_samples (evaluated in one go),
clock = "instructions" (on an emulated board whose clock counts those), board = "pi4" or "pi5" (an emulated board of
`inv devices.emulate`, in place of an address), summary, targets, runtimes.
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

from pipeline.core import Device
from pipeline.devices import _bundle, _edge_bench, _session, _ssh
from pipeline.emulate import pi
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


def unsupported(runtime: str) -> str | None:
    """See `DeviceKind.unsupported`."""
    offer = _edge_bench.outside(runtime)
    return f"{runtime} is a runtime of {offer}, and a board can have edge-bench's own only" if offer else None


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
        device = _there(build, device)
        return _bundle.Board.of(_request(device, {"verb": "ask"}, ASK_SECONDS)).lacks()
    except TimeoutError:
        return f"it did not answer within {ASK_SECONDS:.0f} s"
    except PipelineError as error:
        return str(error).removeprefix(f"{device.name}: ")


@contextlib.contextmanager
def exclusive(build: Store, device: Device) -> Iterator[None]:
    """See `DeviceKind.exclusive`: a session there holds a lock, and answers all that is asked inside.

    Raises:
        Unreachable, StageFailed: there is no way there, or no Python.
    """
    device = _there(build, device)
    who = f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}, since {_now()}"
    with _ssh.link(device).exclusive({**_common(device), "verb": "hold", "who": who}):
        yield


def setup(build: Store, device: Device, runtime: str) -> None:
    """See `DeviceKind.setup`: sends edge-bench with the runtime as one archive, unless that very archive is there.

    Raises:
        StageFailed: there is no such runtime for the board, or it cannot take it.
    """
    with exclusive(build, device):
        device = _there(build, device)
        link = _ssh.link(device)
        link.begin()
        if runtime in link.runtimes:
            return
        board = _bundle.Board.of(link.said)
        try:
            bundle, path = _bundle.make(build, board, runtime)
        except StageFailed as error:
            raise StageFailed(f"{device.name}: {error}") from error
        if bundle.sha256 not in board.runtimes:
            say(f"sending {runtime} to {device.name} ({bundle.size_bytes / 1e6:.0f} MB)")
            verb = {"verb": "unpack", "name": bundle.sha256, "sha256": bundle.sha256}
            _send(device, verb, [(path, bundle.size_bytes)], bundle.unpacked_bytes, [bundle.sha256])
        link.runtimes[runtime] = bundle.sha256


def identity(build: Store, device: Device, runtime: str) -> str:
    """See `DeviceKind.identity`."""
    return _edge_bench.identity()


def push(build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """See `DeviceKind.push`: one round trip asks what is missing, and two bring that."""
    with exclusive(build, device):
        device = _there(build, device)
        names = {path: _name(path) for path in files}
        wanted = {name: path for path, name in names.items()}
        asked = {"verb": "have", "files": [(name, Path(name).stem) for name in wanted]}
        told = _request(device, asked)
        missing = [(name, wanted[name], store.size(wanted[name])) for name in told["missing"]]
        sent = sum(size for _, _, size in missing)
        if missing:
            verb = {"verb": "put", "files": [(name, size, Path(name).stem) for name, _, size in missing]}
            _send(device, verb, [(path, size) for _, path, size in missing], sent, [name for name, _, _ in missing])
    return {path: f"{told['folder']}/{name}" for path, name in names.items()}, sent


def call(build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    """See `DeviceKind.call`.

    Raises:
        StageFailed: the board would not, or the runtime was never set up there.
        Unreachable: the connection was lost.
        Broken: a file that came back is not what the board sent.
    """
    with exclusive(build, device):
        setup(build, device, runtime)
        return _call(_there(build, device), runtime, words, timeout)


def clean(build: Store, device: Device) -> int:
    """See `DeviceKind.clean`."""
    with exclusive(build, device):
        device = _there(build, device)
        freed = int(_request(device, {"verb": "clean"})["freed_bytes"])
        _look_again(device)
    return freed


def _call(device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    places: dict[str, Path] = {}
    outs: list[Path] = []
    there: list[Any] = []
    for before, word in zip(["", *words], words, strict=False):
        if isinstance(word, str):
            there.append(word)
        elif before == "--out":
            there.append({"out": f"{len(outs)}{word.suffix}"})
            outs.append(word)
        else:
            there.append({"file": _name(word)})
            places[_name(word)] = word
    verb = {
        "verb": "call", "runtime": _ssh.link(device).runtimes[runtime], "program": _bundle.PROGRAM, "words": there,
    }  # fmt: skip
    limit = device.options.get("cool_down_c")
    if limit is not None and words[:1] == ["run"]:  # a request of its own: the time limit is not for waiting
        _request(device, {"verb": "cool", "cool_down_c": limit})
    started = time.perf_counter()
    argv = ("edge-bench", *map(str, words))
    try:
        value = _request(device, verb, timeout, outs)
    except TimeoutError:
        return Done(argv, -9, "", "", timeout or 0.0, timed_out=True)
    except _session.Refused as error:
        if error.kind == "gone":
            _look_again(device)
        raise
    if value["timed_out"]:
        return Done(argv, -9, "", "", timeout or 0.0, timed_out=True)
    for out, (_, _, digest) in zip(outs, value["files"], strict=False):
        if store.sha256(out) != digest:
            raise Broken(f"{out} is not what {device.name} sent; run the same command again")
    return Done(argv, value["code"], value["out"], _told(value, places), time.perf_counter() - started)


def _there(build: Store, device: Device) -> Device:
    """A device with the way there; that to an emulated board is known while it runs.

    Raises:
        BadOption: a key of its table is unknown, or of another kind.
        Unreachable: the emulated board does not run.
    """
    _check(device)
    if "board" not in device.options:
        return device
    way = pi.endpoint(build, str(device.options["board"]))
    if isinstance(way, str):
        raise Unreachable(f"{device.name}: {way}")
    address = f"{way['user']}@{way['address']}"
    found = {key: way[key] for key in ("port", "identity", "known_hosts")}
    options = {key: value for key, value in device.options.items() if key != "board"}
    return replace(device, options={**options, **found, "address": address})


# -- asking ------------------------------------------------------------------------------------------------------------


def _request(
    device: Device, verb: Mapping[str, Any], timeout: float | None = None, outs: Sequence[Path] = ()
) -> dict[str, Any]:
    with _mending(device):
        return _ssh.link(device).request({**_common(device), **verb}, (), timeout, outs)


def _look_again(device: Device) -> None:
    """Asks anew which runtimes are there."""
    link = _ssh.link(device)
    link.runtimes.clear()
    link.said = _request(device, {"verb": "ask"}, ASK_SECONDS)


def _send(
    device: Device, verb: Mapping[str, Any], files: Sequence[tuple[Path, int]], needed: int, wanted: Sequence[str]
) -> None:
    """A request with files.

    Args:
        files: with their sizes.
        needed: bytes that they will take there.
        wanted: names of what must not go to make room for them.
    """
    _request(device, {"verb": "room", "needed": needed, "wanted": wanted})
    with _mending(device):
        size = sum(size for _, size in files)
        _ssh.link(device).request({**_common(device), **verb, "bytes": size}, _bytes(device, files))


@contextlib.contextmanager
def _mending(device: Device) -> Iterator[None]:
    """Adds to what the board refuses what mends it."""
    mends = {
        "full": f"inv devices.clean --device {device.name} frees what is ours there; nothing was lost",
        "corrupt": "run the same command again",
        "gone": "run the same command again: it is sent anew",
    }
    try:
        yield
    except _session.Refused as error:
        if error.kind not in mends:
            raise
        raise _session.Refused(error.kind, f"{error}; {mends[error.kind]}") from error


def _common(device: Device) -> dict[str, Any]:
    """What every request says."""
    return {
        "folder": device.options.get("folder", "~/.lastmile"),
        "space_bytes": device.options.get("space_bytes"),
    }


def _check(device: Device) -> None:
    """
    Raises:
        BadOption: a key of its table is unknown, or of another kind.
    """
    for key, value in device.options.items():
        if key not in KEYS:
            raise BadOption(f"[{device.name}] of devices.toml: unknown key {key!r} (known: {', '.join(sorted(KEYS))})")
        whole = key in ("port", "space_bytes", "chunk_samples")
        if whole and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BadOption(f"[{device.name}] of devices.toml: {key} = {value!r} is not a whole number above 0")
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
    """What a file is called there: its content and its kind."""
    return store.sha256(path) + path.suffix


def _told(value: Mapping[str, Any], places: Mapping[str, Path]) -> str:
    """What edge-bench said on standard error, with our names of the files in it."""
    text = str(value["err"])
    for name, path in places.items():
        text = text.replace(f"{value['folder']}/files/{name}", str(path))
    if value["code"] == -9 and not value["timed_out"]:
        text += "\nkilled on the board, as the system does when memory runs out: free some there and run again\n"
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
