"""Doctor: checks that everything the commands need is installed; for each problem it gives the fix."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pipeline import devices
from pipeline.devices import local
from pipeline.report.terminal import Check
from pipeline.system import packages, proc
from pipeline.system.store import Store

ROOT = Path(__file__).parent.parent.parent
FREE_BYTES = 2 << 30
"""Enough for the matrix of every model and the environments of the runtimes."""

GPUS = {
    "PyTorch": (
        "import torch; print(torch.cuda.device_count())",
        "PyTorch's CUDA 13 requires NVIDIA driver 580 or newer",
    ),
    "TensorFlow": (
        "import tensorflow; print(len(tensorflow.config.list_physical_devices('GPU')))",
        "TensorFlow needs an environment without PyTorch to train on a GPU: docs/scaling.md",
    ),
}
"""For each framework: code that prints how many GPUs it can use, and the fix where it prints 0."""

CHOICES = ".choices"
"""The file in .venv to which ./inv writes what the user chose to install; its second line has the extras."""


def doctor(build: Store) -> list[Check]:
    """Every check, in the order in which to fix them."""
    return [_python(), *_packages(), *_runtimes(), _disk(build), *_tools(), *_gpu(), *_devices(build)]


def _python() -> Check:
    version = platform.python_version()
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", version, None if right else "Python 3.11, 3.12 or 3.13: LASTMILE_PYTHON=3.13 ./inv doctor")


def _extras() -> list[str]:
    """The extras that the user chose; ["all"] by default."""
    path = Path(sys.prefix) / CHOICES
    lines = path.read_text().splitlines() if path.is_file() else []
    return lines[1].split(",") if len(lines) > 1 else ["all"]


def _installed(chosen: list[str], groups: dict[str, list[str]]) -> set[str]:
    """The extras that pip installs for `chosen`: an extra may consist of others, as "lastmile[torch,onnx]"."""
    found = set(chosen)
    for name in chosen:
        for requirement in groups.get(name, []):
            if match := re.fullmatch(r"lastmile\[(.+)\]", requirement):
                found |= set(match[1].split(","))
    return found


def _packages() -> Iterator[Check]:
    """The packages of every extra in pyproject.toml against the installed ones. Those of extras that the user did not
    choose are optional."""
    chosen = _extras()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    installed = {"", *_installed(chosen, groups)}
    seen = set()
    for extra, wanted in groups.items():
        for requirement in wanted:
            name, _, version = requirement.replace("[and-cuda]", "").partition("==")
            if not version or name in seen:
                continue  # the extra `all`, or a package of two extras
            seen.add(name)
            try:
                found = metadata.version(name)
            except metadata.PackageNotFoundError:
                found = "not installed"
            place = f".[{extra}]" if extra else "."
            fix = f"pip install -c constraints.txt '{place}'  (installs {requirement})"
            optional = extra not in installed
            if optional:
                fix = f"LASTMILE_EXTRAS={','.join([*chosen, extra])} ./inv doctor"
            yield Check(name, found, None if found == version else fix, optional and found != version)


def _runtimes() -> Iterator[Check]:
    done = proc.run([sys.executable, "-m", "edge_bench", "runtimes"], timeout=120)
    if done.code != 0:
        yield Check("edge-bench", done.reason, "pip install ./edge-bench")
        return
    for runtime in done.result("runtimes")["runtimes"]:
        name = runtime["name"]
        if runtime["available"]:
            yield Check(f"runtime {name}", str(runtime["version"]))
        elif made := local.made_when_used(name):
            yield Check(f"runtime {name}", made)
        else:
            fix = runtime["install"] or "update or uninstall its package"  # a broken plug-in has no install command
            optional = "all" not in _extras()  # its package may be of an extra that the user did not choose
            yield Check(f"runtime {name}", str(runtime["reason"]), str(fix), optional)


def _disk(build: Store) -> Check:
    place = build.root if build.root.exists() else build.root.parent
    free = shutil.disk_usage(place).free
    fix = (
        None
        if free >= FREE_BYTES
        else f"free {(FREE_BYTES - free) >> 20} MB on the disk of {place}: inv clean, for example"
    )
    return Check("disk", f"{free / 1e9:.1f} GB free at {place}", fix)


def _tools() -> Iterator[Check]:
    for program, use, package in (
        ("git", "to work on this repository", "git"),
        ("adb", "to reach phones", "adb"),
    ):
        path = packages.find(program)
        fix = None if path else f"{use}: apt-get install {package}"
        yield Check(program, str(path or "not found"), fix, optional=True)
    for use, purpose in packages.PURPOSES.items():
        gone = packages.missing([use])
        found = f"not found: {', '.join(tool.program for tool in gone)}" if gone else "installed"
        yield Check(purpose, found, packages.install_line(gone) if gone else None, optional=True)


def _gpu() -> Iterator[Check]:
    if shutil.which("nvidia-smi") is None:
        yield Check("gpu", "none (no nvidia-smi), training runs on the CPU", optional=True)
        return
    done = proc.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], timeout=30)
    if done.code != 0:
        yield Check("gpu", done.reason, "fix the NVIDIA driver so that nvidia-smi works", optional=True)
        return
    yield Check("gpu", done.out.strip().replace("\n", "; "))
    for framework, (question, fix) in GPUS.items():
        count = (proc.run([sys.executable, "-c", question], timeout=120).out.split() or ["0"])[-1]
        yield Check(f"gpu for {framework}", f"{framework} sees {count}", fix if count == "0" else None, optional=True)


def _devices(build: Store) -> Iterator[Check]:
    for device in devices.devices().values():
        reason = device.unavailable(build)
        yield Check(f"device {device.name}", "available" if reason is None else "unavailable", reason, optional=True)
