"""The CPUs that this process may use, and pinning it to some of them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Callable

from .errors import BadCpus

CGROUP = Path("/proc/self/cgroup")
CGROUP_FOLDER = Path("/sys/fs/cgroup")


def allowed() -> set[int]:
    """The CPUs that this process may run on; on systems without affinity (macOS), all of them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def count() -> int:
    """How many CPUs this process can keep busy: those it may run on, or fewer if its cgroup limits its CPU time."""
    quota = _quota()
    return max(1, min(len(allowed()), int(quota) if quota is not None else len(allowed())))


def parse(text: str) -> list[int]:
    """The CPUs of a list such as "0-3,6", as taskset and the kernel write it.

    Raises:
        ValueError: it is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last if dash else first).isdecimal()):
            raise ValueError(text)
        low, high = int(first), int(last or first)
        if low > high or high >= 1 << 16:
            raise ValueError(text)
        found.update(range(low, high + 1))
    return sorted(found)


def text(cpus: Collection[int]) -> str:
    """CPUs as a list such as "0-3,6"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def pin(cpus: Collection[int]) -> None:
    """Restricts this process, and every thread that it starts from now on, to these CPUs.

    Raises:
        BadCpus: the process may not run on one of them, or the system cannot pin a process.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise BadCpus("--cpus: this system cannot pin a process to CPUs")
    missing = set(cpus) - allowed()
    if missing:
        raise BadCpus(f"--cpus {text(cpus)}: this process may use CPUs {text(allowed())}, not {text(missing)}")
    os.sched_setaffinity(0, cpus)


def _quota() -> float | None:
    """The CPUs' worth of time that the cgroups of this process allow, the lowest limit of them and their parents.

    Sources: the kernel's cgroup-v2.rst (cpu.max: "QUOTA PERIOD" or "max PERIOD") and sched-bwc.rst (cgroup v1:
    cpu.cfs_quota_us, -1 for no limit, and cpu.cfs_period_us).
    """
    limits = []
    for line in _lines(CGROUP):
        controllers, path = [*line.split(":", 2), "", ""][1:3]
        if not controllers:
            limits += _limits(CGROUP_FOLDER, path, _of_version_2)
        elif "cpu" in controllers.split(","):
            limits += _limits(CGROUP_FOLDER / controllers, path, _of_version_1)
            limits += _limits(CGROUP_FOLDER / "cpu", path, _of_version_1)
    return min(limits, default=None)


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
