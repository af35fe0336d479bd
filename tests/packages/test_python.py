"""The wheel: it installs without Lastmile, and its self-test finds a changed file or other outputs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

from pipeline.packages import Contents, python

MODULE = "tiny"


@pytest.fixture(scope="module")
def wheel(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    python.write(contents, folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def shared(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("site"))


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    return install(wheel, tmp_path)


def install(wheel: Path, folder: Path) -> Path:
    # Copies, not links to uv's cache: tests change the files.
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-cache", "--no-deps", "--link-mode", "copy"]
    subprocess.run([*uv, "--target", folder, wheel], check=True)
    return folder


def run(folder: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed package alone: neither Lastmile nor its tests can be imported."""
    command = [sys.executable, "-P", "-m", MODULE, *args]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_same_contents_give_the_same_wheel(contents: Contents, wheel: Path, tmp_path: Path) -> None:
    python.write(contents, tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_every_target_passes_the_self_test(shared: Path) -> None:
    done = run(shared, "--target", "all")
    assert (done.returncode, done.stderr.count("error:")) == (0, 0), done.stderr
    assert [line.split(", ")[1].split(":")[0] for line in done.stdout.splitlines()] == ["onnx", "tflite", "executorch"]
    assert done.stdout.count("passed: 8 of 8 labels equal") == 3


def test_an_image_gets_the_class_of_the_golden_output(contents: Contents, shared: Path) -> None:
    images = sorted((contents.root / "golden" / "images").glob("*.png"), key=lambda path: int(path.stem))
    recommended = contents.recommended("onnx")
    assert recommended is not None
    golden = np.load(contents.root / "golden" / recommended.recipe / "onnx" / "host.npy")
    done = run(shared, *images)
    expected = [contents.spec.labels[i] for i in golden.argmax(1)]
    assert [line.split()[-2] for line in done.stdout.splitlines()] == expected


def test_a_changed_model_file_is_refused(installed: Path) -> None:
    path = next((installed / MODULE / "models" / "onnx").iterdir())
    path.write_bytes(path.read_bytes() + b"\0")
    done = run(installed)
    assert done.returncode == 2 and path.name in done.stderr and "Traceback" not in done.stderr


def test_other_outputs_fail_the_self_test(installed: Path) -> None:
    path = installed / MODULE / "golden" / "onnx.npy"
    np.save(path, np.load(path) + 1)
    done = run(installed)
    assert done.returncode == 1 and "FAILED" in done.stdout


def test_the_metadata_name_the_runtimes_as_extras(contents: Contents, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        found = Parser().parsestr(archive.read(name).decode())
    assert (found["Name"], found["Version"], found["License-Expression"]) == ("tiny", contents.version, "Apache-2.0")
    assert found.get_all("Provides-Extra") == ["onnx", "tflite", "executorch"]
    requirements = found.get_all("Requires-Dist")
    assert requirements is not None and any(one.startswith("onnxruntime>=") for one in requirements)
