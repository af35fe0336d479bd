"""Faults on an emulated board, most through the door: each ends in one line that says what happened and what to do.

The board is booted anew where its power is cut, and then believes that it is 2001. Tests that break its system mend it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import Measurement
from pipeline.devices import _ssh, ssh
from pipeline.emulate import pi
from pipeline.errors import Unreachable
from pipeline.system import store
from pipeline.system.store import Store
from tests.boards import Board
from tests.cli import Done, Running, inv

from .conftest import EMULATED_DEVICE
from .sshd import key
from .test_ssh import until

QUICK = ("--min-runs", "3", "--min-seconds", "0")
SAMPLES, CHUNK = 504, 200
LARGE = 24 << 20
LOST = "pi4-emulated: the connection was lost; run the same command again: what is finished is kept"
DOWN = "pi4-emulated: it does not run; start it: inv devices.emulate --board pi4"


@dataclass(frozen=True)
class Desk:
    """A person's build folder, from which the board is used.

    Attributes:
        devices: a devices.toml in which the board evaluates a few samples in one go.
    """

    build: Path
    tiny: Path
    devices: Path

    def bench(self, *words: str, recipe: str = "fp32") -> tuple[object, ...]:
        return (*self.words("bench", recipe), *QUICK, *words)

    def words(self, verb: str, recipe: str = "fp32") -> tuple[object, ...]:
        named = ("--model", self.tiny, "--target", "executorch", "--recipe", recipe, "--device", "pi4-emulated")
        return (verb, *named)

    def inv(self, *words: object) -> Done:
        return inv(self.build, *words, LASTMILE_DEVICES=str(self.devices))

    def running(self, *words: object) -> Running:
        return Running(self.build, *words, LASTMILE_DEVICES=str(self.devices))

    def folder(self, recipe: str = "fp32") -> Path:
        """Where the measurement is."""
        return self.build / "tiny.torch" / recipe / "executorch" / "pi4-emulated"

    def measurement(self, recipe: str = "fp32") -> Measurement:
        found = store.read(Measurement, self.folder(recipe) / "measurement.json")
        assert found is not None
        return found


TABLE = """
[pi4-emulated]
kind = "ssh"
board = "pi4"
emulated = true
clock = "instructions"
chunk_samples = {chunk}
cool_down_c = 40
"""


def make_desk(folder: Path, matrix: Store, board: Board, tiny: Path) -> Desk:
    home = matrix.root / "tiny.torch"
    for part in ("checkpoint", "graphs", "fp32/executorch", "int8/executorch", "int8/graphs"):
        shutil.copytree(home / part, folder / "build" / "tiny.torch" / part)
    shutil.copytree(matrix.root / "data", folder / "build" / "data")
    for part in ("boards", "environments", "runner"):
        (board.build.root / part).mkdir(exist_ok=True)
        (folder / "build" / part).symlink_to(board.build.root / part)
    (folder / "devices.toml").write_text(TABLE.format(chunk=CHUNK))
    return Desk(folder / "build", tiny, folder / "devices.toml")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, matrix: Store, board: Board, tiny: Path) -> Desk:
    return make_desk(tmp_path_factory.mktemp("desk"), matrix, board, tiny)


@pytest.fixture(scope="module")
def other_desk(tmp_path_factory: pytest.TempPathFactory, matrix: Store, board: Board, tiny: Path) -> Desk:
    return make_desk(tmp_path_factory.mktemp("other desk"), matrix, board, tiny)


def busy(board: Board) -> bool:
    """Whether edge-bench runs there."""
    return board.run("pgrep -f '[e]dge_bench' || true") != ""


def cut(board: Board) -> None:
    """Ends every connection of the board's user."""
    board.root("pkill -9 -f '^sshd: pi'")


# -- going away --------------------------------------------------------------------------------------------------------


def test_a_lost_connection_a_power_cut_and_a_clock_in_2001_lose_nothing_that_was_finished(
    desk: Desk, board: Board
) -> None:
    chunks = desk.folder() / "chunks"
    first = desk.running(*desk.bench())
    first.until((chunks / "0.json").exists)
    cut(board)
    assert first.ended().complaint == LOST
    until(lambda: not busy(board))
    ran = (chunks / "run.json").read_bytes()

    second = desk.running(*desk.bench())
    second.until((chunks / "200.json").exists)
    pi.stop(board.build, board.name, cut=True)
    done = second.ended()
    assert done.complaint in (LOST, DOWN)  # in a request, or between two
    assert "1 of 3 chunks of samples exist; computing the others" in done.err
    assert desk.inv(*desk.bench()).complaint == DOWN

    pi.boot(board.build, board.name, pi.Boot(clock="2001-01-01"))
    assert board.run("date +%Y") == "2001\n"
    assert (chunks / "run.json").read_bytes() == ran
    done = desk.inv(*desk.bench())
    assert done.code == 0, done.err
    assert "2 of 3 chunks of samples exist; computing the others" in done.err
    there, here = (load(desk.folder().parent / device) for device in ("pi4-emulated", "local"))
    assert there.shape == here.shape == (SAMPLES, 10)
    assert np.abs(there - here).max() <= 1e-5 * np.abs(here).max()  # float kernels of x86 and ARM sum in another order
    assert desk.measurement().started_at == json.loads(ran)["value"]["started_at"]
    assert sorted(path.name for path in desk.folder().iterdir()) == ["measurement.json", "predictions.npz"]


