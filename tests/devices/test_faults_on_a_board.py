"""Faults on an emulated board, most of them with `inv` commands: each ends in one line that says what to do.

Tests that cut the board's power boot it again; its clock then starts in 2001. Tests that change its system restore it.
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
LOST = "pi4-emulated: the connection was lost"
DOWN = "inv devices.emulate --board pi4"


@dataclass(frozen=True)
class Desk:
    """A user's build folder, from which the board is used.

    Attributes:
        devices: a devices.toml in which the board evaluates few samples per call.
    """

    build: Path
    tiny: Path
    devices: Path

    def bench(self, *args: str, recipe: str = "fp32") -> tuple[object, ...]:
        return (*self.task("bench", recipe), *QUICK, *args)

    def task(self, name: str, recipe: str = "fp32") -> tuple[object, ...]:
        options = ("--model", self.tiny, "--target", "executorch", "--recipe", recipe, "--device", "pi4-emulated")
        return (name, *options)

    def inv(self, *args: object) -> Done:
        return inv(self.build, *args, LASTMILE_DEVICES=str(self.devices))

    def running(self, *args: object) -> Running:
        return Running(self.build, *args, LASTMILE_DEVICES=str(self.devices))

    def folder(self, recipe: str = "fp32") -> Path:
        """The measurement's folder."""
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
    """Whether edge-bench is running on the board."""
    return board.run("pgrep -f '[e]dge_bench' || true") != ""


def cut(board: Board) -> None:
    """Kills every connection of the board's user."""
    board.root("pkill -9 -f '^sshd: pi'")


# -- lost connections --------------------------------------------------------------------------------------------------


def test_finished_work_survives_a_lost_connection_a_power_cut_and_a_wrong_clock(desk: Desk, board: Board) -> None:
    chunks = desk.folder() / "chunks"
    first = desk.running(*desk.bench())
    first.until((chunks / "0.json").exists)
    cut(board)
    assert first.wait().complaint.startswith(LOST)
    until(lambda: not busy(board))
    ran = (chunks / "run-0.json").read_bytes()

    second = desk.running(*desk.bench())
    second.until((chunks / "200.json").exists)
    pi.stop(board.build, board.name, cut=True)
    done = second.wait()
    assert done.complaint.startswith(LOST) or DOWN in done.complaint  # during a request, or between two
    assert "1 of 3 chunks" in done.err
    assert desk.inv(*desk.bench()).complaint.endswith(DOWN)

    pi.boot(board.build, board.name, pi.Boot(clock="2001-01-01"))
    assert board.run("date +%Y") == "2001\n"
    assert (chunks / "run-0.json").read_bytes() == ran
    done = desk.inv(*desk.bench())
    assert done.code == 0, done.err
    assert "2 of 3 chunks" in done.err
    emulated, local = (load(desk.folder().parent / device) for device in ("pi4-emulated", "local"))
    assert emulated.shape == local.shape == (SAMPLES, 10)
    # float kernels of x86 and ARM sum in a different order
    assert np.abs(emulated - local).max() <= 1e-5 * np.abs(local).max()
    assert desk.measurement().processes[0].started_at == json.loads(ran)["value"]["started_at"]
    assert sorted(path.name for path in desk.folder().iterdir()) == ["measurement.json", "predictions.npz"]


def test_a_board_that_stops_responding_ends_the_bench_and_the_next_one_resumes(desk: Desk, board: Board) -> None:
    """The connection is not closed, as when a cable is pulled or a machine hangs."""
    first = desk.running(*desk.bench("--again", recipe="int8"))
    first.until((desk.folder("int8") / "chunks" / "0.json").exists)
    os.kill(board.pid, signal.SIGSTOP)
    try:
        assert first.wait().complaint.startswith(LOST)
    finally:
        os.kill(board.pid, signal.SIGCONT)
    done = desk.inv(*desk.bench(recipe="int8"))
    assert done.code == 0, done.err
    assert " of 3 chunks" in done.err
    assert load(desk.folder("int8")).shape == (SAMPLES, 10)


