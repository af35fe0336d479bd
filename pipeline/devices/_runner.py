"""Builds edge-bench's C++ runner for ExecuTorch: for this machine, and on this machine for aarch64 boards.

It is compiled against the SDK inside ExecuTorch's own wheel, of the version that exports here, and packed with that
wheel's libraries as a Python package, so that what a board gets is a folder like any other wheel's:

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
"""The SDK's parts that the runner needs; the quantized kernels run what XNNPACK leaves of a quantized model."""
# Source: the SDK's executorch-config.cmake: EXECUTORCH_CXX_STANDARD, _COMPILE_DEFINITIONS and _INCLUDE_DIRS.
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
    "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_USE_THREADPOOL",
)  # fmt: skip
# no-as-needed: kernels and backends register themselves when they are loaded; nothing in them is called by name.
LINKING = ("-Wl,--no-as-needed", "-Wl,--no-undefined", "-Wl,-rpath,$ORIGIN")
INCLUDES = ("include", "include/executorch/runtime/core/portable_type/c10")


def build(build_store: Store, arch: str) -> Path:
    """A folder to be put on a Python path of a machine of this architecture ("x86_64", "aarch64"); made when the
    source, the flags or ExecuTorch's version changed. It takes no lock: two at once make the same folder twice.

    Raises:
        NeedsTool: the compiler is missing.
        MissingExtra: ExecuTorch is not installed here.
        StageFailed: there is none for this architecture, or the compiler refuses; the reason is its own.
    """
    if arch not in COMPILERS:
        raise StageFailed(f"no ExecuTorch runner for {arch} (there is one for {', '.join(sorted(COMPILERS))})")
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
    """The program that compiles for an architecture: this machine's own compiler for its own."""
    native = arch == platform.machine()
    packages.require("native" if native else "cross")
    return "g++" if native else COMPILERS[arch]


def _sdk(arch: str, version: str, into: Path) -> Path:
    """The folder of ExecuTorch's package with headers and libraries: the installed one, or another wheel's."""
    if arch == platform.machine():
        found = importlib.util.find_spec("executorch")
        places = [Path(place) for place in (found and found.submodule_search_locations) or ()]
        return next(place for place in places if (place / "lib" / "libexecutorch.so").is_file())
    words = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", str(into), "--only-binary", ":all:"]
    words += ["--python-version", "3.11", "--python-platform", f"{arch}-manylinux_2_28", f"executorch=={version}"]
    done = proc.run([sys.executable, "-m", *words], timeout=900)
    if done.code != 0:
        raise StageFailed(f"the wheel of executorch {version} for {arch} cannot be had: {done.reason}")
    return into / "executorch"


def _compile(compiler: str, sdk: Path, package: Path) -> None:
    """The package: our library, and the SDK's beside it."""
    package.mkdir()
    shutil.copy(SOURCE / "package.py", package / "__init__.py")
    for library in LIBRARIES:
        shutil.copy(sdk / "lib" / f"lib{library}.so", package)
    # System headers: warnings are errors in our code, not in theirs.
    includes = [word for folder in INCLUDES for word in ("-isystem", str(sdk / folder))]
    words: Sequence[str | Path] = [
        compiler, *FLAGS, *includes, SOURCE / "runner.cpp", "-o", package / "librunner.so", f"-L{package}", *LINKING,
        *(f"-l{library}" for library in LIBRARIES),
    ]  # fmt: skip
    done = proc.run(words, timeout=300)
    if done.code != 0:
        told = next((line for line in done.err.splitlines() if "error" in line), done.reason)
        raise StageFailed(f"{compiler} refuses the runner: {told}")
