"""Emulated boards and phones, by the names that `inv devices.emulate --board` takes.

pi/ are whole aarch64 machines in QEMU over SSH, phone/ is a phone's end of adb with the app in a JVM.
"""

from __future__ import annotations

from pipeline.emulate import phone, pi
from pipeline.errors import UnknownName
from pipeline.system.store import Store

PHONE = phone.BOARD
"""The one that the app runs on: it has to be built first."""
BOARDS = (*pi.BOARDS, PHONE)


def boot(build: Store, board: str) -> str:
    """Starts one, unless it runs, and says in a line where it is reached.

    Raises:
        UnknownName, NeedsTool: there is no such board; something that it needs is missing.
        StageFailed: it did not come up.
    """
    if board == phone.BOARD:
        there = phone.boot(build)
        return f"adb over {there['socket']}"
    _known(board)
    there = pi.boot(build, board)
    return f"{there['user']}@{there['address']} port {there['port']}"


def stop(build: Store, board: str) -> bool:
    """Ends one. Returns whether it ran."""
    if board == phone.BOARD:
        return phone.stop(build)
    _known(board)
    return pi.stop(build, board)


def _known(board: str) -> None:
    if board not in BOARDS:
        raise UnknownName("board", board, BOARDS)
