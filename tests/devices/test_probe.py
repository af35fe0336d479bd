"""`inv devices.probe`: what is assumed about a device, checked there and written as one file."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.core import Device, Probe, from_json
from pipeline.devices import _machine, _probe
from pipeline.errors import StageFailed
from pipeline.system.store import Store
from tests.boards import Board as EmulatedBoard
from tests.cli import inv

from .conftest import EMULATED_DEVICE
from .sshd import Board

EVERY = {name for name, *_ in _machine.CHECKS}
NAMES = {name for name, _, _, systems in _machine.CHECKS if systems != _machine.MACOS}
"""Those of Linux."""


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
    assert judged(found)["flock"] and judged(found)["job_lock"] and judged(found)["clock"]
    assert judged(found).keys() - NAMES == {"shell"} and judged(found)["shell"]
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


# -- a machine's files -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine's /proc, /sys and /etc: a board with two clusters."""
    write(tmp_path, "proc/device-tree/model", "Orange Pi 5\0")
    write(tmp_path, "proc/cpuinfo", "processor: 0\nCPU part: 0xd05\n\nprocessor: 1\nCPU part: 0xd0b\n")
    write(tmp_path, "proc/self/cgroup", "0::/user.slice")
    write(tmp_path, "sys/fs/cgroup/user.slice/cpu.max", "150000 100000")
    write(tmp_path, "sys/devices/system/cpu/online", "0-1")
    write(tmp_path, "sys/devices/system/cpu/isolated", "1")
    for policy in (0, 1):
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        write(tmp_path, f"{folder}/related_cpus", str(policy))
        write(tmp_path, f"{folder}/scaling_governor", "ondemand")
        for name in ("scaling_cur_freq", "cpuinfo_max_freq"):
            write(tmp_path, f"{folder}/{name}", "1800000")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "45123")
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50000")
    write(tmp_path, "etc/machine-id", "0123456789abcdef")
    monkeypatch.setattr(_machine, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


CHECKED = (
    _machine.cpufreq, _machine.isolated, _machine.cgroup, _machine.cpu_names, _machine.thermal, _machine.throttling,
    _machine.identity,
)  # fmt: skip


def test_a_board_with_the_expected_files_holds(tree: Path) -> None:
    found = {check.__name__: check() for check in CHECKED}
    assert {name: holds for name, (_, holds) in found.items()} == dict.fromkeys(found, True)
    assert found["isolated"][0] == "isolated 1"
    assert "0123456789" not in found["identity"][0]
    assert _machine.model() == "Orange Pi 5"


@pytest.mark.parametrize("check", CHECKED)
def test_a_board_without_the_files_is_never_said_to_hold(
    check: Callable[[], tuple[str, bool | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_machine, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check()[1] in (False, None)


@pytest.mark.parametrize(
    ("name", "text", "check"),
    [
        ("sys/devices/system/cpu/online", "0-2", _machine.cpufreq),
        ("sys/devices/system/cpu/cpufreq/policy1/scaling_governor", "", _machine.cpufreq),
        ("sys/devices/system/cpu/isolated", "all", _machine.isolated),
        ("sys/fs/cgroup/user.slice/cpu.max", "a lot", _machine.cgroup),
        ("sys/class/thermal/thermal_zone0/temp", "45", _machine.thermal),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "no", _machine.throttling),
    ],
)
def test_an_unexpected_value_does_not_hold(
    name: str, text: str, check: Callable[[], tuple[str, bool | None]], tree: Path
) -> None:
    write(tree, name, text)
    seen, holds = check()
    assert holds is False, seen


def test_a_check_that_raises_saw_the_error_and_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[str, bool | None]:
        raise PermissionError(13, "Permission denied", "/sys/x")

    monkeypatch.setattr(_machine, "CHECKS", [("broken", "it works", broken, _machine.BOTH)])
    (found,) = _machine.probed()["assumptions"]  # type: ignore[misc]
    assert found[0] == "broken" and found[2].startswith("PermissionError") and found[3] is None


def test_the_documentation_lists_every_assumption_in_the_programs_own_words() -> None:
    page = (Path(__file__).parents[2] / "docs" / "raspberry-pi.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page.split("## What we assume")[1], re.MULTILINE))
    assert {name: rows[name] for name in EVERY} == {name: assumed for name, assumed, *_ in _machine.CHECKS}
    assert rows.keys() - EVERY == {"shell"}


# -- a Mac -------------------------------------------------------------------------------------------------------------


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_mac_is_checked_with_its_own_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs are stand-ins; getrusage is this system's."""
    program(tmp_path, "sysctl", "case $2 in hw.memsize) echo 8589934592;; *) echo Mac14,2;; esac")
    program(tmp_path, "ps", 'n=$(wc -l <"$0.log" 2>/dev/null || echo 0); echo >>"$0.log"; echo $((20000 + n * 65536))')
    monkeypatch.setattr(_machine, "MAC", True)
    monkeypatch.setattr(_machine, "ROOT", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = _machine.probed()
    holds = {one[0]: one[3] for one in found["assumptions"]}  # type: ignore[attr-defined]
    assert holds.keys() == {name for name, _, _, systems in _machine.CHECKS if systems != _machine.LINUX}
    assert (holds["sysctl"], holds["ps_memory"], found["model"]) == (True, True, "Mac14,2")
    program(tmp_path, "ps", "echo 20000")
    program(tmp_path, "sysctl", "exit 1")
    assert (_machine.ps_memory()[1], _machine.sysctl()[1]) == (False, False)


# -- recorded probes ---------------------------------------------------------------------------------------------------

RECORDED = sorted((Path(__file__).parents[1] / "probes").glob("*.json"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_recorded_probe_has_the_format_and_is_emulated_or_of_a_host(file: Path) -> None:
    probe = from_json(Probe, json.loads(file.read_text()))
    assert probe.emulated is file.stem.endswith("-emulated")
    assert probe.kind in ("local", "ssh", "adb")
    assert re.fullmatch("[0-9a-f]{16}", probe.hardware) and probe.assumptions
    assert "LASTMILE0EMULATED" not in file.read_text()  # the emulated phone's serial number


def test_this_machine_is_checked_for_what_was_recorded_on_a_host(tmp_path: Path) -> None:
    recorded = from_json(Probe, json.loads((RECORDED[0].parent / "host.json").read_text()))
    found = devices.bound(Device("local", "local")).probe(Store(tmp_path))
    assert judged(found).keys() == judged(recorded).keys()


def test_an_emulated_board_answers_as_its_recorded_probe_says(board: EmulatedBoard) -> None:
    recorded = from_json(Probe, json.loads((RECORDED[0].parent / "pi4-emulated.json").read_text()))
    found = devices.bound(EMULATED_DEVICE).probe(board.build)
    assert judged(found) == judged(recorded)
    assert (found.emulated, found.model) == (True, recorded.model)
