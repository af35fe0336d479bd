"""A bench on a board: the same outputs as here, and an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline.core import Device, Measurement
from pipeline.devices import _ssh
from pipeline.results import collect
from pipeline.stages import export, measure
from pipeline.stages import push as pushing
from pipeline.stages.export import Outcome
from pipeline.stages.train import Job
from pipeline.system import store
from pipeline.system.store import Store
from tests.make_matrix import QUICK

from .sshd import Board


@pytest.fixture
def build(copied: Store, wheels: Store) -> Store:
    """The matrix, with the runtimes' archives at hand."""
    if (wheels.root / "environments").exists():
        shutil.copytree(wheels.root / "environments", copied.root / "environments", dirs_exist_ok=True)
    yield copied
    shutil.copytree(copied.root / "environments", wheels.root / "environments", dirs_exist_ok=True)


@pytest.fixture
def outcomes(build: Store, job: Job) -> list[Outcome]:
    return export.export(build, job, ["onnx"], ["fp32"])


def measured(build: Store, device: str) -> tuple[Path, Measurement]:
    folder = next(build.root.glob(f"*/fp32/onnx/{device}"))
    found = store.read(Measurement, folder / "measurement.json")
    assert found is not None
    return folder, found


def test_a_board_of_the_same_processor_gives_the_same_outputs(
    build: Store, job: Job, own_board: Board, outcomes: list[Outcome]
) -> None:
    device = own_board.device(chunk_samples=100)
    assert measure.bench(build, job, device, outcomes, QUICK) == []
    folder, there = measured(build, "board")
    here = measured(build, "local")[1]
    assert there.accuracy.predictions_sha256 == here.accuracy.predictions_sha256
    assert there.accuracy.value == here.accuracy.value
    assert there.device["name"] == "board" and there.device["kind"] == "ssh"
    assert sorted(path.name for path in folder.iterdir()) == ["measurement.json", "predictions.npz"]


def test_a_second_bench_asks_nothing_and_a_third_sends_no_model(
    build: Store, job: Job, own_board: Board, outcomes: list[Outcome]
) -> None:
    measure.bench(build, job, own_board.device(), outcomes, QUICK)
    _ssh.close_all()
    moved = own_board.device(address="localhost", cool_down_c=95)
    measure.bench(build, job, moved, outcomes, QUICK)
    assert _ssh.LINKS == {}
    device = own_board.device(chunk_samples=1000)
    measure.bench(build, job, device, outcomes, dataclasses.replace(QUICK, again=True))
    traffic = _ssh.link(device).traffic
    assert traffic.trips == 4  # what it is, which files are there, run, predict (all samples are one chunk)
    assert traffic.sent_bytes < 40_000


def test_a_clock_that_counts_instructions_is_shown_as_no_latency(
    build: Store, job: Job, own_board: Board, outcomes: list[Outcome]
) -> None:
    device = own_board.device(emulated=True, clock="instructions")
    assert measure.bench(build, job, device, outcomes, QUICK) == []
    cells = [cell for cell in collect.cells(build, None) if cell.device == "board"]
    assert [(cell.emulated, cell.latency_ms, cell.load_ms) for cell in cells] == [(True, None, None)]
    assert cells[0].instructions is not None and cells[0].instructions > 0


def test_setup_says_for_each_runtime_whether_it_can_be_had(build: Store, own_board: Board) -> None:
    told = dict(pushing.setup(build, own_board.device(), ["coreml", "executorch", "onnx"]))
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
    assert measure._itself(one) == measure._itself(two)
