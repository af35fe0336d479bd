"""This process's memory, as the system reports it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """The peak resident memory of this process, in bytes.

    On Linux, it is VmHWM and not getrusage's ru_maxrss, which survives fork and exec: a child of a large process would
    report its parent's peak. VmHWM is reset by exec. On other systems, it is ru_maxrss. Source: getrusage(2); macOS
    counts it in bytes, Linux in KiB.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rss_bytes() -> int:
    """The current resident memory of this process, in bytes; the peak so far if the system reports only that."""
    return _status_bytes("VmRSS") or _ps_bytes() or peak_rss_bytes()


def _status_bytes(key: str) -> int | None:
    """An entry of /proc/self/status, in bytes; None on systems without /proc."""
    try:
        lines = STATUS.read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024  # the kernel writes kB and means KiB
    return None


def _ps_bytes() -> int | None:
    """The resident memory as ps reports it. Source: ps(1) of macOS: rss is in units of 1024 bytes."""
    argv = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(done.stdout) * 1024 if done.returncode == 0 and done.stdout.strip().isdigit() else None
