"""Shared by the benchmarks of devices: cells compared with the host, and the traffic of a connection."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _common

from pipeline import stats
from pipeline.results import collect
from pipeline.results.rows import Row, outputs
from pipeline.stages.plan import Plan
from pipeline.system.store import Store


def beside_host(build: Store, plan: Plan, devices: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of every cell measured on these devices. `local` must have measured the same files."""
    rows = [
        row
        for row in collect.rows(build, [(plan.model.spec.name, framework.name) for framework in plan.frameworks])
        if row.measurement
    ]
    host = {(row.cell.target, row.cell.recipe): row for row in rows if row.cell.device == "local"}
    ours = [row for row in rows if row.cell.device in devices and row.cell.status == "ok"]
    return [_figures(row, host[row.cell.target, row.cell.recipe]) for row in ours]


def _figures(row: Row, host: collect.Row) -> dict[str, Any]:
    ours, theirs = outputs(row), outputs(host)
    assert row.measurement is not None
    process = row.measurement.processes[0]  # an emulated device has one
    parity = stats.parity("the host's outputs", theirs, ours, [None] * len(ours))
    return {
        "recipe": row.cell.recipe, "target": row.cell.target, "runtime": row.measurement.runtime["name"],
        "version": row.measurement.runtime["version"], "size_bytes": row.cell.size_bytes,
        "instructions": row.cell.instructions, "peak_rss_bytes": row.cell.peak_rss_bytes,
        "model_rss_bytes": process.peak_rss_bytes - process.rss_before_load_bytes,
        "samples": row.cell.samples, "float_accuracy": row.cell.reference_accuracy, "host_accuracy": host.cell.accuracy,
        "device_accuracy": row.cell.accuracy, "drop_points": row.cell.drop_points,
        "drop_interval": row.cell.drop_interval, "equal_to_host": stats.equal_count(ours, theirs),
        "same_top1_as_host": round(stats.agreement(ours[0], theirs[0]) * len(ours[0])), "snr_db": parity.snr_db,
    }  # fmt: skip


def table(found: Sequence[dict[str, Any]]) -> str:
    """One line per cell; with instructions if the device counts them."""
    head = ["recipe", "runtime", "bytes", "instructions", "peak MB", "model's MB"]
    head += ["top-1 %: float", "host", "device", "bit-equal to host", "same top-1", "SNR to host, dB"]
    return _common.table(
        head,
        [
            [
                one["recipe"], f"{one['runtime']} {one['version']}", f"{one['size_bytes']:,}",
                f"{one['instructions']:,}" if one["instructions"] else "", f"{one['peak_rss_bytes'] / 1e6:.1f}",
                f"{one['model_rss_bytes'] / 1e6:.1f}",
                *(f"{100 * one[key]:.2f}" for key in ("float_accuracy", "host_accuracy", "device_accuracy")),
                f"{one['equal_to_host']} of {one['samples']}", one["same_top1_as_host"],
                f"{one['snr_db']:.0f}",
            ]
            for one in found
        ],
    )  # fmt: skip


def cost(what: str, act: Callable[[], object], traffic: Callable[[], Any]) -> dict[str, Any]:
    """Wall-clock seconds of `act`, and the traffic that `traffic` returns afterwards."""
    began = time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    carried = vars(traffic())
    print(f"{what}: {seconds:.1f} s, {carried}", file=sys.stderr)
    return {"seconds": seconds, **carried}


def costs(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each result of `cost`."""
    head = ["what", "seconds", "round trips", "bytes sent", "received"]
    return _common.table(
        head,
        [
            [name, f"{one['seconds']:.1f}", one["trips"], f"{one['sent_bytes']:,}", f"{one['received_bytes']:,}"]
            for name, one in found.items()
        ],
    )


@contextmanager
def scratch(build: Store) -> Iterator[Store]:
    """A temporary build folder with the boards and the digits checkpoint of another one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "boards").symlink_to((build.root / "boards").resolve())
        shutil.copytree(build.home("digits_cnn", "torch"), root / "digits_cnn.torch")
        yield Store(root)
