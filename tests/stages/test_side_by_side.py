"""Several devices in one bench, and several benches at once: what may overlap does, and one failure ends no other."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core import Measurement
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import INV, ROOT, Running, environment, inv, unfinished
from tests.outside.making import distribution

STAND_IN = '''
"""A device kind that runs edge-bench on this machine as if it were another one; `serial` is its hardware."""
import json
import time
from contextlib import nullcontext
from pathlib import Path

from pipeline.devices import local
from pipeline.devices.local import *
from pipeline.devices.local import CHUNK, DECODES, RUNTIMES
from pipeline.errors import StageFailed, Unreachable

ROUTE = ("serial", "meets", "gone", "breaks")

def describe(device):
    return "a stand-in"

def hardware(build, device):
    if "gone" in device.options:
        raise Unreachable(f"{device.name}: no response")
    return f"serial {device.options['serial']}"

def exclusive(build, device):
    return nullcontext()

def setup(build, device, runtime):
    if "breaks" in device.options:
        raise StageFailed(f"{device.name}: no such runtime")

def call(build, device, runtime, words, timeout):
    """Leaves a mark while it runs; with `meets`, it first waits until that device runs as well."""
    mark = build.root / f"running-{device.name}"
    others = [path.name for path in build.root.glob("running-*") if path != mark]
    mark.touch()
    with (build.root / "log").open("a") as log:
        log.write(json.dumps([device.name, words[0], others]) + "\\n")
    until = time.monotonic() + 120
    while "meets" in device.options and not (build.root / f"met-{device.options['meets']}").exists():
        (build.root / f"met-{device.name}").touch()
        if time.monotonic() > until:
            raise StageFailed(f"{device.name} did not meet {device.options['meets']}")
        time.sleep(0.02)
    (build.root / f"met-{device.name}").touch()
    try:
        return local.call(build, device, runtime, words, timeout)
    finally:
        mark.unlink()
'''
QUICK = ("--target", "onnx", "--recipe", "fp32", "--min-runs", "3", "--min-seconds", "0")
Bench = Callable[..., tuple[str, ...]]


@pytest.fixture
def more(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment variables: with the kind, and with devices of it."""
    folder = distribution(
        tmp_path / "site", "stand-ins", {"lastmile.devices": {"stand_in": "stand_ins"}}, {"stand_ins.py": STAND_IN}
    )
    tables = {
        "a": 'serial = "1"\nmeets = "b"',
        "b": 'serial = "2"\nmeets = "a"',
        "one": 'serial = "3"',
        "same": 'serial = "3"',
        "gone": 'serial = "4"\ngone = true',
        "broken": 'serial = "5"\nbreaks = true',
    }
    toml = "\n".join(f'[{name}]\nkind = "stand_in"\n{text}' for name, text in tables.items())
    (tmp_path / "devices.toml").write_text(f'[local]\nkind = "local"\n{toml}\n')
    path = f"{folder}:{ROOT}:{ROOT / 'edge-bench' / 'src'}"
    yield {"LASTMILE_DEVICES": str(tmp_path / "devices.toml"), "PYTHONPATH": path}


def measured(build: Store, device: str) -> Measurement | None:
    return store.read(Measurement, build.cell("tiny", "torch", "fp32", "onnx") / device / "measurement.json")


def log(build: Store) -> list[tuple[str, str, list[str]]]:
    """Each call of edge-bench: the device, the command, and the devices that ran at that moment."""
    return [json.loads(line) for line in (build.root / "log").read_text().splitlines()]


def test_two_devices_are_measured_at_the_same_time_and_lines_name_them(
    copied: Store, tiny: Path, more: dict[str, str]
) -> None:
    """Each waits until the other runs too: one after another, both would fail."""
    done = inv(copied.root, "bench", "--model", tiny, "--device", "a,b", *QUICK, **more)
    assert done.code == 0, done.err
    found = {name: measured(copied, name) for name in ("a", "b")}
    assert {name: one and one.device["hardware"] for name, one in found.items()} == {"a": "serial 1", "b": "serial 2"}
    lines = [line for line in done.err.splitlines() if " p50 " in line]
    assert sorted(line.partition(" ")[0] for line in lines) == ["[a]", "[b]"]
    again = inv(copied.root, "bench", "--model", tiny, "--device", "a,b", *QUICK, **more)
    assert (again.code, again.err) == (0, "")