def test_a_board_that_falls_silent_ends_a_bench_and_the_next_one_goes_on(desk: Desk, board: Board) -> None:
    """Nothing says that the connection is gone, as where a cable is pulled or a machine hangs."""
    first = desk.running(*desk.bench("--again", recipe="int8"))
    first.until((desk.folder("int8") / "chunks" / "0.json").exists)
    os.kill(board.pid, signal.SIGSTOP)
    try:
        assert first.ended().complaint == LOST
    finally:
        os.kill(board.pid, signal.SIGCONT)
    done = desk.inv(*desk.bench(recipe="int8"))
    assert done.code == 0, done.err
    assert " of 3 chunks of samples exist; computing the others" in done.err
    assert load(desk.folder("int8")).shape == (SAMPLES, 10)


def load(folder: Path) -> Any:
    with np.load(folder / "predictions.npz") as kept:
        return kept["output_0"]


def test_a_connection_cut_in_a_push_leaves_no_half_file(desk: Desk, board: Board, tmp_path: Path) -> None:
    build, there = Store(desk.build), "~/.lastmile/files"
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    for path, size in ((small, 1000), (large, LARGE)):
        path.write_bytes(np.random.default_rng(size).bytes(size))
    arrives = f"find {there} -name '.tmp-*' -size +1M"
    board.run(f"rm -f {there}/*.bin")  # other tests' files

    def power() -> None:
        until(lambda: board.run(arrives) != "")
        cut(board)

    thread = threading.Thread(target=power)
    thread.start()
    with pytest.raises(Unreachable, match=f"^{LOST}$"):
        ssh.push(build, EMULATED_DEVICE, [small, large])
    thread.join()
    until(lambda: board.run(f"find {there} -name '.tmp-*'") == "")
    assert board.run(f"cd {there} && ls *.bin") == f"{store.sha256(small)}.bin\n"
    try:
        assert ssh.push(build, EMULATED_DEVICE, [small, large])[1] == LARGE
    finally:
        _ssh.close_all()
        board.run(f"rm -f {there}/*.bin")


# -- running there -----------------------------------------------------------------------------------------------------


def test_two_benches_at_once_take_turns_and_a_dead_holders_turn_ends(
    desk: Desk, other_desk: Desk, board: Board
) -> None:
    first = desk.running(*desk.bench("--again", recipe="int8"))
    first.until((desk.folder("int8") / "chunks" / "0.json").exists)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    second = other_desk.running(*other_desk.bench(recipe="int8"))
    second.until_said("waiting for it")
    said = second.said[-1]
    assert said.startswith("pi4-emulated is in use by ") and f"process {first.process.pid}, since 2" in said

    first.process.kill()
    first.process.communicate()
    died = datetime.now(UTC).isoformat(timespec="seconds")
    done = second.ended()
    assert done.code == 0, done.err
    assert began <= died <= other_desk.measurement("int8").started_at  # by our clock: the board believes in 2001
    kept = load(other_desk.folder("int8"))
    with np.load(desk.folder("int8") / "chunks" / "0.npz") as chunk:
        assert np.array_equal(chunk["output_0"], kept[:CHUNK])  # the killed one's finished work is whole


def test_a_model_that_never_returns_is_ended_there_too(desk: Desk, board: Board) -> None:
    assert desk.inv(*desk.bench()).code == 0
    whole = store.sha256(desk.folder())
    words = (*desk.words("bench"), "--min-seconds", "1000000", "--time-limit", "8")
    assert desk.inv(*words).complaint == "executorch fp32 on pi4-emulated: timeout after 8 s"
    assert not busy(board)
    (desk.folder() / "failure.json").unlink()
    assert store.sha256(desk.folder()) == whole


HOG = """python3 -c 'all = []
while True: all.append(b"x" * (1 << 24))'"""


