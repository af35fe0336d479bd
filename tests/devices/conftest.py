"""Boards to test on: sshd of our own on the loopback, which is as good a Linux board as any."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import plugins
from pipeline.core import Device
from pipeline.devices import _ssh
from pipeline.store import Store

from .sshd import Board


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the runtimes' archives are made once for all tests."""
    return Store(tmp_path_factory.mktemp("wheels") / "build")


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that stays up. A test that harms its board takes `own_board`."""
    started = Board.start(tmp_path_factory.mktemp("board"))
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


@pytest.fixture(params=plugins.names("devices"))
def device(request: pytest.FixtureRequest) -> Device:
    """A device of every kind."""
    kind = request.param
    if kind == "local":
        return Device("local", "local")
    assert kind == "ssh", f"say here how to make a device of kind {kind}: every kind keeps the contract"
    made: Board = request.getfixturevalue("board")
    return made.device()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "lastmile-test", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a file system of its own needs root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)
