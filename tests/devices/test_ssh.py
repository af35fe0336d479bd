"""SSH with a real server: strict about keys, with clear errors, and nothing partial is left behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import Device
from pipeline.devices import _board, _bundle, _session, _ssh, ssh
from pipeline.errors import BadOption, StageFailed
from pipeline.system import store
from pipeline.system.store import Store

from .sshd import Board, below, free_port, key

HOSTILE = [
    "plain", "two words", "", "-dash", "--", "it's", '"$HOME"', "`id`", "a;b&c|d", "line\nbreak", "*?[x]", "\\", "é~#!",
]  # fmt: skip


NOWHERE = Store(Path("/nonexistent"))


def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


# -- arguments and options ---------------------------------------------------------------------------------------------


def test_arguments_pass_through_the_boards_shell_unchanged(loopback: Board) -> None:
    device = loopback.device()
    echo = ["python3", "-c", "import sys; print(ascii(sys.argv[1:]))", *HOSTILE]
    argv = [*_ssh.client(device), "--", _ssh.address(device), _ssh.remote(echo)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii(HOSTILE)


def test_an_address_cannot_be_an_option(loopback: Board) -> None:
    for address in ("-oProxyCommand=touch /tmp/x", "", "a b", None):
        assert "address" in str(ssh.unavailable(NOWHERE, loopback.device(address=address)))


def test_an_unknown_key_of_the_table_is_an_error_that_lists_the_known_ones(loopback: Board) -> None:
    assert "unknown key 'adress' (known: address, " in str(ssh.unavailable(NOWHERE, loopback.device(adress="pi")))


@pytest.mark.parametrize(
    ("name", "value"), [("port", "22"), ("space_bytes", 0), ("clock", "real"), ("cool_down_c", "40")]
)
def test_an_invalid_value_is_an_error(loopback: Board, name: str, value: object) -> None:
    assert name in str(ssh.unavailable(NOWHERE, loopback.device(**{name: value})))


# -- connecting --------------------------------------------------------------------------------------------------------


def test_output_of_the_boards_shell_before_the_response_is_reported(own_board: Board) -> None:
    keys = own_board.folder / "authorized_keys"
    keys.write_text('command="echo Welcome to the board; eval \\"$SSH_ORIGINAL_COMMAND\\"" ' + keys.read_text())
    reason = ssh.unavailable(NOWHERE, own_board.device())
    assert reason is not None and "'Welcome to the board'" in reason and "~/.bashrc" in reason


GREETINGS = [
    "42", "null", "{}", "[1]", '"refused"', '{"refused": "full", "why": "x"}', '{"machine": "aarch64"}', "two\\nlines",
    "\\n\\n42", "\\033[32mhi\\033[0m", "\\377", "no line\\c",
]  # fmt: skip
"""What a board's shell may print, in the words of `echo`."""


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_greeting_is_never_taken_for_a_response(greeting: str) -> None:
    argv = ["sh", "-c", f"printf '%b' {shlex.quote(greeting)}; echo; exec {shlex.join(_session.STARTS)}"]
    session = _session.Session("noisy", argv, _session.Traffic())
    with pytest.raises(StageFailed, match=r"^noisy: its shell prints '.+' before the response") as caught:
        session.request({"verb": "ask", "folder": "/nonexistent"})
    session.end(at_once=False)
    assert type(caught.value) is StageFailed and str(caught.value).isprintable()


def test_a_silent_shell_gets_a_response() -> None:
    session = _session.Session("quiet", ["sh", "-c", shlex.join(_session.STARTS)], _session.Traffic())
    assert session.request({"verb": "ask", "folder": "/nonexistent"})["runtimes"] == []
    session.end(at_once=False)


def test_an_unknown_host_key_is_an_error_with_the_command_that_adds_it(own_board: Board) -> None:
    known = own_board.folder / "known_hosts"
    known.write_text("")
    reason = str(ssh.unavailable(NOWHERE, own_board.device()))
    assert reason.startswith("its host key is unknown")
    assert known.read_text() == ""
    command = reason.partition("then: ")[2]
    assert command == f"ssh-keyscan -p {own_board.port} 127.0.0.1 >> {shlex.quote(str(known))}"
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert ssh.unavailable(NOWHERE, own_board.device()) is None


def test_a_changed_host_key_is_an_error_with_the_command_that_replaces_it(own_board: Board) -> None:
    own_board.stop()
    key(own_board.folder / "host_key")
    own_board.launch()
    known = own_board.folder / "known_hosts"
    before = known.read_text()
    reason = str(ssh.unavailable(NOWHERE, own_board.device()))
    assert reason.startswith("its host key has changed")
    assert known.read_text() == before
    command = reason.partition("reinstalled: ")[2].replace(", then ", " && ")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    assert ssh.unavailable(NOWHERE, own_board.device()) is None


