"""inv doctor: every check passes on the machine that runs the tests, and every problem is reported with a fix."""

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


def test_every_required_check_passes_on_this_machine(checks: list[doctor.Check]) -> None:
    assert [check for check in checks if check.fix and not check.optional] == []


def test_every_package_runtime_device_and_tool_is_checked(checks: list[doctor.Check]) -> None:
    found = {check.name for check in checks}
    wanted = {"python", "disk", "git", "adb", "gpu", "torch", "coremltools", "keras", "invoke"}
    assert wanted | set(packages.PURPOSES.values()) <= found
    assert {f"device {name}" for name in devices.devices()} <= found
    assert {
        f"runtime {name}" for name in ("litert", "executorch", "executorch_runner", "onnxruntime", "tflite_runtime")
    } <= found
    assert len(checks) == len(found)


def test_every_finding_is_one_line(checks: list[doctor.Check]) -> None:
    assert all(check.found and "\n" not in check.found for check in checks)


PROJECT = """
[project]
dependencies = ["numpy==0.0.1"]
[project.optional-dependencies]
onnx = ["no-such-distribution==1.2.3"]
all = ["lastmile[onnx]"]
"""


def test_a_missing_package_and_a_wrong_version_are_reported_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy

    (tmp_path / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    numpy_line = "pip install -c constraints.txt '.'  (installs numpy==0.0.1)"
    assert checks["numpy"] == doctor.Check("numpy", numpy.__version__, numpy_line)
    other_line = "pip install -c constraints.txt '.[onnx]'  (installs no-such-distribution==1.2.3)"
    assert checks["no-such-distribution"] == doctor.Check("no-such-distribution", "not installed", other_line)


def test_a_package_of_an_extra_that_was_not_selected_is_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / doctor.CHOICES).write_text(f"{tmp_path}\ntorch,tflite\ndefault\n3.12\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    numpy, other = doctor._packages()
    assert numpy.fix and not numpy.optional
    assert other.optional and "LASTMILE_EXTRAS=torch,tflite,onnx ./inv" in str(other.fix)


def test_a_package_of_an_extra_that_all_does_not_contain_is_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PROJECT.replace("all =", 'more = ["no-such-package==1"]\nall =')
    (tmp_path / "pyproject.toml").write_text(text)
    (tmp_path / doctor.CHOICES).write_text(f"{tmp_path}\nall\ndefault\n3.12\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    checks = {check.name: check for check in doctor._packages()}
    assert not checks["no-such-distribution"].optional
    assert checks["no-such-package"].optional and "LASTMILE_EXTRAS=all,more ./inv" in str(checks["no-such-package"].fix)


def test_a_missing_tool_is_optional_and_reported_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    adb = checks["adb"]
    assert adb.optional and adb.found == "not found" and "apt-get install adb" in str(adb.fix)


def test_a_gpu_that_a_framework_cannot_use_is_reported_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'A GPU, 1024 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    checks = {check.name: check for check in doctor._gpu()}
    assert checks["gpu"].found == "A GPU, 1024 MiB"
    assert checks["gpu for PyTorch"].found == "PyTorch sees 0"
    assert "driver 580" in str(checks["gpu for PyTorch"].fix)
    assert checks["gpu for TensorFlow"].found == "TensorFlow sees 0"
    assert "docs/scaling.md" in str(checks["gpu for TensorFlow"].fix)


def test_a_full_disk_is_reported_with_the_space_to_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES", 1 << 60)
    checks = {check.name: check for check in doctor.doctor(Store(tmp_path))}
    fix = checks["disk"].fix
    assert fix is not None and "free 10995" in fix and str(tmp_path) in fix and "inv clean" in fix