def test_two_commands_measure_two_devices_at_the_same_time(copied: Store, tiny: Path, more: dict[str, str]) -> None:
    both = [
        subprocess.Popen(
            [*INV, "bench", "--model", str(tiny), "--device", name, *QUICK], cwd=ROOT, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, env=environment(copied.root, **more), text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert measured(copied, "a") and measured(copied, "b")


def test_two_names_of_the_same_hardware_are_measured_one_after_the_other(
    copied: Store, tiny: Path, more: dict[str, str]
) -> None:
    done = inv(copied.root, "bench", "--model", tiny, "--device", "one,same", *QUICK, **more)
    assert done.code == 0, done.err
    assert {name for name, _, _ in log(copied)} == {"one", "same"}
    assert [others for _, _, others in log(copied) if others] == []


def test_a_device_that_fails_does_not_end_the_others(copied: Store, tiny: Path, more: dict[str, str]) -> None:
    done = inv(copied.root, "bench", "--model", tiny, "--device", "gone,one,broken", *QUICK, **more)
    assert done.code == 2
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "gone: no response" in errors[0] and "broken: no such runtime" in errors[1]
    assert "Traceback" not in done.err
    assert measured(copied, "one") and not measured(copied, "gone")


def test_a_framework_that_fails_does_not_end_the_other_on_any_device(
    tmp_path: Path, tiny: Path, more: dict[str, str]
) -> None:
    model, build = tmp_path / "tiny", Store(tmp_path / "build")
    shutil.copytree(tiny, model, ignore=shutil.ignore_patterns("__pycache__"))
    (model / "keras.py").write_text("def build(spec):\n    raise RuntimeError('mine')\n")
    done = inv(build.root, "bench", "--model", model, "--framework", "all", "--device", "a,b", *QUICK, **more)
    assert done.code == 2
    assert "mine" in done.err and "Traceback" not in done.err and "AssertionError" not in done.err
    assert measured(build, "a") and measured(build, "b")


def test_an_unreachable_device_is_reported_before_anything_is_exported(
    tmp_path: Path, tiny: Path, more: dict[str, str]
) -> None:
    build = tmp_path / "build"
    done = inv(build, "bench", "--model", tiny, "--device", "gone", *QUICK, **more)
    assert done.only == "gone: no response"
    assert not (build / "tiny.torch").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_device(number: signal.Signals, copied: Store, tiny: Path, more: dict[str, str]) -> None:
    running = Running(copied.root, "bench", "--model", tiny, "--device", "a,b", *QUICK[:-1], "100", **more)
    running.until(lambda: all((copied.root / f"met-{name}").exists() for name in ("a", "b")))
    running.interrupt(number)
    for name in ("a", "b"):
        assert measured(copied, name) is None
        assert not (copied.cell("tiny", "torch", "fp32", "onnx") / name / "failure.json").exists()
    assert unfinished(copied.root) == []


def test_a_trace_takes_one_device(copied: Store, tiny: Path, tmp_path: Path, more: dict[str, str]) -> None:
    image = tmp_path / "image.png"
    image.touch()
    assert (
        "--device" in inv(copied.root, "trace", "--model", tiny, "--image", image, "--device", "a,b", **more).complaint
    )


def test_nothing_is_made_on_this_machine_while_it_is_measured(copied: Store, tiny: Path, more: dict[str, str]) -> None:
    bench = Running(copied.root, "bench", "--model", tiny, "--device", "local", "--again", *QUICK[:-1], "100", **more)
    held = f"a measurement on local (process {bench.process.pid})"
    bench.until(lambda: held in (copied.root / ".lock").read_text())
    store.remove(copied.cell("tiny", "torch", "fp32", "onnx") / "artifact.json")
    export = Running(copied.root, "export", "--model", tiny, *QUICK[:4], **more)
    export.until_printed("is in use by a measurement on local")
    export.process.kill()
    export.wait()
    bench.interrupt()
