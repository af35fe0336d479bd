"""The CPUs that this process may use, and pinning it to some of them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .errors import BadCpus

CGROUP = Path("/proc/self/cgroup")
CGROUP_FOLDER = Path("/sys/fs/cgroup")
ISOLATED = Path("/sys/devices/system/cpu/isolated")


def allowed() -> set[int]:
    """The CPUs that this process may run on; on systems without affinity (macOS), all of them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def isolated() -> set[int]:
    """The CPUs that the kernel's isolcpus keeps free of other work. It does not spread threads over them."""
    text = (_lines(ISOLATED) or [""])[0].strip()
    return set(parse(text)) if text else set()


def count() -> int:
    """How many CPUs this process can keep busy: those it may run on without the isolated ones, or fewer if its cgroup
    limits its CPU time."""
    free, most = len(allowed() - isolated()), limit()
    return max(1, free if most is None else min(free, int(most)))


def require_spread(cpus: Collection[int], threads: int) -> None:
    """
    Raises:
        BadCpus: the kernel does not spread several threads over these CPUs, because some are isolated.
    """
    alone = set(cpus) & isolated()
    if threads > 1 and alone:
        raise BadCpus(
            f"--cpus {text(cpus)}: CPUs {text(alone)} are isolated (isolcpus), so the kernel does not spread {threads} "
            "threads over them: use --threads 1, or other CPUs"
        )


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


def limit() -> float | None:
    """The CPUs' worth of time that the cgroups of this process allow, the lowest limit of them and their parents.

    Sources: the kernel's cgroup-v2.rst (cpu.max: "QUOTA PERIOD" or "max PERIOD") and sched-bwc.rst (cgroup v1:
    cpu.cfs_quota_us, -1 for no limit, and cpu.cfs_period_us).
    """
    limits = [_of_version_2(folder) for folder in _folders(2)] + [_of_version_1(folder) for folder in _folders(1)]
    return min((number for number in limits if number is not None), default=None)


def times_stopped() -> list[int]:
    """For each cgroup of this process: in how many periods it used up its CPU time and was stopped. Sources: as
    `limit`: nr_throttled of cpu.stat."""
    found = []
    for folder in [*_folders(2), *_folders(1)]:
        for line in _lines(folder / "cpu.stat"):
            key, _, value = line.partition(" ")
            if key == "nr_throttled" and value.isdecimal():
                found.append(int(value))
    return found


def _folders(version: int) -> list[Path]:
    """The folders of the cgroups of this process that may limit CPU time, and of their parents, once each."""
    found: list[Path] = []
    for line in _lines(CGROUP):
        controllers, path = [*line.split(":", 2), "", ""][1:3]
        if not controllers and version == 2:
            found += _upwards(CGROUP_FOLDER, path)
        elif "cpu" in controllers.split(",") and version == 1:
            found += [*_upwards(CGROUP_FOLDER / controllers, path), *_upwards(CGROUP_FOLDER / "cpu", path)]
    return list({str(folder.resolve()): folder for folder in found}.values())


def _upwards(top: Path, path: str) -> list[Path]:
    """A cgroup and its parents. In a container, the path may be the host's: then only `top` exists."""
    folder = top / path.lstrip("/")
    return [place for place in (folder, *folder.parents) if place == top or top in place.parents]


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
