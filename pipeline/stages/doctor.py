"""Doctor: is everything here that the commands need, and if not, which line mends it."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline import devices
from pipeline.system import packages, proc
from pipeline.system.store import Store

ROOT = Path(__file__).parent.parent.parent
FREE_BYTES = 2 << 30
"""A run of every model's matrix and its environments stays below this."""

GPUS = {
    "PyTorch": (
        "import torch; print(torch.cuda.device_count())",
        "PyTorch's CUDA 13 wants NVIDIA's driver 580 or newer",
    ),
    "TensorFlow": (
        "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))",
        "TensorFlow trains on a GPU in an environment without PyTorch: docs/scaling.md",
    ),
}
"""What asks a framework how many GPUs it can use, and what to do where that is none."""

MADE_WHEN_USED = {"tflite_runtime": "in an environment of its own", "executorch_runner": "a program of ours"}
"""Runtimes that no installation brings."""


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        found: what is there.
        mend: what to do; None where all is well.
        optional: nothing that is always needed.
    """

    name: str
    found: str
    mend: str | None = None
    optional: bool = False


def doctor(build: Store) -> list[Check]:
    """Everything that is checked, in the order in which it would be mended."""
    return [_python(), *_packages(), *_runtimes(), _disk(build), *_tools(), *_gpu(), *_devices(build)]


def _python() -> Check:
    version = platform.python_version()
    right = sys.version_info[:2] == (3, 11)
    return Check(
        "python", version, None if right else "use Python 3.11: remove .venv and run ./inv with python3.11 on PATH"
    )


def _packages() -> Iterator[Check]:
    """What each extra of pyproject.toml asks for, beside what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    seen = set()
    for extra, wanted in groups.items():
        for requirement in wanted:
            name, _, version = requirement.replace("[and-cuda]", "").partition("==")
            if not version or name in seen:
                continue  # the extra that is made of the others, or what two extras ask for
            seen.add(name)
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                found = "not installed"
            place = f".[{extra}]" if extra else "."
            mend = None if found == version else f"pip install -c constraints.txt '{place}'  (brings {requirement})"
            yield Check(name, found, mend)


def _runtimes() -> Iterator[Check]:
    done = proc.run([sys.executable, "-m", "edge_bench", "runtimes"], timeout=120)
    if done.code != 0:
        yield Check("edge-bench", done.reason, "pip install ./edge-bench")
        return
    for runtime in json.loads(done.out)["runtimes"]:
        name = runtime["name"]
        if runtime["available"]:
            yield Check(f"runtime {name}", str(runtime["version"]))
        elif name in MADE_WHEN_USED:
            yield Check(f"runtime {name}", f"{MADE_WHEN_USED[name]}, made when it is first used")
        else:
            yield Check(f"runtime {name}", str(runtime["reason"]), str(runtime["install"]))


def _disk(build: Store) -> Check:
    place = build.root if build.root.exists() else build.root.parent
    free = shutil.disk_usage(place).free
    mend = None if free >= FREE_BYTES else f"free {(FREE_BYTES - free) >> 20} MB on the disk of {place}, or inv clean"
    return Check("disk", f"{free / 1e9:.1f} GB free at {place}", mend)


def _tools() -> Iterator[Check]:
    for program, use, package in (
        ("git", "to work on this repository", "git"),
        ("adb", "to reach phones", "adb"),
    ):
        path = packages.find(program)
        mend = None if path else f"{use}: apt-get install {package}"
        yield Check(program, str(path or "not found"), mend, optional=True)
    for use, purpose in packages.PURPOSES.items():
        gone = packages.missing([use])
        found = f"not found: {', '.join(tool.program for tool in gone)}" if gone else "all programs found"
        yield Check(purpose, found, packages.install_line(gone) if gone else None, optional=True)


def _gpu() -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        yield Check("gpu", "none (no nvidia-smi): training runs on the CPU", optional=True)
        return
    done = proc.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], timeout=30)
    if done.code != 0:
        yield Check("gpu", done.reason, "mend the NVIDIA driver until nvidia-smi answers", optional=True)
        return
    yield Check("gpu", done.out.strip().replace("\n", "; "))
    for framework, (question, mend) in GPUS.items():
        count = (proc.run([sys.executable, "-c", question], timeout=120).out.split() or ["0"])[-1]
        yield Check(f"gpu for {framework}", f"{framework} sees {count}", mend if count == "0" else None, optional=True)


def _devices(build: Store) -> Iterator[Check]:
    for device in devices.devices().values():
        reason = device.unavailable(build)
        yield Check(f"device {device.name}", "answers" if reason is None else "does not answer", reason, optional=True)
