"""This machine: edge-bench as a subprocess, in this environment or, for some runtimes, in a separate one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from pipeline import registry
from pipeline.core import Device, Probe
from pipeline.devices import _edge_bench, _probe, _runner
from pipeline.errors import NeedsTool, StageFailed
from pipeline.system import proc, store
from pipeline.system.proc import Done
from pipeline.system.progress import working
from pipeline.system.store import Store

CHUNK: int | None = None
RUNTIMES: Mapping[str, str] = {}
DECODES = False
ROUTE: tuple[str, ...] = ()
PYTHON_APART = sys.executable if sys.version_info < (3, 12) else "3.11"
"""The Python of runtimes' separate environments: a path, or a version that uv finds or installs."""
UV = (sys.executable, "-m", "uv")


def unsupported(runtime: str) -> str | None:
    """See `DeviceKind.unsupported`."""
    return None


def made_when_used(runtime: str) -> str | None:
    """How a runtime that ./inv does not install is installed on first use; None for the others."""
    if runtime in _edge_bench.NATIVE:
        return "built on first use"
    return "installed into its own environment on first use" if _edge_bench.apart(runtime) else None


def describe(device: Device) -> str:
    """See `DeviceKind.describe`."""
    summary = device.options.get("summary", "this machine")
    return f"{summary} ({platform.machine()}, {platform.system()})"


def discover(build: Store, known: Sequence[Device]) -> Sequence[str]:
    """See `DeviceKind.discover`."""
    return ()


def unavailable(build: Store, device: Device) -> str | None:
    """See `DeviceKind.unavailable`."""
    return None


def exclusive(build: Store, device: Device) -> AbstractContextManager[None]:
    """See `DeviceKind.exclusive`: the lock on the build folder, so that nothing is made here during a measurement."""
    return store.lock(build, f"a measurement on {device.name}")


def setup(build: Store, device: Device, runtime: str) -> None:
    """See `DeviceKind.setup`: builds the runtime, or makes its separate environment.

    Raises:
        StageFailed: it could not be installed. The message has the installer's reason.
    """
    if runtime in _edge_bench.NATIVE:
        if platform.system() != "Linux":
            raise StageFailed(f"{runtime} is built on Linux only; on {platform.system()} use the runtime executorch")
        _runner.build(build, platform.machine())
        return
    python = _python(build, runtime)
    if not _edge_bench.apart(runtime) or _works(python):
        return
    package = f"{_edge_bench.HERE}[{runtime}]"
    what = f"installing edge-bench with {runtime} into {python.parent.parent}"
    lock = store.lock(Store(python.parents[2]), f"installing {runtime}")
    with lock, working(what), store.atomic(python.parent.parent) as folder:
        _run([*UV, "venv", "--quiet", "--python", PYTHON_APART, folder])
        _run([*UV, "pip", "install", "--quiet", "--python", folder / "bin/python", package])


def hardware(build: Store, device: Device) -> str:
    """See `DeviceKind.hardware`: the processor's name and its number of cores."""
    return f"{_processor()}, {os.cpu_count()} cores"


@cache
def _processor() -> str:
    """The processor's name, or on ARM the part numbers of its cores. Source: proc(5), cpuinfo; sysctl(8) of macOS."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        named = proc.run(["sysctl", "-n", "machdep.cpu.brand_string"], timeout=30).out.strip()
        return named or platform.machine()
    fields = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    names = [value for key, value in fields if key == "model name"]
    parts = [value for key, value in fields if key == "CPU part"]
    return " + ".join(dict.fromkeys(names or parts)) or platform.machine()


def identity(build: Store, device: Device, runtime: str) -> str:
    """See `DeviceKind.identity`: for this environment, that includes the versions that are installed."""
    installed = () if _edge_bench.apart(runtime) else _edge_bench.packages(runtime)
    offer = _edge_bench.outside(runtime)
    code = registry.outside_hash(offer) if offer else None
    return store.digest([_edge_bench.identity(runtime), code, registry.versions(installed)])


def push(build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """See `DeviceKind.push`: nothing to send."""
    return {path: str(path) for path in files}, 0


def call(build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    """See `DeviceKind.call`."""
    env = {"PYTHONHASHSEED": "0"}  # as on a board: dictionary look-ups then take the same steps in every process
    if runtime in _edge_bench.NATIVE:
        env |= _with_path(_runner.build(build, platform.machine()))
    return proc.run([_python(build, runtime), "-m", "edge_bench", *words], timeout=timeout, env=env)


def clean(build: Store, device: Device) -> int:
    """See `DeviceKind.clean`: nothing was sent."""
    return 0


def probe(build: Store, device: Device) -> Probe:
    """See `DeviceKind.probe`."""
    with exclusive(build, device):
        done = proc.run([sys.executable, _probe.MACHINE, build.root], timeout=_probe.SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: the probe failed: {done.reason}")
    model, system, found = _probe.of_machine(done.out)
    return _probe.made(device, hardware(build, device), model, system, found, [platform.node()])


def _python(build: Store, runtime: str) -> Path:
    """The interpreter of the environment that contains the runtime."""
    if not _edge_bench.apart(runtime):
        return Path(sys.executable)
    name = f"{runtime}-{_edge_bench.identity(runtime)[:16]}"  # each version of edge-bench gets its own environment
    return build.root / "environments" / name / "bin" / "python"


def _with_path(folder: Path) -> dict[str, str]:
    """Environment variables with which Python also imports from a folder."""
    own = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{own}" if own else str(folder)}


def _works(python: Path) -> bool:
    return python.is_file() and subprocess.run(
        [python, "-c", "import edge_bench"], check=False, capture_output=True
    ).returncode == 0  # fmt: skip


def _run(argv: Sequence[str | Path]) -> None:
    try:
        done = proc.run(argv, timeout=900)
    except NeedsTool as error:
        raise StageFailed(str(error)) from error
    if done.code != 0:
        raise StageFailed(f"{' '.join(done.argv[:4])} … failed: {done.reason}")
