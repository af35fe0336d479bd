"""Emulated boards, booted for real. `board` (conftest.py) is one that runs for the whole session."""

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


# -- what it is --------------------------------------------------------------------------------------------------------


def test_it_says_that_it_is_a_pi_4_and_emulated(board: Board) -> None:
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
    wanted = f":{board.endpoint['port']:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert [row[1] for row in rows if row[3] == "0A" and row[1].endswith(wanted)] == [f"0100007F{wanted}"]
    rows = [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    assert [row for row in rows if row[3] == "0A" and row[1].endswith(wanted)] == []


def test_it_reaches_nothing_outside(board: Board) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        reach = f"import socket; socket.create_connection(('10.0.2.2', {port}), 5)"
        assert board.run(f'python3 -c "{reach}" 2>/dev/null || echo no way out') == "no way out\n"


def test_a_second_boot_of_a_board_that_runs_is_the_first(board: Board) -> None:
    assert pi.boot(board.build, board.name) == board.endpoint


# -- what it counts ----------------------------------------------------------------------------------------------------


def test_the_runner_there_gives_what_executorch_gives_here(board: Board) -> None:
    words = "predict net.pte --runtime executorch_runner --inputs x.npy --layout NCHW --out p.npz"
    told = json.loads(board.edge_bench(words))
    here, there = board.predictions_here(), board.predictions_there("p.npz")
    assert told["samples"] == 20
    assert [values.shape for values in there] == [values.shape for values in here] == [(20, 5), (20, 1)]
    for ours, theirs in zip(here, there, strict=True):  # float kernels of x86 and ARM sum in another order
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()
    assert told["peak_rss_bytes"] < 64_000_000


def test_after_a_power_cut_what_was_pushed_is_there_what_broke_is_whole_and_the_count_is_the_same(
    board: Board,
) -> None:
    first = json.loads(board.edge_bench(RUN))
    board.root("mv /usr/bin/python3 /usr/bin/python3-gone; date -s 2001-01-01; sync")
    assert board.run("date +%Y; python3 -c 1 2>/dev/null || echo no python") == "2001\nno python\n"
    assert pi.stop(board.build, board.name, cut=True) is True
    assert pi.endpoint(board.build, board.name) == "it does not run; start it: inv devices.emulate --board pi4"

    pi.boot(board.build, board.name)

    assert board.run("python3 -c 'print(1)'; test $(date +%Y) -gt 2020 && echo now") == "1\nnow\n"
    second = json.loads(board.edge_bench(RUN))  # the folder from before: nothing is sent again
    counts = [median(ns / loops for loops, ns in told["runs"]) for told in (first, second)]
    assert abs(counts[1] - counts[0]) <= 0.001 * counts[0], counts


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_unknown_board_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UnknownName, match=r"unknown board 'pi3'.* \(known: pi4, pi5\)"):
        pi.endpoint(Store(ROOT), "pi3")


def test_a_board_that_was_never_started_says_how_to_start_it(tmp_path: Path) -> None:
    build = Store(tmp_path)
    assert pi.endpoint(build, "pi5") == "it does not run; start it: inv devices.emulate --board pi5"
    assert pi.stop(build, "pi5") is False
    with pytest.raises(StageFailed, match="pi5: it does not run"):
        pi.as_root(build, "pi5")


def test_a_file_left_by_a_machine_that_is_gone_is_not_believed(tmp_path: Path) -> None:
    # The process number may since belong to another program: this one, whose start is another.
    home = tmp_path / "boards" / "pi4"
    home.mkdir(parents=True)
    for pid, started in ((os.getpid(), 1), (2**22 + 1, 1), (2**22 + 1, None)):
        (home / "board.json").write_text(json.dumps({"pid": pid, "started": started, "board": "pi4"}))
        assert pi.endpoint(Store(tmp_path), "pi4") == "it does not run; start it: inv devices.emulate --board pi4"
    (home / "board.json").write_text('{"pid": ')
    assert pi.stop(Store(tmp_path), "pi4") is False


def test_a_machine_that_does_not_come_up_shows_its_last_words(board: Board, tmp_path: Path) -> None:
    # The same kernel with a system disk that holds no file system.
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


def test_the_pi_5_boots_beside_it_with_another_processor(board: Board) -> None:
    pi.boot(board.build, "pi5")
    try:
        five = Board(board.build, "pi5")
        said = five.run("cat /proc/device-tree/model; grep -c asimddp /proc/cpuinfo")
        assert said == "Raspberry Pi 5 Model B (emulated)\x001\n"
        assert five.endpoint["port"] != board.endpoint["port"]
    finally:
        assert pi.stop(board.build, "pi5") is True
    assert pi.endpoint(board.build, "pi5") == "it does not run; start it: inv devices.emulate --board pi5"
