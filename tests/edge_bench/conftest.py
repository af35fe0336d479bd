"""Fixtures: real models, the runtimes, and a function that calls edge-bench as a process."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_bench import runtimes

from pipeline.devices import _runner as build_runner
from pipeline.devices.local import PYTHON_APART
from pipeline.system.store import Store

from .calls import Call, Done, Subject, environment

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edge-bench"
LAYOUT = {".tflite": (), ".onnx": ("--layout", "NCHW"), ".pte": ("--layout", "NCHW")}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models, samples.npy (20, 8, 8, 3) of pixels 0 to 255, and expected.npz: torch's outputs."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("make_models.py")
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def samples(models: Path) -> np.ndarray:
    return np.load(models / "samples.npy")


@pytest.fixture(scope="session")
def tflite_runtime_python() -> str:
    """The Python of a separate environment with tflite-runtime, which requires numpy<2. It is kept between sessions."""
    key = hashlib.sha256((PACKAGE / "pyproject.toml").read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / "env" / f"tflite_runtime-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, complete = folder / "bin" / "python", folder / "complete"
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert uv is not None, "these tests need uv, which ./inv installs"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([uv, "venv", "-q", "--python", PYTHON_APART, str(folder)], check=True)
            package = f"{PACKAGE}[tflite_runtime]"
            subprocess.run([uv, "pip", "install", "-q", "--python", str(python), "-e", package], check=True)
            complete.touch()
    return str(python)


@pytest.fixture(scope="session")
def runner() -> Path:
    """The C++ runner for this machine. It is kept between sessions until its source changes."""
    build = Store(ROOT / "build")
    build.root.mkdir(exist_ok=True)
    with (build.root / ".runner").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_runner.build(build, platform.machine())


@pytest.fixture(params=runtimes.names())
def subject(request: pytest.FixtureRequest, models: Path) -> Subject:
    """Each runtime in turn."""
    name = request.param
    separate = name == "tflite_runtime"
    suffix = runtimes.load(name).SUFFIX
    return Subject(
        name=name,
        python=request.getfixturevalue("tflite_runtime_python") if separate else sys.executable,
        artifact=models / f"net{suffix}",
        arguments=(f"net{suffix}", "--runtime", name, "--inputs", "samples.npy", *LAYOUT[suffix]),
        path=request.getfixturevalue("runner") if name == "executorch_runner" else None,
    )


@pytest.fixture
def edge_bench(models: Path, tmp_path: Path) -> Call:
    """Calls edge-bench in an empty folder. File names of `models` are replaced by their paths."""

    def call(*arguments: object, python: str = sys.executable, path: Path | None = None) -> Done:
        args = [str(models / str(arg)) if (models / str(arg)).is_file() else str(arg) for arg in arguments]
        command = [python, "-m", "edge_bench", *args]
        options = {"cwd": tmp_path, "env": environment(path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        return Done(done.returncode, done.stdout, done.stderr)

    return call
