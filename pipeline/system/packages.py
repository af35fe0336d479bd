"""Programs of the operating system that some commands need: named here and nowhere else, installed where we may."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import NeedsTool
from pipeline.system import proc
from pipeline.system.progress import working


@dataclass(frozen=True)
class Tool:
    """A program.

    Attributes:
        package: Debian's package that brings it.
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
"""The uses, and how `inv doctor` calls them."""

SBIN = ("/usr/sbin", "/sbin")
"""Where Debian keeps mke2fs and debugfs, which other users than root do not have on their PATH."""

SERVICES = Path("/run/systemd/system")
"""A folder that is there where systemd starts what is installed. Source: sd_booted(3)."""


def find(program: str) -> Path | None:
    """Where a program is; None where it is not."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN]))
    return Path(found) if found else None


def nvidia_driver() -> bool:
    """Whether an NVIDIA driver is here, and its GPUs are not hidden from this process."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (Path("/proc/driver/nvidia/version").exists() or find("nvidia-smi") is not None)


def missing(uses: Iterable[str] = tuple(PURPOSES)) -> list[Tool]:
    """What of the programs for these uses is not here."""
    wanted = set(uses)
    return [tool for tool in TOOLS if wanted & set(tool.uses) and find(tool.program) is None]


def install_line(tools: Sequence[Tool]) -> str:
    """What root types to get them."""
    return f"apt-get install --no-install-recommends {' '.join(_packages(tools))}"


def require(use: str) -> None:
    """
    Raises:
        NeedsTool: programs are missing; each is named, and the line that installs them.
    """
    gone = missing([use])
    if gone:
        raise NeedsTool(f"{', '.join(t.program for t in gone)} not found; as root: {install_line(gone)}")


def install(uses: Iterable[str] = tuple(PURPOSES)) -> None:
    """Installs what is missing, where this user may: as root, or by sudo where it asks for no password.

    Raises:
        NeedsTool: this user may not, or the installation failed.
    """
    uses = tuple(uses)
    gone = missing(uses)
    if not gone:
        return
    line = install_line(gone)
    prefix = _as_root()
    # Nobody who runs tests means to open an SSH server on his machine.
    opens = SERVICES.is_dir() and any(tool.serves for tool in gone)
    if prefix is None or opens or find("apt-get") is None:
        raise NeedsTool(f"{', '.join(t.program for t in gone)} not found; as root: {line}")
    silent = {"DEBIAN_FRONTEND": "noninteractive"}
    with working(f"installing {', '.join(_packages(gone))}"):
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *_packages(gone)]):
            done = proc.run([*prefix, "apt-get", "--quiet", *words], timeout=900, env=silent)
            if done.code != 0:
                raise NeedsTool(f"apt-get {words[0]} failed ({done.reason}); as root: {line}")
    require_all(uses)


def require_all(uses: Iterable[str]) -> None:
    """As `require`, for several uses."""
    for use in uses:
        require(use)


def _as_root() -> list[str] | None:
    """Words before a command that root runs; None where this user cannot."""
    if os.geteuid() == 0:
        return []
    if find("sudo") is not None and proc.run(["sudo", "-n", "true"], timeout=30).code == 0:
        return ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    return None


def _packages(tools: Sequence[Tool]) -> list[str]:
    return sorted({tool.package for tool in tools})
