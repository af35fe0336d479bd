"""Programs of the operating system that some commands need: the only place that names them, and installs them."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import NeedsTool
from pipeline.system import proc
from pipeline.system.progress import say, working


@dataclass(frozen=True)
class Tool:
    """A program.

    Attributes:
        package: the Debian package that contains it.
        uses: what needs it; see PURPOSES.
        serves: the package starts a service where the system manages services.
    """

    program: str
    package: str
    uses: tuple[str, ...]
    serves: bool = False


TOOLS = (
    Tool("qemu-system-aarch64", "qemu-system-arm", ("emulate",)),
    Tool("mke2fs", "e2fsprogs", ("emulate",)),
    Tool("debugfs", "e2fsprogs", ("emulate",)),
    Tool("fdtput", "device-tree-compiler", ("emulate",)),
    Tool("ssh", "openssh-client", ("boards", "emulate")),
    Tool("ssh-keygen", "openssh-client", ("emulate",)),
    Tool("apt-get", "apt", ("emulate", "phone")),
    Tool("dpkg-deb", "dpkg", ("emulate", "phone")),
    Tool("adb", "adb", ("phones", "phone")),
    Tool("unshare", "util-linux", ("phone",)),
    Tool("mount", "mount", ("phone",)),
    Tool("ip", "iproute2", ("phone",)),
    Tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu", ("cross",)),
    Tool("g++", "g++", ("native",)),
    Tool("java", "openjdk-17-jdk-headless", ("android", "phone")),
    Tool("javac", "openjdk-17-jdk-headless", ("android", "phone")),
    Tool("keytool", "openjdk-17-jdk-headless", ("android",)),
    Tool("mvn", "maven", ("android",)),
    Tool("npm", "npm", ("android",)),
    Tool("aapt2", "aapt", ("android", "phone")),
    Tool("zipalign", "zipalign", ("android",)),
    Tool("apksigner", "apksigner", ("android", "phone")),
    Tool("sshd", "openssh-server", ("tests",), serves=True),
)
PURPOSES = {
    "boards": "boards over SSH",
    "emulate": "emulated boards",
    "phones": "phones over adb",
    "phone": "the emulated phone",
    "cross": "runners for aarch64",
    "native": "runners for x86-64",
    "android": "the Android app",
    "tests": "tests of boards",
}
"""The uses, and their names in `inv doctor`."""

TESTED = {
    "torch": "torch", "litert_torch": "tflite", "executorch": "executorch", "coremltools": "coreml",
    "onnxruntime": "onnx", "tensorflow": "keras",
}  # fmt: skip
"""A Python package of each extra that the tests need, and the extra."""

SBIN = ("/usr/sbin", "/sbin")
"""Where Debian keeps mke2fs and debugfs; only root has these folders on the PATH."""

SERVICES = Path("/run/systemd/system")
"""Exists where systemd runs, which starts services once they are installed. Source: sd_booted(3)."""


def find(program: str) -> Path | None:
    """The path of a program; None where it is not installed."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN]))
    return Path(found) if found else None


def nvidia_driver() -> bool:
    """Whether this machine has an NVIDIA driver whose GPUs are not hidden from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/version").exists() or find("nvidia-smi") is not None)


def missing(uses: Iterable[str] = tuple(PURPOSES)) -> list[Tool]:
    """The programs for these uses that are not installed."""
    wanted = set(uses)
    return [tool for tool in TOOLS if wanted & set(tool.uses) and find(tool.program) is None]


def install_line(tools: Sequence[Tool]) -> str:
    """The command with which root installs them."""
    return f"apt-get install --no-install-recommends {' '.join(_packages(tools))}"


def require(use: str) -> None:
    """
    Raises:
        NeedsTool: programs are missing; each is named, and the line that installs them.
    """
    gone = missing([use])
    if gone:
        raise NeedsTool(_not_found(gone))


def install(uses: Iterable[str] = tuple(PURPOSES)) -> None:
    """Prints a line and installs missing programs where this user may: as root, or with sudo that asks for no password.

    Only `inv test` may call it; a test enforces that.

    Raises:
        NeedsTool: this user may not, or the installation failed.
    """
    uses = tuple(uses)
    gone = missing(uses)
    if not gone:
        return
    prefix = _as_root()
    # Running tests must not open an SSH server on the user's machine.
    opens = SERVICES.is_dir() and any(tool.serves for tool in gone)
    if prefix is None or opens or find("apt-get") is None:
        raise NeedsTool(_not_found(gone))
    say(f"system packages are missing; running as root: {install_line(gone)}")
    silent = {"DEBIAN_FRONTEND": "noninteractive"}
    with working(f"installing {', '.join(_packages(gone))}"):
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *_packages(gone)]):
            done = proc.run([*prefix, "apt-get", "--quiet", *words], timeout=900, env=silent)
            if done.code != 0:
                raise NeedsTool(f"apt-get {words[0]} failed ({done.reason}); as root: {install_line(gone)}")
    require_all(uses)


def require_all(uses: Iterable[str]) -> None:
    """As `require`, for several uses."""
    for use in uses:
        require(use)


def _not_found(gone: Sequence[Tool]) -> str:
    """Names the programs and the command that installs them, which on macOS is that of another system."""
    who = "as root" if platform.system() == "Linux" else "on Debian or Ubuntu"
    return f"{', '.join(tool.program for tool in gone)} not found; {who}: {install_line(gone)}"


def _as_root() -> list[str] | None:
    """Arguments before a command that root runs; None where this user may not."""
    if os.geteuid() == 0:
        return []
    if find("sudo") is not None and proc.run(["sudo", "-n", "true"], timeout=30).code == 0:
        return ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    return None


def _packages(tools: Sequence[Tool]) -> list[str]:
    return sorted({tool.package for tool in tools})