def test_a_missing_key_file_is_an_error(loopback: Board) -> None:
    assert "identity = '/nowhere' " in str(ssh.unavailable(NOWHERE, loopback.device(identity="/nowhere")))


def test_a_refused_connection_is_an_error_that_names_sshd(loopback: Board) -> None:
    port = free_port()
    reason = str(ssh.unavailable(NOWHERE, loopback.device(port=port)))
    assert reason.startswith(f"[127.0.0.1]:{port} refuses connections") and "sshd" in reason


def test_an_unknown_host_is_an_error_with_its_name(loopback: Board) -> None:
    assert str(ssh.unavailable(NOWHERE, loopback.device(address="no-such-board.invalid"))).startswith("unknown host ")


def test_jump_hosts_and_host_names_of_an_ssh_config_work(loopback: Board) -> None:
    config = loopback.folder / "ssh_config"
    common = f'IdentityFile "{loopback.folder}/client_key"\nUserKnownHostsFile "{loopback.folder}/known_hosts"\n'
    config.write_text(
        f"Host jump\nHostName 127.0.0.1\nPort {loopback.port}\nStrictHostKeyChecking yes\n{common}"
        f"Host pi\nHostName 127.0.0.1\nPort {loopback.port}\nProxyJump jump\n{common}"
    )
    device = Device("pi", "ssh", False, {"address": "pi", "config": str(config), "folder": str(loopback.home)})
    assert ssh.unavailable(NOWHERE, device) is None


def test_the_path_of_an_ssh_config_must_not_need_quoting(loopback: Board) -> None:
    config = loopback.folder / "ssh config"
    config.write_text("")
    reason = ssh.unavailable(NOWHERE, loopback.device(config=str(config)))
    assert reason is not None and reason.startswith(f"[board] of devices.toml: config = {str(config)!r} ")


def test_all_requests_use_one_connection(own_board: Board) -> None:
    for _ in range(5):
        assert ssh.unavailable(NOWHERE, own_board.device()) is None
    accepted = (own_board.folder / "log").read_text().count("Accepted publickey")
    assert accepted == 1


def test_no_connection_outlives_the_command(own_board: Board) -> None:
    assert ssh.unavailable(NOWHERE, own_board.device()) is None
    socket = _ssh.link(own_board.device()).socket
    _ssh.close_all()
    assert not socket.parent.exists()
    until(lambda: own_board.sessions() == [])


# -- unsupported boards ------------------------------------------------------------------------------------------------


