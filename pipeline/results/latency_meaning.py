"""What latencies include, where it matters for reading them: a copy of the input, and the cost of the call itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import formatting
from pipeline.core import Cell, Floor, Timed
from pipeline.system import store
from pipeline.system.store import Store

NEAR = 10
"""A latency below this multiple of the floor is said to be near it."""


def path(build: Store, device: str, runtime: str) -> Path:
    """The file of the floor of a runtime on a device."""
    return build.root / "floors" / device / f"{runtime}.json"


def floor_ms(build: Store, measurement: Timed) -> float | None:
    """The recorded floor of what a measurement was made with; None where none is recorded for this hardware, runtime
    and version."""
    device, runtime = measurement.device, measurement.runtime
    found = store.read_or_warn(Floor, path(build, str(device["name"]), str(runtime["name"])))
    if found is None:
        return None
    same = (found.hardware, found.version) == (device.get("hardware"), runtime.get("version"))
    return found.ns / 1e6 if same else None


def notes(found: Sequence[Cell]) -> list[str]:
    """What to know before latencies of these cells are compared."""
    timed = [cell for cell in found if cell.latency_ms is not None]
    return [*_about_copies(timed), *_about_floors(timed)]


def _about_copies(timed: Sequence[Cell]) -> list[str]:
    """A note where latencies with and without the copy stand side by side."""
    copying = [cell for cell in timed if cell.includes_input_copy]
    if not copying or all(cell.includes_input_copy is not False for cell in timed):
        return []
    names = ", ".join(dict.fromkeys(_place(cell) for cell in copying))
    return [f"the latency of {names} includes a copy of the input in every run; that of the others does not"]


def _about_floors(timed: Sequence[Cell]) -> list[str]:
    """A note for each cell whose latency is near the floor."""
    return [
        f"{formatting.name(cell)} on {formatting.device(cell)}: {cell.floor_ms * 1e3:.3g} of its "
        f"{cell.latency_ms.p50 * 1e3:.3g} µs are the cost of the call, measured with an empty model"
        for cell in timed
        if cell.floor_ms is not None and cell.latency_ms is not None and cell.latency_ms.p50 < NEAR * cell.floor_ms
    ]


def _place(cell: Cell) -> str:
    return f"{cell.target} on {formatting.device(cell)}"
