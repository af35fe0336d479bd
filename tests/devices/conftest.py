"""Devices to test on: sshd on the loopback address as a Linux board, the emulated board, and the emulated phone."""

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
    """A store in which the runtimes' archives are built once for all tests."""
    return Store(tmp_path_factory.mktemp("wheels") / "build")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that all tests share. A test that changes its board uses `own_board`."""
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
        build: the store from which it is used.
        sha256: hash of a file on the device, by its path there.
        target: whose files it runs in tests. On emulated devices, the runtime that starts fastest.
    """

    device: Device
    build: Store
    sha256: Callable[[str], str]
    target: str = "onnx"


@pytest.fixture(params=[*registry.names("devices"), EMULATED])
def place(request: pytest.FixtureRequest, wheels: Store) -> Place:
    """A device of each kind."""
    kind = request.param

    def local_sha256(path: str) -> str:
        return store.sha256(Path(path))

    def remote_sha256(path: str) -> str:
        shell = emulated.run if kind == EMULATED else phone.shell
        return shell(f"sha256sum {shlex.quote(path)}").split()[0].lstrip("\\")

    if kind == "local":
        return Place(Device("local", "local"), wheels, local_sha256)
    if kind == EMULATED:
        emulated: EmulatedBoard = request.getfixturevalue("board")
        return Place(EMULATED_DEVICE, emulated.build, remote_sha256, "executorch")
    if kind == "adb":
        phone: Phone = request.getfixturevalue("phone")
        return Place(PHONE, phone.build, remote_sha256, "executorch")
    assert kind == "ssh", f"add a device of kind {kind} here: every kind keeps the contract"
    loopback: Board = request.getfixturevalue("loopback")
    return Place(loopback.device(), wheels, local_sha256)
