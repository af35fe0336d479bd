"""Builds edge-bench's C++ runner for ExecuTorch, for this machine or (cross-compiled) for aarch64 boards.

The runner is compiled against the SDK in ExecuTorch's wheel, of the version that exports on this machine. It is packed
with that wheel's libraries as a Python package, so that boards get a folder like that of any other wheel:

    build/runner/<machine>-<hash>/executorch_runner/            __init__.py, librunner.so, libexecutorch*.so
    build/runner/<machine>-<hash>/executorch_runner-<version>.dist-info/
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import registry
from pipeline.errors import MissingExtra, StageFailed
from pipeline.system import packages, proc, store
from pipeline.system.progress import working
from pipeline.system.store import Store

SOURCE = Path(__file__).parent.parent.parent / "edge-bench" / "runner"
PACKAGE = "executorch_runner"
COMPILERS = {"aarch64": "aarch64-linux-gnu-g++", "x86_64": "g++"}
LIBRARIES = (
    "executorch",
    "executorch_backend_xnnpack",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_threadpool",
)
"""Libraries of the SDK that the runner needs. The quantized kernels run the operators that XNNPACK does not take."""
# Source: the SDK's executorch-config.cmake: EXECUTORCH_CXX_STANDARD, _COMPILE_DEFINITIONS and _INCLUDE_DIRS.
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_USE_THREADPOOL",
)  # fmt: skip
# no-as-needed: kernels and backends register themselves when they are loaded; nothing references their symbols.
LINKING = ("-Wl,--no-as-needed", "-Wl,--no-undefined", "-Wl,-rpath,$ORIGIN")
INCLUDES = ("include", "include/executorch/runtime/core/portable_type/c10")


def build(build_store: Store, arch: str) -> Path:
    """Builds the runner for an architecture ("x86_64", "aarch64"), if the source, the flags or ExecuTorch's version
    changed. It takes no lock: two builds at once make the same folder twice.

    Returns:
        A folder for the Python path of a machine of this architecture.

    Raises:
        NeedsTool: the compiler is not installed.
        MissingExtra: ExecuTorch is not installed.
        StageFailed: the architecture is not supported, or the compilation failed.
    """
    if arch not in COMPILERS:
        raise StageFailed(f"no ExecuTorch runner for {arch} (known: {', '.join(sorted(COMPILERS))})")
    version = registry.versions(("executorch",))["executorch"]
    if version == "none":
        raise MissingExtra("executorch", "executorch")
    compiler = _compiler(arch)
    key = store.digest([store.sha256(SOURCE), FLAGS, LINKING, LIBRARIES, version, arch, compiler])
    folder = build_store.root / "runner" / f"{arch}-{key[:16]}"
    if folder.is_dir():
        return folder
    with working(f"building the ExecuTorch {version} runner for {arch}"), store.atomic(folder) as new:
        new.mkdir()
        sdk = _sdk(arch, version, new / "sdk")
        _compile(compiler, sdk, new / PACKAGE)
        store.remove(new / "sdk")
        facts = new / f"{PACKAGE}-{version}.dist-info" / "METADATA"
        facts.parent.mkdir()
        facts.write_text(f"Metadata-Version: 2.1\nName: executorch-runner\nVersion: {version}\n")
    return folder


def _compiler(arch: str) -> str:
    """The compiler for an architecture: g++ for this machine's own, otherwise a cross compiler."""
    native = arch == platform.machine()
    packages.require("native" if native else "cross")
    return "g++" if native else COMPILERS[arch]


def _sdk(arch: str, version: str, into: Path) -> Path:
    """ExecuTorch's package with headers and libraries: the installed one, or that of a wheel for `arch`."""
    if arch == platform.machine():
        found = importlib.util.find_spec("executorch")
        folders = [Path(folder) for folder in (found and found.submodule_search_locations) or ()]
        return next(folder for folder in folders if (folder / "lib" / "libexecutorch.so").is_file())
    args = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(into), "--only-binary", ":all:"]
    args += ["--python-version", "3.11", "--python-platform", f"{arch}-manylinux_2_28", f"executorch=={version}"]
    done = proc.run([sys.executable, "-m", *args], timeout=900)
    if done.code != 0:
        raise StageFailed(f"cannot install the executorch {version} wheel for {arch}: {done.reason}")
    return into / "executorch"


def _compile(compiler: str, sdk: Path, package: Path) -> None:
    """Makes the package: the runner's library and those of the SDK."""
    package.mkdir()
    shutil.copy(SOURCE / "package.py", package / "__init__.py")
    for library in LIBRARIES:
        shutil.copy(sdk / "lib" / f"lib{library}.so", package)
    # As system headers, because -Werror is for our own code only.
    includes = [arg for folder in INCLUDES for arg in ("-isystem", str(sdk / folder))]
    argv: Sequence[str | Path] = [
        compiler, *FLAGS, *includes, SOURCE / "runner.cpp", "-o", package / "librunner.so", f"-L{package}", *LINKING,
        *(f"-l{library}" for library in LIBRARIES),
    ]  # fmt: skip
    done = proc.run(argv, timeout=300)
    if done.code != 0:
        error = next((line for line in done.err.splitlines() if "error" in line), done.reason)
        raise StageFailed(f"{compiler} cannot compile the runner: {error}")
