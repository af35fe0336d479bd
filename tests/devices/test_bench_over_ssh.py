"""A bench on a board: the same outputs as here, and an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.core import Device, Measurement
from pipeline.devices import _ssh
from pipeline.results import collect
from pipeline.stages import measure
from pipeline.stages import push as pushing
from pipeline.stages.plan import plugins
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.plans import QUICK, Cells

from .sshd import Board


@pytest.fixture
def build(copied: Store, wheels: Store) -> Store:
    """The matrix, with the runtimes' archives at hand."""
    if (wheels.root / "environments").exists():
        shutil.copytree(wheels.root / "environments", copied.root / "environments", dirs_exist_ok=True)
    yield copied
    shutil.copytree(copied.root / "environments", wheels.root / "environments", dirs_exist_ok=True)


@pytest.fixture
def cells(build: Store) -> Cells:
    return plans.cells(build, "onnx", "fp32")


def measured(build: Store, device: str) -> tuple[Path, Measurement]:
    folder = next(build.root.glob(f"*/fp32/onnx/{device}"))
    found = store.read(Measurement, folder / "measurement.json")
    assert found is not None
    return folder, found


def test_a_board_of_the_same_processor_gives_the_same_outputs(build: Store, own_board: Board, cells: Cells) -> None:
    device = own_board.device(chunk_samples=100)
    assert cells.bench(devices.bound(device)) == []
    folder, there = measured(build, "board")
    here = measured(build, "local")[1]
    assert there.accuracy.predictions_sha256 == here.accuracy.predictions_sha256
    assert there.accuracy.value == here.accuracy.value
    assert there.device["name"] == "board" and there.device["kind"] == "ssh"
    assert sorted(path.name for path in folder.iterdir()) == ["measurement.json", "predictions.npz"]


def test_a_second_bench_asks_nothing_and_a_third_sends_no_model(build: Store, own_board: Board, cells: Cells) -> None:
    cells.bench(devices.bound(own_board.device()))
    _ssh.close_all()
    moved = own_board.device(address="localhost", cool_down_c=95)
    cells.bench(devices.bound(moved))
    assert _ssh.LINKS == {}
    device = own_board.device(chunk_samples=1000)
    cells.bench(devices.bound(device), dataclasses.replace(QUICK, again=True))
    traffic = _ssh.link(device).traffic
    assert traffic.trips == 4  # what it is, which files are there, run, predict (all samples are one chunk)
    assert traffic.sent_bytes < 40_000


def test_a_clock_that_counts_instructions_is_shown_as_no_latency(build: Store, own_board: Board, cells: Cells) -> None:
    device = own_board.device(emulated=True, clock="instructions")
    assert cells.bench(devices.bound(device)) == []
    found = [cell for cell in collect.cells(build, None) if cell.device == "board"]
    assert [(cell.emulated, cell.latency_ms, cell.load_ms) for cell in found] == [(True, None, None)]
    assert found[0].instructions is not None and found[0].instructions > 0


def test_setup_says_for_each_runtime_whether_it_can_be_had(build: Store, own_board: Board) -> None:
    targets = plugins("targets", ["coreml", "executorch", "onnx"])
    told = dict(pushing.setup(build, devices.bound(own_board.device()), targets))
    assert told["onnxruntime"] is None
    assert list(told) == ["executorch_runner", "onnxruntime"]


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        (None, None, None),
        ("0x0", "0x0", False),
        ("0x50000", "0x50000", False),
        ("0x0", "0x40000", True),
        ("0x50005", "0x50000", True),
        (None, "0x4", True),
    ],
)
def test_a_run_is_throttled_by_what_happened_in_it(
    before: str | None, after: str | None, throttled: bool | None
) -> None:
    assert measure._throttled(before, after) is throttled


def test_a_device_is_the_same_at_another_address() -> None:
    one = Device("pi", "ssh", False, {"address": "a", "clock": "instructions"})
    two = Device("pi", "ssh", False, {"address": "b", "port": 1, "identity": "i", "clock": "instructions"})
    assert measure._without_route(devices.bound(one)) == measure._without_route(devices.bound(two))
