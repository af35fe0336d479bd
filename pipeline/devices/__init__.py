"""Devices: where artifacts run. devices.toml says which there are; a module here knows how to reach one kind.

On every device edge-bench does the measuring, so figures of different devices mean the same.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pipeline import registry
from pipeline.core import Device
from pipeline.errors import BadOption, UnknownName
from pipeline.system.proc import Done
from pipeline.system.store import Store

FILE = Path(__file__).parent.parent.parent / "devices.toml"


class DeviceKind(Protocol):
    """The verbs of a module in this folder."""

    CHUNK: int | None
    """How many samples one call evaluates; None for all. A device that may go away is asked in pieces."""
    RUNTIMES: Mapping[str, str]
    """Targets whose files another runtime runs there than here, and which."""
    DECODES: bool
    """Whether what runs there takes picture files too (`trace MODEL --image FILE`), as an app does."""
    UNSUPPORTED: Mapping[str, str]
    """Targets whose files nothing runs there, and why."""

    def describe(self, device: Device) -> str:
        """What it is, in one line."""

    def discover(self, build: Store, known: Sequence[Device]) -> Iterable[str]:
        """What else of this kind can be seen from here and may be no device of devices.toml: a line each."""

    def unavailable(self, build: Store, device: Device) -> str | None:
        """None if it can be used now, else why not."""

    def exclusive(self, build: Store, device: Device) -> AbstractContextManager[None]:
        """Has the device to itself for all that is asked inside, as one job; it waits while another's has it, and says
        for whom. Inside another such block it does nothing."""

    def setup(self, build: Store, device: Device, runtime: str) -> None:
        """Makes sure that edge-bench with this runtime can be called there; costs little where it can."""

    def identity(self, build: Store, device: Device, runtime: str) -> str:
        """Hash of what measures there: the harness and the runtime. What another one measured is out of date."""

    def push(self, build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
        """Brings files there by content; what is there already is not sent again.

        Returns:
            Where each is there, and how many bytes were sent.
        """

    def call(
        self, build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None
    ) -> Done:
        """Runs `edge-bench WORDS` there. Words that are paths name files that `push` brought, or, after --out, a file
        here that the output is brought to."""

    def clean(self, build: Store, device: Device) -> int:
        """Removes what `setup` and `push` brought there, and says how many bytes that freed."""


def devices() -> dict[str, Device]:
    """Every device of devices.toml (or of the file that LASTMILE_DEVICES names), by name.

    Raises:
        BadOption: the file is not of this form.
    """
    path = Path(os.environ.get("LASTMILE_DEVICES", FILE))
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # TOMLDecodeError is one, and what is no UTF-8 another
        raise BadOption(f"{path}: {error}") from error
    return {name: _device(path, name, table) for name, table in tables.items()}


def find(name: str) -> Device:
    """A device by name.

    Raises:
        UnknownName: devices.toml has no such table.
    """
    known = devices()
    if name not in known:
        raise UnknownName("device", name, known)
    return known[name]


def runtime(device: Device, target: str) -> str | None:
    """The edge-bench runtime that runs a target's files on a device; None where none can."""
    kind = registry.load("devices", device.kind)
    chosen = {**kind.RUNTIMES, **device.options.get("runtimes", {})}.get(target)
    return str(chosen) if chosen else registry.load("targets", target).RUNTIME


def unsupported(device: Device, target: str) -> str | None:
    """Why a target's files are not measured on a device; None where they are."""
    module = registry.load("targets", target)
    refused = registry.load("devices", device.kind).UNSUPPORTED.get(target)
    if refused and target not in device.options.get("runtimes", {}):
        return str(refused)
    if module.UNCHECKED and runtime(device, target) is None:
        return str(module.UNCHECKED)
    if target not in device.options.get("targets", registry.names("targets")):
        return f"devices.toml leaves {target} out for {device.name}"
    return None


def _device(path: Path, name: str, table: Any) -> Device:
    if not isinstance(table, dict) or not isinstance(table.get("kind"), str):
        raise BadOption(f"{path}: [{name}] needs a kind (known: {', '.join(registry.names('devices'))})")
    options = {key: value for key, value in table.items() if key not in ("kind", "emulated")}
    emulated, targets, runtimes = table.get("emulated", False), table.get("targets", []), table.get("runtimes", {})
    if not isinstance(emulated, bool):
        raise BadOption(f"{path}: [{name}] emulated is true or false, not {emulated!r}")
    if not isinstance(targets, list):
        raise BadOption(f"{path}: [{name}] targets is a list of names, not {targets!r}")
    if not isinstance(runtimes, dict):
        raise BadOption(f"{path}: [{name}] runtimes says a runtime for each target, not {runtimes!r}")
    try:
        registry.load("devices", table["kind"])
        for target in (*targets, *runtimes):
            registry.load("targets", target)
    except UnknownName as error:
        raise BadOption(f"{path}: [{name}] {error}") from error
    return Device(name, table["kind"], emulated, options)