def load(folder: Path) -> Any:
    with np.load(folder / "predictions.npz") as kept:
        return kept["output_0"]


def test_a_connection_lost_during_a_push_leaves_no_partial_file(desk: Desk, board: Board, tmp_path: Path) -> None:
    build, files = Store(desk.build), "~/.lastmile/files"
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    for path, size in ((small, 1000), (large, LARGE)):
        path.write_bytes(np.random.default_rng(size).bytes(size))
    partial = f"find {files} -name '.tmp-*' -size +1M"
    board.run(f"rm -f {files}/*.bin")  # other tests' files

    def cut_during_push() -> None:
        until(lambda: board.run(partial) != "")
        cut(board)

    thread = threading.Thread(target=cut_during_push)
    thread.start()
    with pytest.raises(Unreachable, match=f"^{LOST}"):
        ssh.push(build, EMULATED_DEVICE, [small, large])
    thread.join()
    until(lambda: board.run(f"find {files} -name '.tmp-*'") == "")
    assert board.run(f"cd {files} && ls *.bin") == f"{store.sha256(small)}.bin\n"
    try:
        assert ssh.push(build, EMULATED_DEVICE, [small, large])[1] == LARGE
    finally:
        _ssh.close_all()
        board.run(f"rm -f {files}/*.bin")


# -- runs --------------------------------------------------------------------------------------------------------------


def test_two_benches_take_turns_and_the_second_starts_when_the_first_is_killed(
    desk: Desk, other_desk: Desk, board: Board
) -> None:
    first = desk.running(*desk.bench("--again", recipe="int8"))
    first.until((desk.folder("int8") / "chunks" / "0.json").exists)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    second = other_desk.running(*other_desk.bench(recipe="int8"))
    second.until_printed(f"process {first.process.pid}, since 2")
    assert second.printed[-1].startswith("pi4-emulated is in use by ")

    first.process.kill()
    first.process.communicate()
    died = datetime.now(UTC).isoformat(timespec="seconds")
    done = second.wait()
    assert done.code == 0, done.err
    measured = other_desk.measurement("int8").processes[0].started_at
    assert began <= died <= measured  # by the host's clock: the board's is in 2001
    outputs = load(other_desk.folder("int8"))
    with np.load(desk.folder("int8") / "chunks" / "0.npz") as chunk:
        assert np.array_equal(chunk["output_0"], outputs[:CHUNK])  # the killed bench's finished chunk is intact


def test_a_timeout_also_ends_the_run_on_the_board(desk: Desk, board: Board) -> None:
    assert desk.inv(*desk.bench()).code == 0
    before = store.sha256(desk.folder())
    error = desk.inv(*desk.task("bench"), "--min-seconds", "1000000", "--time-limit", "8").complaint
    assert error.startswith("executorch fp32 on pi4-emulated: ") and "8 s" in error
    assert not busy(board)
    (desk.folder() / "failure.json").unlink()
    assert store.sha256(desk.folder()) == before


HOG = """python3 -c 'all = []
while True: all.append(b"x" * (1 << 24))'"""


def test_out_of_memory_kills_edge_bench_first_and_is_reported(desk: Desk, board: Board) -> None:
    running = desk.running(*desk.task("bench"), "--min-seconds", "1000000")
    until(lambda: busy(board))
    pids = board.run("pgrep -f '[e]dge_bench'").split()
    board.root(f"{HOG}; true")  # uses all memory; the kernel kills edge-bench first, and then this
    error = running.wait().complaint
    assert error.startswith("executorch fp32 on pi4-emulated: ") and "SIGKILL" in error and "memory" in error
    (desk.folder() / "failure.json").unlink()
    killed = re.findall(r"Out of memory: Killed process (\d+) ", board.root("dmesg"))
    assert killed[:1] == pids  # and not the session that reports it


# -- broken files and boards -------------------------------------------------------------------------------------------


