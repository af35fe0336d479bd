"""The hardware and the state of this machine, as the system reports them. None for what it does not report.

Linux has files for them, macOS the program sysctl.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__, cpus

POLICIES = Path("/sys/devices/system/cpu/cpufreq")
CPU_INFO = Path("/proc/cpuinfo")
THERMAL_FOLDER = Path("/sys/class/thermal")
PLATFORM = Path("/sys/devices/platform")
CAPACITIES = Path("/sys/devices/system/cpu")
BOARD_FILES = (
    Path("/proc/device-tree/model"),  # a Raspberry Pi and similar boards
    Path("/sys/class/dmi/id/product_name"),  # a PC
    Path("/sys/class/dmi/id/board_name"),
)
# Source: the kernel's arch/arm64/include/asm/cputype.h; on ARM, /proc/cpuinfo contains only numbers.
ARM = "0x41"
IMPLEMENTERS = {
    "0x42": "Broadcom",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x53": "Samsung",
    "0x61": "Apple",
    "0xc0": "Ampere",
}
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd0e": "Cortex-A76AE",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4b": "Cortex-A78C",
    "0xd4c": "Cortex-X1C",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
    "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725",
}


def device() -> dict[str, Any]:
    """Facts that stay the same during a run: board, cpu, cores, memory_bytes, os, kernel, arch, governor, …

    cores is the number of CPUs that this process can keep busy, and cpus those that it may run on; isolated are the
    CPUs that the kernel keeps free of other work, and cpu_limit is the CPUs' worth of time that its cgroup allows.
    governor and cpu have the values of all clusters.
    """
    groups = _clusters()
    governors = dict.fromkeys(one for group in groups for one in group.governors)
    return {
        "board": board(),
        "cpu": " + ".join(dict.fromkeys(group.name for group in groups if group.name)) or _other_cpu(),
        "cores": cpus.count(),
        "cpus": cpus.text(cpus.allowed()),
        "isolated": cpus.text(cpus.isolated()) or None,
        "cpu_limit": cpus.limit(),
        "memory_bytes": memory_bytes(),
        "os": operating_system(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "governor": " / ".join(governors) or None,
        "frequency_max_hz": max((group.max_hz for group in groups if group.max_hz), default=None),
        "clusters": [
            {
                "cpus": cpus.text(group.cpus),
                "cpu": group.name,
                "governor": " / ".join(group.governors) or None,
                "frequency_max_hz": group.max_hz,
            }
            for group in groups
        ],
    }


def state() -> dict[str, Any]:
    """Facts that change: temperature_c, frequency_hz (of each cluster, that of its fastest CPU), load_average (runnable
    tasks over one minute), throttled."""
    return {
        "temperature_c": temperature_c(),
        "frequency_hz": [
            hertz
            for group in _clusters()
            if (hertz := max((_hertz(policy / "scaling_cur_freq") or 0 for policy in group.policies), default=0))
        ],
        "load_average": round(os.getloadavg()[0], 2),
        "throttled": throttled(),
    }


@dataclass
class _Cluster:
    """CPUs of one kind: the same name, highest frequency and capacity."""

    name: str | None
    max_hz: int | None
    cpus: list[int] = field(default_factory=list)
    policies: list[Path] = field(default_factory=list)

    @property
    def governors(self) -> list[str]:
        found = (read(policy / "scaling_governor") for policy in self.policies)
        return list(dict.fromkeys(governor for governor in found if governor))


def _clusters() -> list[_Cluster]:
    """The clusters of CPUs, in the order of their first CPU. Empty where the system lists no CPUs (macOS).

    A policy of the kernel's cpufreq is a set of CPUs that share a clock; on a PC, that is often a single one.
    """
    names = _names()
    policy_of: dict[int, Path] = {}
    for policy in POLICIES.glob("policy*"):
        related = (read(policy / "related_cpus") or read(policy / "affected_cpus") or "").split()
        policy_of.update({int(cpu): policy for cpu in related if cpu.isdecimal()})
    found: dict[tuple[str | None, int | None, str | None], _Cluster] = {}
    for cpu in sorted({*names, *policy_of}):
        of = policy_of.get(cpu)
        name, max_hz = names.get(cpu), _hertz(of / "cpuinfo_max_freq") if of else None
        capacity = read(CAPACITIES / f"cpu{cpu}/cpu_capacity")  # tells kinds of cores apart where no clock does
        cluster = found.setdefault((name, max_hz, capacity), _Cluster(name, max_hz))
        cluster.cpus.append(cpu)
        if of and of not in cluster.policies:
            cluster.policies.append(of)
    return list(found.values())


def _names() -> dict[int, str | None]:
    """The name of every CPU that is online."""
    found: dict[int, str | None] = {}
    for block in (read(CPU_INFO) or "").split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        number, part = fields.get("processor", ""), fields.get("CPU part")
        if number.isdecimal():
            found[int(number)] = fields.get("model name") or (
                _arm(fields.get("CPU implementer"), part) if part else None
            )
    return found


def _arm(implementer: str | None, part: str) -> str:
    """The name of a core. Each implementer numbers its own parts."""
    if implementer in (None, ARM):
        return ARM_PARTS.get(part, f"ARM part {part}")
    return f"{IMPLEMENTERS.get(str(implementer), f'implementer {implementer}')} part {part}"


def tools(distributions: Iterable[str] = ()) -> dict[str, str | None]:
    """The versions of Python, edge-bench, numpy, the given distributions, and torch if it is loaded."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "edge-bench": __version__}
    loaded = ["torch"] if "torch" in sys.modules else []
    for name in ["numpy", *loaded, *distributions]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def board() -> str | None:
    """The model name of the board, PC or Mac, from its device tree or firmware."""
    return next(filter(None, map(read, BOARD_FILES)), None) or _sysctl("hw.model")


