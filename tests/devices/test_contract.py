"""The contract of all kinds of device: they receive files once, run edge-bench, return outputs and can be cleaned."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline import devices, registry
from pipeline.core import Device
from pipeline.system import store
from pipeline.system.store import Store
from tests import schemas
from tests.make_matrix import ROOT

from .conftest import Place


@pytest.fixture
def device(place: Place) -> Device:
    return place.device


@pytest.fixture
def build(place: Place) -> Store:
    return place.build


@pytest.fixture
def kind(device: Device) -> ModuleType:
    return registry.load("devices", device.kind)


@pytest.fixture
def runtime(place: Place) -> str:
    """The runtime that runs the target's files on the device."""
    found = devices.bound(place.device).runtime(registry.bind("targets", place.target))
    assert found is not None
    return found


@pytest.fixture
def model(matrix: Store, place: Place) -> Path:
    """A real model file in a folder whose name needs quoting in a shell."""
    folder = matrix.root / "it's $(a) folder; -x"
    folder.mkdir(exist_ok=True)
    found = next(matrix.root.glob(f"*/fp32/{place.target}/model.*"))
    return Path(shutil.copy(found, folder))


@pytest.fixture
def files(matrix: Store, model: Path) -> tuple[Path, Path]:
    """The model, and its evaluation images."""
    return model, next(matrix.root.glob("data/*/images.npy"))


def test_its_description_is_one_line_and_it_is_available(kind: ModuleType, device: Device, build: Store) -> None:
    assert kind.describe(device).strip() and "\n" not in kind.describe(device)
    assert kind.unavailable(build, device) is None


def test_files_are_sent_once(kind: ModuleType, device: Device, place: Place, build: Store, tmp_path: Path) -> None:
    names = ["plain.bin", "with space.bin", "-dash.bin", 'it\'s "$HOME" `x`; #\n.bin']
    files = [tmp_path / name for name in names]
    for index, path in enumerate(files):
        path.write_bytes(f"{device.name} {path.name} ".encode() * (1000 + index))
    paths, sent = kind.push(build, device, files)
    assert sent in (0, sum(store.size(path) for path in files))
    for path in files:
        assert place.sha256(paths[path]) == store.sha256(path)
    assert kind.push(build, device, files) == (paths, 0)


def test_edge_bench_describes_the_device_and_its_runtimes(
    kind: ModuleType, device: Device, build: Store, runtime: str
) -> None:
    kind.setup(build, device, runtime)
    facts = json.loads(kind.call(build, device, runtime, ["facts"], 600).out)
    assert facts["device"]["cores"] >= 1 and schemas.wrong("facts", facts) == []
    found = json.loads(kind.call(build, device, runtime, ["runtimes"], 600).out)
    assert {each["name"]: each["available"] for each in found["runtimes"]}[runtime]
    assert schemas.wrong("runtimes", found) == []


def test_outputs_are_returned(
    kind: ModuleType, device: Device, build: Store, runtime: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    kind.setup(build, device, runtime)
    model, images = files
    kind.push(build, device, files)
    out = tmp_path / "out put.npz"
    args = ["predict", model, "--runtime", runtime, "--inputs", images, "--layout", "NCHW"]
    args += ["--start", "3", "--count", "5", "--out", out]
    done = kind.call(build, device, runtime, args, 600)
    assert done.code == 0, done.err
    assert json.loads(done.out)["predictions_sha256"] == store.sha256(out)
    assert schemas.wrong("predict", json.loads(done.out)) == []
    with np.load(out) as outputs:
        assert outputs["output_0"].shape == (5, 10)


def test_a_measurement_fits_the_schema(
    kind: ModuleType, device: Device, build: Store, runtime: str, files: tuple[Path, Path]
) -> None:
    kind.setup(build, device, runtime)
    model, images = files
    kind.push(build, device, files)
    args = ["run", model, "--runtime", runtime, "--inputs", images, "--layout", "NCHW", "--min-runs", "2"]
    args += [] if device.kind == "adb" else ["--cpus", "0"]  # Android gives apps no way to pin a process
    done = kind.call(build, device, runtime, [*args, "--min-seconds", "0", "--warmup-seconds", "0"], 600)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert schemas.wrong("run", answer) == []
    assert answer["runtime"]["cpus"] == (None if device.kind == "adb" else "0")


def test_errors_contain_the_hosts_path_of_the_file(
    kind: ModuleType, device: Device, build: Store, runtime: str, tmp_path: Path, model: Path
) -> None:
    broken = tmp_path / f"broken{model.suffix}"
    broken.write_bytes(b"no model")
    kind.setup(build, device, runtime)
    kind.push(build, device, [broken])
    done = kind.call(build, device, runtime, ["run", broken, "--runtime", runtime], 600)
    assert (done.code, done.out) == (2, "")
    assert done.reason.startswith(f"edge-bench: {broken}: ")


def test_a_call_that_exceeds_its_timeout_is_ended(
    kind: ModuleType, device: Device, build: Store, runtime: str, files: tuple[Path, Path]
) -> None:
    kind.setup(build, device, runtime)
    model, images = files
    kind.push(build, device, files)
    args = ["run", model, "--runtime", runtime, "--inputs", images, "--layout", "NCHW", "--min-seconds", "600"]
    done = kind.call(build, device, runtime, args, 3)
    assert done.timed_out
    assert "3 s" in done.reason


def test_exclusive_blocks_can_be_nested(kind: ModuleType, device: Device, build: Store) -> None:
    with kind.exclusive(build, device), kind.exclusive(build, device):
        assert kind.push(build, device, [])[1] == 0


def test_cleaning_removes_what_was_sent(kind: ModuleType, device: Device, build: Store, tmp_path: Path) -> None:
    if device.kind == "ssh":  # a separate folder, to keep the other tests' runtimes
        folder = f"{device.options.get('folder', '~/.lastmile')} of its own"
        device = dataclasses.replace(device, options={**device.options, "folder": folder})
    file = tmp_path / "file.bin"
    file.write_bytes(device.name.encode() * 1000)
    _, sent = kind.push(build, device, [file])
    assert kind.clean(build, device) >= sent
    assert kind.clean(build, device) == 0
    assert kind.push(build, device, [file])[1] == sent


def test_every_kind_implements_the_protocol(tmp_path: Path) -> None:
    """mypy checks each module of the folder against `DeviceKind`."""
    lines = [f"from pipeline.devices import {name}\n_{name}: DeviceKind = {name}" for name in registry.names("devices")]
    check = tmp_path / "check.py"
    check.write_text("\n".join(["from pipeline.devices import DeviceKind", *lines, ""]))
    argv = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(check)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