def test_a_corrupt_file_on_the_board_is_sent_again(desk: Desk, board: Board) -> None:
    assert desk.inv(*desk.task("push")).code == 0
    images = next((desk.build / "data").glob("*/images.npy"))
    size, remote = store.size(images), f"~/.lastmile/files/{store.sha256(images)}.npy"
    board.run(f"printf x | dd of=$(ls {remote}) bs=1 seek=1000 conv=notrunc status=none")
    assert f" {size:,} bytes" in desk.inv(*desk.task("push")).lines[-1]
    assert " 0 bytes" in desk.inv(*desk.task("push")).lines[-1]


def test_a_full_disk_is_reported_and_leaves_no_partial_file(desk: Desk, board: Board) -> None:
    board.run("mkdir -p ~/.lastmile/files; rm -f ~/.lastmile/files/*.npy")
    board.run("fallocate -l $(df --output=avail -B1 ~ | tail -1) ~/full; true")
    try:
        before = board.run("ls -A ~/.lastmile/files")
        assert "inv devices.clean --device pi4-emulated" in desk.inv(*desk.task("push")).complaint
        assert board.run("ls -A ~/.lastmile/files") == before
    finally:
        board.run("rm ~/full")
    assert desk.inv(*desk.task("push")).code == 0


@contextmanager
def python3(board: Board, script: str | None) -> Iterator[None]:
    """Removes the board's python3, or replaces it by a shell script."""
    board.root("mv /usr/bin/python3 /usr/bin/its-python3")
    if script is not None:
        board.root(f"printf '#!/bin/sh\\n{script}\\n' > /usr/bin/python3; chmod 755 /usr/bin/python3")
    try:
        yield
    finally:
        board.root("mv /usr/bin/its-python3 /usr/bin/python3")


def test_a_board_without_python_is_an_error_with_the_command_that_installs_it(desk: Desk, board: Board) -> None:
    with python3(board, None):
        done = desk.inv(*desk.bench("--again"))
    assert done.only.startswith("pi4-emulated: ") and done.only.endswith("sudo apt-get install python3")
    assert not (desk.folder() / "failure.json").exists()  # it is not a failure of the model


def test_a_board_of_another_architecture_is_an_error_that_lists_the_known_ones(desk: Desk, board: Board) -> None:
    with python3(board, 'exec setarch linux32 its-python3 "$@"'):
        done = desk.inv("devices.setup", "--device", "pi4-emulated", "--target", "executorch")
    assert "pi4-emulated" in done.complaint
    assert "executorch_runner" in done.out and "armv8l (known: aarch64, x86_64)" in done.out


# -- connecting --------------------------------------------------------------------------------------------------------


def test_the_errors_for_a_wrong_key_and_a_changed_host_key_contain_the_commands_that_fix_them(
    desk: Desk, board: Board, tmp_path: Path
) -> None:
    endpoint = board.endpoint
    host = f"[127.0.0.1]:{endpoint['port']}"
    other = key(tmp_path / "other")
    (tmp_path / "known").write_text(f"{host} {' '.join(Path(f'{other}.pub').read_text().split()[:2])}\n")
    address = f'kind = "ssh"\naddress = "pi@127.0.0.1"\nport = {endpoint["port"]}\n'
    (tmp_path / "devices.toml").write_text(
        f'[stranger]\n{address}identity = "{other}"\nknown_hosts = "{endpoint["known_hosts"]}"\n'
        f'[changed]\n{address}identity = "{endpoint["identity"]}"\nknown_hosts = "{tmp_path}/known"\n'
    )
    stranger, changed = (
        inv(desk.build, "devices.setup", "--device", name, LASTMILE_DEVICES=str(tmp_path / "devices.toml")).only
        for name in ("stranger", "changed")
    )
    port = endpoint["port"]
    assert stranger.startswith(f"stranger: {host} ")
    assert stranger.endswith(f": ssh-copy-id -p {port} -i {other} pi@127.0.0.1")
    assert changed.startswith("changed: its host key has changed")
    assert changed.endswith(
        f": ssh-keygen -f {tmp_path}/known -R '{host}', then ssh-keyscan -p {port} 127.0.0.1 >> {tmp_path}/known"
    )
