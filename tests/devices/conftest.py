"""Boards to test on: sshd of our own on the loopback, which is as good a Linux board as any."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Device
from pipeline.devices import _ssh
from pipeline.system import store
from pipeline.system.store import Store
from tests.boards import Board as EmulatedBoard
from tests.phones import DEVICE as PHONE
from tests.phones import Phone

from .sshd import Board

EMULATED = "ssh, emulated"
EMULATED_DEVICE = Device("pi4-emulated", "ssh", True, {"board": "pi4", "clock": "instructions"})


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the runtimes' archives are made once for all tests."""
    return Store(tmp_path_factory.mktemp("wheels") / "build")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that stays up. A test that harms its board takes `own_board`."""
    started = Board.start(tmp_path_factory.mktemp("loopback"))
    yield started
    _ssh.close_all()
    started.stop()


@pytest.fixture
def own_board(tmp_path: Path) -> Iterator[Board]:
    """A board for one test."""
    started = Board.start(tmp_path / "own-board")
    yield started
    _ssh.close_all()
    started.stop()


@dataclass(frozen=True)
class Place:
    """A device under test.

    Attributes:
        build: the store that it is used from.
        sha256: of a file on it.
        target: whose files it runs in tests; an emulated board's is that of the runtime that starts soonest.
    """

    device: Device
    build: Store
    sha256: Callable[[str], str]
    target: str = "onnx"


@pytest.fixture(params=[*registry.names("devices"), EMULATED])
def place(request: pytest.FixtureRequest, wheels: Store) -> Place:
    """A device of every kind."""
    kind = request.param
    here = lambda path: store.sha256(Path(path))  # noqa: E731
    if kind == "local":
        return Place(Device("local", "local"), wheels, here)
    if kind == EMULATED:
        emulated: EmulatedBoard = request.getfixturevalue("board")
        there = lambda path: emulated.run(f"sha256sum {shlex.quote(path)}").split()[0].lstrip("\\")  # noqa: E731
        return Place(EMULATED_DEVICE, emulated.build, there, "executorch")
    if kind == "adb":
        phone: Phone = request.getfixturevalue("phone")
        seen = lambda path: phone.shell(f"sha256sum {shlex.quote(path)}").split()[0].lstrip("\\")  # noqa: E731
        return Place(PHONE, phone.build, seen, "executorch")
    assert kind == "ssh", f"say here how to make a device of kind {kind}: every kind keeps the contract"
    loopback: Board = request.getfixturevalue("loopback")
    return Place(loopback.device(), wheels, here)
