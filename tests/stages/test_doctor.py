"""Doctor: all is well where the tests run, and what is missing is named with the line that mends it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.stages import doctor
from pipeline.system import packages
from pipeline.system.store import Store


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[doctor.Check]:
    return doctor.doctor(Store(tmp_path_factory.mktemp("build")))


def test_nothing_that_is_needed_is_missing_here(checks: list[doctor.Check]) -> None:
    assert [check for check in checks if check.mend and not check.optional] == []


def test_every_package_runtime_device_and_tool_is_looked_at(checks: list[doctor.Check]) -> None:
    found = {check.name for check in checks}
    wanted = {"python", "disk", "git", "adb", "gpu", "torch", "coremltools", "keras", "invoke"}
    assert wanted | set(packages.PURPOSES.values()) <= found
    assert {f"device {name}" for name in devices.devices()} <= found
    assert {
        f"runtime {name}" for name in ("litert", "executorch", "executorch_runner", "onnxruntime", "tflite_runtime")
    } <= found
    assert len(checks) == len(found)


def test_what_is_found_is_one_line(checks: list[doctor.Check]) -> None:
    assert all(check.found and "\n" not in check.found for check in checks)


PROJECT = """
[project]
dependencies = ["numpy==0.0.1"]
[project.optional-dependencies]
onnx = ["no-such-distribution==1.2.3"]
all = ["lastmile[onnx]"]
"""


def test_a_missing_package_and_one_of_another_version_give_their_install_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy

    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    numpy_line = "pip install -c constraints.txt '.'  (brings numpy==0.0.1)"
    assert checks["numpy"] == doctor.Check("numpy", numpy.__version__, numpy_line)
    other_line = "pip install -c constraints.txt '.[onnx]'  (brings no-such-distribution==1.2.3)"
    assert checks["no-such-distribution"] == doctor.Check("no-such-distribution", "not installed", other_line)


def test_a_tool_that_is_not_on_path_is_optional_and_gives_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    assert checks["adb"] == doctor.Check("adb", "not found", "to reach phones: apt-get install adb", True)


def test_a_gpu_that_a_framework_cannot_use_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'A GPU, 1024 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    checks = {check.name: check for check in doctor._gpu()}
    assert checks["gpu"].found == "A GPU, 1024 MiB"
    assert checks["gpu for PyTorch"].found == "PyTorch sees 0"
    assert str(checks["gpu for PyTorch"].mend).endswith("driver 580 or newer")
    assert checks["gpu for TensorFlow"].found == "TensorFlow sees 0"
    assert str(checks["gpu for TensorFlow"].mend).endswith("docs/scaling.md")


def test_a_disk_without_room_is_told_with_how_much_to_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES", 1 << 60)
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    assert checks["disk"].mend is not None
    assert checks["disk"].mend.startswith("free 10995") and checks["disk"].mend.endswith(f"{tmp_path}, or inv clean")
