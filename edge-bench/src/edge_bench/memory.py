"""This process's memory, from the kernel's own account of it."""

from __future__ import annotations

from pathlib import Path


def _status_bytes(key: str) -> int | None:
    """One entry of /proc/self/status in bytes; None where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024  # the kernel writes kB and means KiB
    return None


def peak_rss_bytes() -> int | None:
    """The most resident memory this process ever had, in bytes.

    VmHWM and not getrusage's ru_maxrss: that one survives fork and exec, so a child of a large parent reports
    the parent's peak. VmHWM belongs to the address space and starts anew at exec.
    """
    return _status_bytes("VmHWM")


def rss_bytes() -> int | None:
    """The resident memory of this process now, in bytes."""
    return _status_bytes("VmRSS")
