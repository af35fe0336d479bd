"""Devices: where artifacts run. devices.toml lists them; each module of this folder implements one kind.

edge-bench measures on every device (on phones, the app does), so that the figures of different devices are comparable.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline import registry
from pipeline.core import Device, Probe
from pipeline.errors import BadOption, UnknownName
from pipeline.registry import Plugin
from pipeline.system.proc import Done
from pipeline.system.store import Store
from pipeline.targets import Target

FILE = Path(__file__).parent.parent.parent / "devices.toml"


class DeviceKind(Protocol):
    """The verbs of a module in this folder."""

    CHUNK: int | None
    """Samples that one call evaluates; None for all. A device that may disconnect evaluates in chunks."""
    RUNTIMES: Mapping[str, str]
    """Runtimes that this kind replaces by another one: {"executorch": "executorch_runner"}."""
    DECODES: bool
    """Whether the device decodes image files itself (`trace MODEL --image FILE`), as an app does."""
    ROUTE: tuple[str, ...]
    """Keys of a device's table that say how to reach it. They are not part of a measurement's cache key."""

    def unsupported(self, runtime: str) -> str | None:
        """Why devices of this kind cannot use a runtime; None if they can."""

    def describe(self, device: Device) -> str:
        """What the device is, in one line."""

    def discover(self, build: Store, known: Sequence[Device]) -> Iterable[str]:
        """A line for each device of this kind that the host sees and devices.toml does not name."""

    def unavailable(self, build: Store, device: Device) -> str | None:
        """Why the device cannot be used now; None if it can."""

    def exclusive(self, build: Store, device: Device) -> AbstractContextManager[None]:
        """Locks the device for one job. Waits while another job holds the lock, and prints which job that is.
        Reentrant."""

    def setup(self, build: Store, device: Device, runtime: str) -> None:
        """Makes edge-bench with this runtime callable on the device; cheap where it already is."""

    def hardware(self, build: Store, device: Device) -> str:
        """What tells this piece of hardware from every other, in a few words: a serial number, not an address. It is
        part of a measurement's cache key and shown beside its figures.

        A device that has to be asked is asked once per command. While the device is locked, it is what was locked.

        Raises:
            Unreachable, StageFailed: the device has to be asked, and cannot be.
        """

    def identity(self, build: Store, device: Device, runtime: str) -> str:
        """Hash of what measures on the device: edge-bench and the runtime. It is part of a measurement's cache key."""

    def push(self, build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
        """Copies files to the device by content hash; files that are already there are not sent again.

        Returns:
            Each file's path on the device, and the number of bytes sent.
        """

    def call(
        self, build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None
    ) -> Done:
        """Runs `edge-bench WORDS` on the device.

        Args:
            words: arguments. A Path names a file that `push` copied, or, after --out, a host file that receives the
                output.
            timeout: seconds.
        """

    def clean(self, build: Store, device: Device) -> int:
        """Removes everything that `setup` and `push` copied to the device; returns the bytes freed."""

    def probe(self, build: Store, device: Device) -> Probe:
        """Checks on the device what this plug-in assumes about it, in about a minute. It changes nothing there.

        An assumption that does not hold is a result. `_probe.made` makes the noun and hides serial numbers and
        addresses.

        Raises:
            Unreachable, StageFailed: the device cannot be asked at all.
        """


@dataclass(frozen=True)
class BoundDevice:
    """A device with the plug-in of its kind. Its methods are the verbs of `DeviceKind`, for this device."""

    device: Device
    kind: DeviceKind

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def options(self) -> Mapping[str, Any]:
        """The device's table in devices.toml, without `kind` and `emulated`."""
        return self.device.options

    def runtime(self, target: Plugin[Target]) -> str | None:
        """The edge-bench runtime that runs a target's files on this device; None where none can."""
        chosen = self.options.get("runtimes", {}).get(target.name)
        usual = target.module.RUNTIME
        return str(chosen) if chosen else self.kind.RUNTIMES.get(usual, usual) if usual else None

    def unsupported(self, target: Plugin[Target]) -> str | None:
        """Why a target's files are not measured on this device; None where they are."""
        runtime = self.runtime(target)
        if runtime is None:
            return target.module.UNCHECKED
        reason = self.kind.unsupported(runtime)
        if reason:
            return reason
        if target.name not in self.options.get("targets", [target.name]):
            return f"devices.toml does not list {target.name} among the targets of {self.name}"
        return None

    def describe(self) -> str:
        return self.kind.describe(self.device)

    def unavailable(self, build: Store) -> str | None:
        return self.kind.unavailable(build, self.device)

    def exclusive(self, build: Store) -> AbstractContextManager[None]:
        return self.kind.exclusive(build, self.device)

    def setup(self, build: Store, runtime: str) -> None:
        self.kind.setup(build, self.device, runtime)

    def hardware(self, build: Store) -> str:
        return self.kind.hardware(build, self.device)

    def identity(self, build: Store, runtime: str) -> str:
        return self.kind.identity(build, self.device, runtime)

    def push(self, build: Store, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
        return self.kind.push(build, self.device, files)

    def call(self, build: Store, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
        return self.kind.call(build, self.device, runtime, words, timeout)

    def clean(self, build: Store) -> int:
        return self.kind.clean(build, self.device)

    def probe(self, build: Store) -> Probe:
        return self.kind.probe(build, self.device)


def devices() -> dict[str, BoundDevice]:
    """Every device of devices.toml (or of the file that LASTMILE_DEVICES names), by name.

    Raises:
        BadOption: the file does not have this form.
    """
    path = Path(os.environ.get("LASTMILE_DEVICES", FILE))
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise BadOption(f"{path}: {error}") from error
    return {name: bound(_device(path, name, table)) for name, table in tables.items()}


def bound(device: Device) -> BoundDevice:
    """The device with its kind's plug-in."""
    return BoundDevice(device, cast(DeviceKind, registry.load("devices", device.kind)))


def find(name: str) -> BoundDevice:
    """A device by name.

    Raises:
        UnknownName: devices.toml has no such table.
    """
    known = devices()
    if name not in known:
        raise UnknownName("device", name, known)
    return known[name]


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
