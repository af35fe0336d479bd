"""How many CPUs this process can keep busy. (edge-bench, which shares no code with the pipeline, has the same in its
cpus.py.)"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUP_FOLDER = Path("/sys/fs/cgroup")


def count() -> int:
    """The CPUs that this process may run on, or fewer if its cgroup limits its CPU time; at least one."""
    affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    allowed = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _quotas())]))


def _quotas() -> list[float]:
    """The CPUs' worth of time that each cgroup of this process and each of its parents allows.

    Sources: the kernel's cgroup-v2.rst (cpu.max: "QUOTA PERIOD" or "max PERIOD") and sched-bwc.rst (cgroup v1:
    cpu.cfs_quota_us, -1 for no limit, and cpu.cfs_period_us).
    """
    found = []
    for line in _lines(CGROUP):
        controllers, path = [*line.split(":", 2), "", ""][1:3]
        if not controllers:
            found += _limits(CGROUP_FOLDER, path, _of_version_2)
        elif "cpu" in controllers.split(","):
            found += _limits(CGROUP_FOLDER / controllers, path, _of_version_1)
            found += _limits(CGROUP_FOLDER / "cpu", path, _of_version_1)
    return found


def _limits(top: Path, path: str, read: Callable[[Path], float | None]) -> list[float]:
    """The limits of a cgroup and of its parents. In a container, the path may be the host's: then only `top` exists."""
    folder = top / path.lstrip("/")
    found = [read(place) for place in (folder, *folder.parents) if place == top or top in place.parents]
    return [limit for limit in found if limit is not None]


def _of_version_2(folder: Path) -> float | None:
    quota, _, period = (_lines(folder / "cpu.max") or [""])[0].partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _of_version_1(folder: Path) -> float | None:
    quota, period = (_lines(folder / f"cpu.cfs_{name}_us") or [""] for name in ("quota", "period"))
    return int(quota[0]) / int(period[0]) if quota[0].isdecimal() and period[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
