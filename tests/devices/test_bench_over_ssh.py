"""A bench on a board: its outputs, what it sends, and how clocks and throttling are interpreted."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.core import Device, Measurement
from pipeline.devices import _ssh
from pipeline.errors import Unreachable
from pipeline.results import collect, keys
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
    """The matrix, with the runtimes' archives that exist already."""
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
    folder, board = measured(build, "board")
    local = measured(build, "local")[1]
    assert board.accuracy.predictions_sha256 == local.accuracy.predictions_sha256
    assert board.accuracy.value == local.accuracy.value
    assert board.device["name"] == "board" and board.device["kind"] == "ssh"
    assert sorted(path.name for path in folder.iterdir()) == ["measurement.json", "predictions.npz"]


def test_an_up_to_date_bench_asks_once_what_the_board_is_and_a_repeated_one_sends_no_model(
    build: Store, own_board: Board, cells: Cells
) -> None:
    cells.bench(devices.bound(own_board.device()))
    _ssh.close_all()
    before = measured(build, "board")[1]
    moved = own_board.device(address="localhost", cool_down_c=95, summary="on the other shelf")
    (own_board.folder / "known_hosts").write_text(
        (own_board.folder / "known_hosts").read_text().replace("127.0.0.1", "localhost")
    )
    assert cells.bench(devices.bound(moved)) == []
    assert _ssh.link(moved).traffic.trips == 1
    assert measured(build, "board")[1] == before
    own_board.trust()
    device = own_board.device(chunk_samples=1000)
    cells.bench(devices.bound(device), dataclasses.replace(QUICK, again=True))
    traffic = _ssh.link(device).traffic
    assert traffic.trips == 5  # ask, hold, have, run, predict (all samples are one chunk)
    assert traffic.sent_bytes < 40_000


def test_another_board_at_the_same_address_shares_no_figure_with_the_first(
    build: Store, own_board: Board, cells: Cells, tmp_path: Path
) -> None:
    device = devices.bound(own_board.device())
    assert cells.bench(device) == []
    first = measured(build, "board")[1]
    own_board.replaced_by(tmp_path / "other-machine-id")
    _ssh.close_all()
    assert cells.bench(device) == []
    other = measured(build, "board")[1]
    assert first.key != other.key and first.device["hardware"] != other.device["hardware"]
    own_board.replaced_by(None)
    _ssh.close_all()
    assert device.hardware(build) == first.device["hardware"]


def test_a_board_that_was_replaced_after_the_bench_was_planned_is_not_measured(
    build: Store, own_board: Board, cells: Cells, tmp_path: Path
) -> None:
    device = devices.bound(own_board.device())
    planned = device.hardware(build)
    own_board.replaced_by(tmp_path / "other-machine-id")
    own_board.cut()
    (failure,) = cells.bench(device)
    assert isinstance(failure, Unreachable) and planned in str(failure)
    assert not list(build.root.glob("*/fp32/onnx/board/*.json"))


def test_a_board_without_serial_and_machine_id_is_known_by_its_address(build: Store, own_board: Board) -> None:
    empty = own_board.folder / "empty"
    empty.touch()
    own_board.replaced_by(empty)
    assert devices.bound(own_board.device()).hardware(build).endswith("at 127.0.0.1")


def test_with_a_clock_that_counts_instructions_no_latency_is_reported(
    build: Store, own_board: Board, cells: Cells
) -> None:
    device = own_board.device(emulated=True, clock="instructions")
    assert cells.bench(devices.bound(device)) == []
    found = [cell for cell in collect.cells(build, None) if cell.device == "board"]
    assert [(cell.emulated, cell.latency_ms, cell.load_ms) for cell in found] == [(True, None, None)]
    assert found[0].instructions is not None and found[0].instructions > 0


def test_setup_reports_for_each_runtime_whether_it_was_installed(build: Store, own_board: Board) -> None:
    targets = plugins("targets", ["coreml", "executorch", "onnx"])
    reasons = dict(pushing.setup(build, devices.bound(own_board.device()), targets))
    assert reasons["onnxruntime"] is None
    assert list(reasons) == ["executorch_runner", "onnxruntime"]


@pytest.mark.parametrize(
    ("before", "after", "reasons", "throttled"),
    [
        (None, None, None, None),
        (None, None, [], False),
        (None, None, ["cooling_device"], True),
        ("0x0", "0x0", None, False),
        ("0x50000", "0x50000", [], False),
        ("0x50000", "0x50000", ["undervoltage"], True),
        ("0x0", "0x40000", None, True),
        ("0x50005", "0x50000", None, True),
        (None, "0x4", None, True),
    ],
)
def test_only_throttling_during_the_run_counts(
    before: str | None, after: str | None, reasons: list[str] | None, throttled: bool | None
) -> None:
    assert measure._throttled(before, after, reasons) is throttled


def test_the_address_and_the_description_of_a_device_are_in_no_key() -> None:
    one = Device("pi", "ssh", False, {"address": "a", "clock": "instructions"})
    two = Device(
        "pi", "ssh", False, {"address": "b", "port": 1, "identity": "i", "summary": "a Pi", "clock": "instructions"}
    )
    assert keys.decisive(devices.bound(one)) == keys.decisive(devices.bound(two))
