"""`inv devices.probe`: what is assumed about a device, checked there and written as one file."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.core import Device, Probe, from_json
from pipeline.devices import _machine, _probe
from pipeline.errors import StageFailed
from pipeline.system.store import Store
from tests.cli import inv

from .sshd import Board

NAMES = {name for name, *_ in _machine.CHECKS}


def judged(probe: Probe) -> dict[str, bool | None]:
    return {one.name: one.holds for one in probe.assumptions}


def test_the_command_writes_one_file_and_shows_a_row_for_each_assumption(tmp_path: Path) -> None:
    done = inv(tmp_path / "build", "devices.probe", "--device", "local", "--output", tmp_path / "probe.json")
    probe = from_json(Probe, json.loads((tmp_path / "probe.json").read_text()))
    assert (probe.kind, probe.emulated, len(probe.hardware)) == ("local", False, 16)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", probe.date)
    assert judged(probe).keys() == NAMES
    assert all(name in "\n".join(done.lines) for name in NAMES)


def test_a_board_is_probed_over_its_session(loopback: Board, tmp_path: Path) -> None:
    build = Store(tmp_path / "build")
    found = devices.bound(loopback.device()).probe(build)
    here = devices.bound(Device("local", "local")).probe(build)
    own = {name: holds for name, holds in judged(found).items() if name in NAMES}
    assert own == judged(here)
    assert (found.kind, found.model, found.system) == ("ssh", here.model, here.system)
    assert judged(found)["flock"] and judged(found)["clock"] and judged(found)["peak_memory"]
    assert not list(loopback.home.glob(".tmp-*"))


def test_serial_numbers_and_addresses_are_hashes() -> None:
    one = _probe.Assumption("name", "assumed", "board 10000000abc at 192.168.1.7", True)
    made = _probe.made(
        Device("pi4", "ssh"), "serial 10000000abc", "Pi", "Linux", [one], ["10000000abc", "192.168.1.7", ""]
    )
    text = json.dumps([made.hardware, [one.seen for one in made.assumptions]])
    assert "10000000abc" not in text and "192.168" not in text
    assert made.assumptions[0].seen.startswith(f"board #{_probe.hashed('10000000abc')[:8]} at #")


def test_a_program_that_prints_something_else_is_an_error() -> None:
    with pytest.raises(StageFailed, match="Segmentation fault"):
        _probe.of_machine("Segmentation fault")


def test_the_program_runs_on_python_3_7_syntax() -> None:
    """Boards have older versions of Python than this machine."""
    code = "import ast, sys; ast.parse(open(sys.argv[1]).read(), feature_version=(3, 7))"
    subprocess.run(["python3", "-c", code, _probe.MACHINE], check=True)
