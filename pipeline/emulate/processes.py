"""Processes that outlive the command that started them. The start time tells them from later ones with the same PID."""

from __future__ import annotations

import time

from pipeline.system import proc


def runs(pid: int, began: int | None) -> bool:
    """Whether the process that began at this time is still running."""
    return began is not None and proc.began(pid) == began


def wait_for_end(pid: int, began: int | None, seconds: float) -> None:
    """Returns when the process has ended, or after so many seconds."""
    end = time.monotonic() + seconds
    while runs(pid, began) and time.monotonic() < end:
        time.sleep(0.05)