def test_a_python_process_that_dies_is_an_error(own_board: Board) -> None:
    own_board.stop()
    programs = own_board.folder / "bin"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nkill -9 $$\n")
    (programs / "python3").chmod(0o755)
    own_board.launch(f'ForceCommand PATH={programs} exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    assert "the process on the board ended" in str(ssh.unavailable(NOWHERE, own_board.device()))


PI = _bundle.Board("aarch64", 64, "glibc 2.36", (3, 11), "/home/pi/.lastmile", 1 << 30, (), {})


@pytest.mark.parametrize(
    ("board", "reason"),
    [
        (PI, None),
        (_bundle.Board("armv7l", 32, "glibc 2.31", (3, 9), "", 0, (), {}), "32-bit (armv7l)"),
        (_bundle.Board("aarch64", 32, "glibc 2.36", (3, 11), "", 0, (), {}), "32-bit (aarch64)"),
        (_bundle.Board("riscv64", 64, "glibc 2.36", (3, 11), "", 0, (), {}), "architecture riscv64"),
        (_bundle.Board("aarch64", 64, "", (3, 12), "", 0, (), {}), "not glibc"),
        (_bundle.Board("aarch64", 64, "glibc 2.28", (3, 7), "", 0, (), {}), "Python is 3.7"),
    ],
)  # fmt: skip
def test_the_reason_why_a_board_is_unsupported(board: _bundle.Board, reason: str | None) -> None:
    found = board.unsupported()
    assert found is None if reason is None else reason in str(found)


def test_wheels_are_chosen_by_the_boards_glibc() -> None:
    assert PI.platform() == "aarch64-manylinux_2_36"
    assert _bundle.Board("x86_64", 64, "glibc 2.30", (3, 9), "", 0, (), {}).platform() == "x86_64-manylinux_2_28"
    assert _bundle.Board("aarch64", 64, "glibc 2.99", (3, 14), "", 0, (), {}).platform() == "aarch64-manylinux_2_40"


def test_missing_wheels_for_the_boards_python_are_an_error(wheels: Store) -> None:
    modern = _bundle.Board("aarch64", 64, "glibc 2.40", (3, 13), "", 0, (), {})
    with pytest.raises(StageFailed, match=r"tflite-runtime.* Python 3.13 on aarch64.*works"):
        _bundle.make(wheels, modern, "tflite_runtime")
    assert not list(wheels.root.rglob(".tmp-*"))


# -- setting up and pushing --------------------------------------------------------------------------------------------


def test_a_second_setup_sends_nothing(own_board: Board, wheels: Store) -> None:
    ssh.setup(wheels, own_board.device(), "onnxruntime")
    _ssh.close_all()
    link = _ssh.link(own_board.device())
    ssh.setup(wheels, own_board.device(), "onnxruntime")
    assert link.traffic.trips == 1
    assert link.traffic.sent_bytes < 10_000


def test_the_archive_of_a_runtime_is_reproducible(wheels: Store, tmp_path: Path) -> None:
    content = tmp_path / "content"
    (content / "a folder").mkdir(parents=True)
    (content / "a folder" / "x.py").write_text("x = 1\n")
    _bundle._pack(content, tmp_path / "one.tar.gz")
    os.utime(content / "a folder" / "x.py", (1, 1))
    _bundle._pack(content, tmp_path / "two.tar.gz")
    assert store.sha256(tmp_path / "one.tar.gz") == store.sha256(tmp_path / "two.tar.gz")


def test_an_archive_does_not_contain_the_tests_of_packages(loopback: Board, wheels: Store) -> None:
    board = _bundle.Board.of(ssh._request(loopback.device(), {"verb": "ask"}))
    with tarfile.open(_bundle.make(wheels, board, "onnxruntime")[1]) as archive:
        folders = {part for name in archive.getnames() for part in Path(name).parts[:-1]}
    assert {"numpy", "edge_bench"} <= folders and "tests" not in folders


def test_the_folder_has_a_maximum_size_and_the_oldest_file_is_removed_first(
    own_board: Board, wheels: Store, tmp_path: Path
) -> None:
    device = own_board.device(space_bytes=250_000)
    one, two, three = (random_file(tmp_path / f"{n}.bin", 100_000) for n in range(3))
    remote = {path: Path(ssh.push(wheels, device, [path])[0][path]) for path in (one, two)}
    os.utime(remote[two], (1, 1))
    assert ssh.push(wheels, device, [one])[1] == 0
    ssh.push(wheels, device, [three])
    assert (remote[one].exists(), remote[two].exists()) == (True, False)
    with pytest.raises(StageFailed, match="space_bytes = 250000 is less than"):
        ssh.push(wheels, device, [random_file(tmp_path / "large.bin", 250_000)])


def test_a_session_continues_after_a_refused_push(own_board: Board, wheels: Store, tmp_path: Path) -> None:
    device = own_board.device(space_bytes=5_000_000)
    small, large = random_file(tmp_path / "small.bin", 1000), random_file(tmp_path / "large.bin", 3_000_000)
    with ssh.exclusive(wheels, device):
        link = _ssh.link(device)
        session, before = link.begin(), link.traffic.sent_bytes
        with pytest.raises(StageFailed, match="space_bytes = 5000000 is less than"):
            ssh.push(wheels, device, [large, random_file(tmp_path / "other.bin", 3_000_000)])
        assert link.traffic.sent_bytes - before < 1000  # the files were not sent
        verb = {"verb": "put", "files": [("x.bin", 3_000_000, "another hash"), ("y.bin", 1000, store.sha256(small))]}
        with pytest.raises(_session.Refused, match="run the same command again") as refused:
            ssh._send(device, verb, [(large, 3_000_000), (small, 1000)], 3_001_000, [])
        assert refused.value.kind == "corrupt"
        assert ssh.push(wheels, device, [small, large])[1] == 3_001_000
        assert link.session is session
    assert len(list((own_board.home / "files").iterdir())) == 2


def test_cleaning_keeps_the_users_files(own_board: Board, wheels: Store, tmp_path: Path) -> None:
    own_board.home.mkdir()
    (own_board.home / "a user's").write_text("kept")
    ssh.push(wheels, own_board.device(), [random_file(tmp_path / "x.bin", 10)])
    assert ssh.clean(wheels, own_board.device()) == 10
    assert (own_board.home / "a user's").read_text() == "kept"


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(matrix: Store) -> list[str | Path]:
    """Arguments of a call that never ends."""
    model = next(matrix.root.glob("*/fp32/onnx/*.onnx"))
    return ["run", model, "--min-seconds", "1000000"]


def measuring(board: Board) -> list[int]:
    """PIDs of edge-bench on this board."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().split(b"\0")
            if b"edge_bench" in argv and str(board.home).encode() in (path.parent / "environ").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def ready(own_board: Board, wheels: Store, endless: list[str | Path]) -> Board:
    """A board with the runtime and the model."""
    ssh.setup(wheels, own_board.device(), "onnxruntime")
    ssh.push(wheels, own_board.device(), [Path(endless[1])])
    return own_board


def start(board: Board, build: Store, args: list[str | Path]) -> tuple[threading.Thread, list[object]]:
    """Calls edge-bench in a thread, which puts the result or the error into the list."""
    results: list[object] = []

    def call() -> None:
        try:
            results.append(ssh.call(build, board.device(), "onnxruntime", args, 600))
        except StageFailed as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: len(measuring(board)) > 0)
    return thread, results


@pytest.fixture
def sensors(tmp_path: Path) -> Path:
    """A folder like /sys/class/thermal, with sensors at 48 and 61 °C."""
    for zone, text in (("thermal_zone0", "48250\n"), ("thermal_zone1", "61000\n")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(text)
    return tmp_path


COOLING = """
import sys
from pathlib import Path
from pipeline.devices import _board
_board.COOL_POLL_SECONDS = 0.02
print("begins", flush=True)
try:
    _board.cool_down(50, Path(sys.argv[1]))
    print("cool")
except _board.Refused as error:
    print(error.kind)
"""


def cooling(sensors: Path) -> subprocess.Popen[str]:
    """A process of `_board.py` that waits for 50 °C."""
    process = subprocess.Popen(
        [sys.executable, "-c", COOLING, sensors], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    return process


def test_a_measurement_waits_until_the_hottest_sensor_is_cool(sensors: Path) -> None:
    process = cooling(sensors)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    (sensors / "thermal_zone1" / "temp").write_text("50000\n")
    assert process.stdout is not None and process.stdout.read() == "cool\n"
    process.communicate()


def test_waiting_for_a_cool_board_ends_with_the_connection(sensors: Path) -> None:
    assert cooling(sensors).communicate() == ("cut\n", None)


def test_a_board_that_stays_hot_is_an_error(sensors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_board, "COOL_SECONDS", 0)
    with pytest.raises(_board.Refused, match=r"61 °C after 0 s .*cool_down_c") as caught:
        _board.cool_down(50, sensors)
    assert caught.value.kind == "hot"


def test_without_a_sensor_a_measurement_does_not_wait(tmp_path: Path) -> None:
    _board.cool_down(50, tmp_path)
    (tmp_path / "thermal_zone0").mkdir()
    (tmp_path / "thermal_zone0" / "temp").write_text("")  # as of a sensor that is switched off
    _board.cool_down(50, tmp_path)


def test_a_killed_command_frees_the_board(ready: Board, wheels: Store, endless: list[str | Path]) -> None:
    thread, results = start(ready, wheels, endless)
    helper = int(Path(f"/proc/{measuring(ready)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(helper, signal.SIGKILL)
    thread.join()
    assert isinstance(results[0], StageFailed)
    until(lambda: measuring(ready) == [])
    assert ssh.call(wheels, ready.device(), "onnxruntime", ["facts"], 60).code == 0


def test_the_hash_seed_is_the_same_in_every_process_on_the_board(
    own_board: Board, wheels: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise, dictionary look-ups take a different number of instructions in each measurement.
    monkeypatch.setattr(_bundle, "PROGRAM", ("{python}", "-s", "-c", "import sys; print(hash(sys.argv[1]))"))
    ssh.setup(wheels, own_board.device(), "onnxruntime")
    hashes = {ssh.call(wheels, own_board.device(), "onnxruntime", ["text"], 60).out for _ in range(3)}
    assert len(hashes) == 1 and int(hashes.pop()) != 0


def test_a_runtime_that_was_removed_is_an_error_and_then_sent_again(ready: Board, wheels: Store) -> None:
    device = ready.device()
    with ssh.exclusive(wheels, device):
        ssh.setup(wheels, device, "onnxruntime")
        shutil.rmtree(ready.home / "runtimes")
        with pytest.raises(_session.Refused, match="run the same command again") as refused:
            ssh.call(wheels, device, "onnxruntime", ["facts"], 60)
        assert refused.value.kind == "gone"
        assert ssh.call(wheels, device, "onnxruntime", ["facts"], 60).code == 0


def test_an_unknown_option_is_an_error(loopback: Board, wheels: Store) -> None:
    with pytest.raises(BadOption, match="unknown key"):
        ssh.push(wheels, loopback.device(fast=True), [])


def test_the_helper_below_finds_child_processes() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert child.pid in below(os.getpid())
    child.kill()
    child.wait()