def test_where_memory_runs_out_edge_bench_goes_first_and_that_is_said(desk: Desk, board: Board) -> None:
    running = desk.running(*desk.words("bench"), "--min-seconds", "1000000")
    until(lambda: busy(board))
    running_there = board.run("pgrep -f '[e]dge_bench'").split()
    board.root(f"{HOG}; true")  # takes what there is; the kernel ends edge-bench first, and then this
    assert running.ended().complaint == (
        "executorch fp32 on pi4-emulated: ended by SIGKILL after: killed on the board, as the system does when memory "
        "runs out: free some there and run again"
    )
    (desk.folder() / "failure.json").unlink()
    killed = re.findall(r"Out of memory: Killed process (\d+) ", board.root("dmesg"))
    assert killed[:1] == running_there  # and not the session that tells of it


# -- what is there is wrong --------------------------------------------------------------------------------------------


def test_a_corrupt_file_on_the_board_is_found_and_sent_again(desk: Desk, board: Board) -> None:
    assert desk.inv(*desk.words("push")).code == 0
    images = next((desk.build / "data").glob("*/images.npy"))
    size, there = store.size(images), f"~/.lastmile/files/{store.sha256(images)}.npy"
    board.run(f"printf x | dd of=$(ls {there}) bs=1 seek=1000 conv=notrunc status=none")
    assert desk.inv(*desk.words("push")).lines[-1] == f"pi4-emulated: 2 files there, {size:,} bytes sent"
    assert desk.inv(*desk.words("push")).lines[-1] == "pi4-emulated: 2 files there, 0 bytes sent"


def test_a_full_disk_is_said_and_nothing_half_written_is_left(desk: Desk, board: Board) -> None:
    board.run("mkdir -p ~/.lastmile/files; rm -f ~/.lastmile/files/*.npy")
    board.run("fallocate -l $(df --output=avail -B1 ~ | tail -1) ~/full; true")
    try:
        before = board.run("ls -A ~/.lastmile/files")
        assert desk.inv(*desk.words("push")).complaint.endswith(
            "MB are free; inv devices.clean --device pi4-emulated frees what is ours there; nothing was lost"
        )
        assert board.run("ls -A ~/.lastmile/files") == before
    finally:
        board.run("rm ~/full")
    assert desk.inv(*desk.words("push")).code == 0


@contextmanager
def python3(board: Board, script: str | None) -> Iterator[None]:
    """The board's python3 is missing, or a shell script."""
    board.root("mv /usr/bin/python3 /usr/bin/its-python3")
    if script is not None:
        board.root(f"printf '#!/bin/sh\\n{script}\\n' > /usr/bin/python3; chmod 755 /usr/bin/python3")
    try:
        yield
    finally:
        board.root("mv /usr/bin/its-python3 /usr/bin/python3")


def test_a_board_without_python_is_said(desk: Desk, board: Board) -> None:
    with python3(board, None):
        done = desk.inv(*desk.bench("--again"))
    assert done.only == "pi4-emulated: there is no python3 on it: run there: sudo apt-get install python3"
    assert not (desk.folder() / "failure.json").exists()  # says nothing about the model


def test_a_board_of_another_architecture_is_said(desk: Desk, board: Board) -> None:
    with python3(board, 'exec setarch linux32 its-python3 "$@"'):
        done = desk.inv("devices.setup", "--device", "pi4-emulated", "--target", "executorch")
    assert done.complaint == "1 of the runtimes cannot be had on pi4-emulated"
    assert done.out == ("executorch_runner: no runtime exists for its architecture armv8l (known: aarch64, x86_64)\n")


# -- getting in --------------------------------------------------------------------------------------------------------


def test_a_wrong_key_and_a_changed_host_key_are_said_with_the_line_that_mends_them(
    desk: Desk, board: Board, tmp_path: Path
) -> None:
    way = board.endpoint
    host = f"[127.0.0.1]:{way['port']}"
    other = key(tmp_path / "other")
    (tmp_path / "known").write_text(f"{host} {' '.join(Path(f'{other}.pub').read_text().split()[:2])}\n")
    address = f'kind = "ssh"\naddress = "pi@127.0.0.1"\nport = {way["port"]}\n'
    (tmp_path / "devices.toml").write_text(
        f'[stranger]\n{address}identity = "{other}"\nknown_hosts = "{way["known_hosts"]}"\n'
        f'[changed]\n{address}identity = "{way["identity"]}"\nknown_hosts = "{tmp_path}/known"\n'
    )
    stranger, changed = (
        inv(desk.build, "devices.setup", "--device", name, LASTMILE_DEVICES=str(tmp_path / "devices.toml")).only
        for name in ("stranger", "changed")
    )
    assert stranger == (
        f"stranger: {host} lets in none of your keys: ssh-copy-id -p {way['port']} -i {other} pi@127.0.0.1"
    )
    assert changed == (
        "changed: its host key is not the one that is known: another machine may be answering. If the board was "
        f"installed anew: ssh-keygen -f {tmp_path}/known -R '{host}', then ssh-keyscan -p {way['port']} 127.0.0.1 >> "
        f"{tmp_path}/known"
    )
