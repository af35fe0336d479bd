"""Emulated boards, really booted. The fixture `board` (conftest.py) runs one for the whole session."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from pipeline.emulate import pi
from pipeline.emulate.pi import image
from pipeline.errors import StageFailed, UnknownName
from pipeline.system.store import Store
from tests.boards import Board

ROOT = Path(__file__).parents[2]
RUN = "run net.pte --runtime executorch_runner --min-runs 16 --min-seconds 0 --warmup-seconds 0.02"


# -- the system --------------------------------------------------------------------------------------------------------


def test_its_facts_are_those_of_an_emulated_pi_4(board: Board) -> None:
    facts = json.loads(board.edge_bench("facts"))["device"]
    assert facts["board"] == "Raspberry Pi 4 Model B (emulated)"
    assert facts["cpu"] == "Cortex-A72"
    assert facts["arch"] == "aarch64"
    assert facts["cores"] == 1
    assert facts["os"].startswith("Debian GNU/Linux")


def test_its_user_is_not_root_and_its_home_is_writable(board: Board) -> None:
    assert (
        board.run("id -un; touch ~/mine && rm ~/mine; touch /etc/not-mine 2>/dev/null || echo refused")
        == "pi\nrefused\n"
    )


def test_it_listens_on_the_loopback_address_only(board: Board) -> None:
    # Source: proc(5), net/tcp: local address and port in hexadecimal, state 0A is listening.
    port = f":{board.endpoint['port']:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert [row[1] for row in rows if row[3] == "0A" and row[1].endswith(port)] == [f"0100007F{port}"]
    rows = [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    assert [row for row in rows if row[3] == "0A" and row[1].endswith(port)] == []


def test_it_has_no_network(board: Board) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        reach = f"import socket; socket.create_connection(('10.0.2.2', {port}), 5)"
        assert board.run(f'python3 -c "{reach}" 2>/dev/null || echo no way out') == "no way out\n"


def test_a_second_boot_changes_nothing(board: Board) -> None:
    assert pi.boot(board.build, board.name) == board.endpoint


# -- measurements ------------------------------------------------------------------------------------------------------


def test_the_runners_outputs_equal_those_of_executorch_on_this_machine(board: Board) -> None:
    args = "predict net.pte --runtime executorch_runner --inputs x.npy --layout NCHW --out p.npz"
    report = json.loads(board.edge_bench(args))
    local, emulated = board.local_predictions(), board.predictions("p.npz")
    assert report["samples"] == 20
    assert [values.shape for values in emulated] == [values.shape for values in local] == [(20, 5), (20, 1)]
    for one, other in zip(local, emulated, strict=True):  # float kernels of x86 and ARM sum in a different order
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()
    assert report["peak_rss_bytes"] < 64_000_000


def test_a_power_cut_keeps_the_users_files_repairs_the_system_and_does_not_change_the_count(board: Board) -> None:
    first = json.loads(board.edge_bench(RUN))
    board.root("mv /usr/bin/python3 /usr/bin/python3-gone; date -s 2001-01-01; sync")
    assert board.run("date +%Y; python3 -c 1 2>/dev/null || echo no python") == "2001\nno python\n"
    assert pi.stop(board.build, board.name, cut=True) is True
    assert str(pi.endpoint(board.build, board.name)).endswith("inv devices.emulate --board pi4")

    pi.boot(board.build, board.name)

    assert board.run("python3 -c 'print(1)'; test $(date +%Y) -gt 2020 && echo now") == "1\nnow\n"
    second = json.loads(board.edge_bench(RUN))  # in the same folder: nothing is sent again
    counts = [median(ns / loops for loops, ns in measurement["runs"]) for measurement in (first, second)]
    assert abs(counts[1] - counts[0]) <= 0.001 * counts[0], counts


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_unknown_board_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'pi3'.* \(known: pi4, pi5\)"):
        pi.endpoint(Store(ROOT), "pi3")


def test_the_endpoint_of_a_stopped_board_is_the_command_that_starts_it(tmp_path: Path) -> None:
    build = Store(tmp_path)
    reason = pi.endpoint(build, "pi5")
    assert isinstance(reason, str) and reason.endswith("inv devices.emulate --board pi5")
    assert pi.stop(build, "pi5") is False
    with pytest.raises(StageFailed, match=f"^pi5: {reason}$"):
        pi.as_root(build, "pi5")


def test_the_state_file_of_an_ended_machine_is_ignored(tmp_path: Path) -> None:
    # Its PID may belong to another process since then: here to this one, which began at another time.
    home = tmp_path / "boards" / "pi4"
    home.mkdir(parents=True)
    for pid, started in ((os.getpid(), 1), (2**22 + 1, 1), (2**22 + 1, None)):
        (home / "board.json").write_text(json.dumps({"pid": pid, "started": started, "board": "pi4"}))
        assert isinstance(pi.endpoint(Store(tmp_path), "pi4"), str)
    (home / "board.json").write_text('{"pid": ')
    assert pi.stop(Store(tmp_path), "pi4") is False


def test_a_failed_boot_is_an_error_with_the_consoles_last_lines(board: Board, tmp_path: Path) -> None:
    # The same kernel with a system disk that contains no file system.
    build = Store(tmp_path)
    (tmp_path / "boards").mkdir()
    shutil.copytree(board.build.root / "boards" / "keys", tmp_path / "boards" / "keys")
    good = image.find(board.build)
    assert good is not None
    bad = tmp_path / "boards" / good.folder.name
    bad.mkdir()
    shutil.copy(good.kernel, bad)
    shutil.copy(good.initramfs, bad)
    with (bad / "root.img").open("wb") as disk:
        disk.truncate(1 << 20)
    with pytest.raises(StageFailed) as caught:
        pi.boot(build, "pi4", pi.Boot(data_mb=64))
    assert str(caught.value).startswith("pi4 ended while it booted: ")
    assert "lastmile: the root file system cannot be mounted" in str(caught.value)
    assert str(tmp_path / "boards" / "pi4" / "console.log") in str(caught.value)
    assert pi.stop(build, "pi4") is False


def test_a_pi_5_with_another_cpu_runs_beside_the_pi_4(board: Board) -> None:
    pi.boot(board.build, "pi5")
    try:
        five = Board(board.build, "pi5")
        output = five.run("cat /proc/device-tree/model; grep -c asimddp /proc/cpuinfo")
        assert output == "Raspberry Pi 5 Model B (emulated)\x001\n"
        assert five.endpoint["port"] != board.endpoint["port"]
    finally:
        assert pi.stop(board.build, "pi5") is True
    assert isinstance(pi.endpoint(board.build, "pi5"), str)
