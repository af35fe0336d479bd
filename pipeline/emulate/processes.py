"""Processes that outlive the command that started them, told apart from later ones that get the same number."""

from __future__ import annotations

import time

from pipeline.system import proc


def runs(pid: int, began: int | None) -> bool:
    """Whether that very process lives."""
    return began is not None and proc.began(pid) == began


def wait_for_end(pid: int, began: int | None, seconds: float) -> None:
    """Returns when the process has ended, or the time is up."""
    end = time.monotonic() + seconds
    while runs(pid, began) and time.monotonic() < end:
        time.sleep(0.05)
