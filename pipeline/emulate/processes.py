"""Processes that outlive the command that started them, told apart from later ones that get the same number."""

from __future__ import annotations

import time
from pathlib import Path


def started(pid: int) -> int | None:
    """When a process began, in ticks since this machine did; None where it is gone. Source: proc(5), stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def runs(pid: int, began: int | None) -> bool:
    """Whether that very process lives: a number is given to another process after a while, with another start."""
    return began is not None and started(pid) == began


def wait_for_end(pid: int, began: int | None, seconds: float) -> None:
    """Returns when the process has ended, or the time is up."""
    end = time.monotonic() + seconds
    while runs(pid, began) and time.monotonic() < end:
        time.sleep(0.05)
