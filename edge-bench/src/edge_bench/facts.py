"""The hardware and the state of this machine, as the system reports them. None for what it does not report.

Linux has files for them, macOS the program sysctl.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import __version__

CPU_FOLDER = Path("/sys/devices/system/cpu/cpu0/cpufreq")
THERMAL_FOLDER = Path("/sys/class/thermal")
BOARD_FILES = (
    Path("/proc/device-tree/model"),  # a Raspberry Pi and similar boards
    Path("/sys/class/dmi/id/product_name"),  # a PC
    Path("/sys/class/dmi/id/board_name"),
)
# Source: the kernel's arch/arm64/include/asm/cputype.h; on ARM, /proc/cpuinfo contains only numbers.
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
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}


def device() -> dict[str, Any]:
    """Facts that stay the same during a run: board, cpu, cores, memory_bytes, os, kernel, arch, governor, …"""
    return {
        "board": board(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "os": operating_system(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "governor": _read(CPU_FOLDER / "scaling_governor"),
        "frequency_max_hz": _hertz("cpuinfo_max_freq"),
    }


def state() -> dict[str, Any]:
    """Facts that change: temperature_c, frequency_hz, load_average (runnable tasks over one minute), throttled."""
    return {
        "temperature_c": temperature_c(),
        "frequency_hz": _hertz("scaling_cur_freq"),
        "load_average": round(os.getloadavg()[0], 2),
        "throttled": throttled(),
    }


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
    return next(filter(None, map(_read, BOARD_FILES)), None) or _sysctl("hw.model")


def cpu() -> str | None:
    """The processor's name; on ARM, that of its first core."""
    fields: dict[str, str] = {}
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    part = fields.get("CPU part")
    if part is None:
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or None
    return ARM_PARTS.get(part, f"ARM part {part}")


def memory_bytes() -> int | None:
    """The system's total memory, in bytes."""
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    told = _sysctl("hw.memsize")
    return int(told) if told and told.isdigit() else None


def operating_system() -> str:
    """The full name of the distribution or of macOS, or the kernel's name and release."""
    for line in (_read(Path("/etc/os-release")) or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'")
    mac = platform.mac_ver()[0]
    if mac:
        return f"macOS {mac}"
    return f"{platform.system()} {platform.release()}"


def temperature_c() -> float | None:
    """The hottest thermal zone, in degrees Celsius."""
    readings = [_read(zone / "temp") for zone in sorted(THERMAL_FOLDER.glob("thermal_zone*"))]
    celsius = [int(reading) / 1000 for reading in readings if reading and reading.lstrip("-").isdigit()]
    return max(celsius, default=None)


def throttled() -> str | None:
    """A Raspberry Pi's throttling bits in hexadecimal ("0x0": never since boot); None on other boards.

    Source: the vcgencmd manual: bits 0 to 3 are under-voltage, frequency capped, throttled and the soft temperature
    limit now; bits 16 to 19 the same since boot.
    """
    key, _, value = (_printed("vcgencmd", "get_throttled") or "").partition("=")
    return value if key == "throttled" else None


def _hertz(name: str) -> int | None:
    kilohertz = _read(CPU_FOLDER / name)
    return int(kilohertz) * 1000 if kilohertz and kilohertz.isdigit() else None


def _read(path: Path) -> str | None:
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
