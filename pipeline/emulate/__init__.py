"""Emulated boards and phones, by the names that `inv devices.emulate --board` accepts.

pi/ emulates whole aarch64 machines in QEMU, reached over SSH. phone/ runs a phone's adbd, with the app in a JVM.
"""

from __future__ import annotations

from pipeline.emulate import phone, pi
from pipeline.errors import UnknownName
from pipeline.system.store import Store

PHONE = phone.BOARD
"""The emulated phone. It requires the app, which has to be built first."""
BOARDS = (*pi.BOARDS, PHONE)


def boot(build: Store, board: str) -> str:
    """Starts a board, unless it is running. Returns its address, as one line of text.

    Raises:
        UnknownName: there is no such board.
        NeedsTool: a program that it requires is missing.
        StageFailed: it did not boot.
    """
    if board == phone.BOARD:
        state = phone.boot(build)
        return f"adb over {state['socket']}"
    _check(board)
    endpoint = pi.boot(build, board)
    return f"{endpoint['user']}@{endpoint['address']} port {endpoint['port']}"


def stop(build: Store, board: str) -> bool:
    """Stops a board. Returns whether it was running."""
    if board == phone.BOARD:
        return phone.stop(build)
    _check(board)
    return pi.stop(build, board)


def running(build: Store) -> list[str]:
    """The boards that are running."""
    endpoints = {board: phone.endpoint(build) if board == PHONE else pi.endpoint(build, board) for board in BOARDS}
    return [board for board, endpoint in endpoints.items() if not isinstance(endpoint, str)]


def _check(board: str) -> None:
    if board not in BOARDS:
        raise UnknownName("board", board, BOARDS)