def _other_cpu() -> str | None:
    """The processor's name where /proc/cpuinfo has none."""
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or None


def memory_bytes() -> int | None:
    """The system's total memory, in bytes."""
    for line in (read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    told = _sysctl("hw.memsize")
    return int(told) if told and told.isdigit() else None


def operating_system() -> str:
    """The full name of the distribution or of macOS, or the kernel's name and release."""
    for line in (read(Path("/etc/os-release")) or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    mac = platform.mac_ver()[0]
    if mac:
        return f"macOS {mac}"
    return f"{platform.system()} {platform.release()}"


def temperature_c() -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    readings = [read(zone / "temp") for zone in sorted(THERMAL_FOLDER.glob("thermal_zone*"))]
    celsius = [int(reading) / 1000 for reading in readings if reading and reading.lstrip("-").isdigit()]
    return max(celsius, default=None)


def throttled() -> str | None:
    """A Raspberry Pi's throttling bits in hexadecimal ("0x0": never since boot); None on other boards.

    Sources: the vcgencmd manual; for systems without vcgencmd or without access to it, the attribute get_throttled of
    drivers/firmware/raspberrypi.c in Raspberry Pi's kernel. `throttling.BITS` names the bits.
    """
    key, _, value = (_printed("vcgencmd", "get_throttled") or "").partition("=")
    if key != "throttled":
        value = next(filter(None, map(read, sorted(PLATFORM.glob("soc*/*/get_throttled")))), "")
    return hex(int(value, 16)) if re.fullmatch(r"(0x)?[0-9a-fA-F]+", value) else None


def _hertz(path: Path) -> int | None:
    kilohertz = read(path)
    return int(kilohertz) * 1000 if kilohertz and kilohertz.isdigit() else None


def read(path: Path) -> str | None:
    """The content of a small file of the kernel; None if it is missing, empty or unreadable (as some sensors are)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl(8). Linux has a program of that name, with other keys; it is not called."""
    return None if Path("/proc/sys").exists() else _printed("sysctl", "-n", name)


def _printed(program: str, *arguments: str) -> str | None:
    """What a program prints; None where it is missing, fails or prints nothing."""
    found = shutil.which(program)
    if found is None:
        return None
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
