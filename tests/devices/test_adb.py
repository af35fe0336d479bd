"""Choosing a phone, the messages for phones that cannot be used, and quoting for a phone's shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Device
from pipeline.devices import _adb, adb
from pipeline.devices._adb import Phone
from pipeline.errors import BadOption, NeedsTool, StageFailed, Unreachable
from pipeline.system import packages
from pipeline.system.store import Store
from tests.phones import Server

ONE = "R5CT20ABCDE            device usb:1-4 product:o1s model:SM_G991B device:o1s transport_id:3\n"
OTHER = "192.168.1.7:5555       device product:x model:Y device:z transport_id:4\n"
STRANGE = {
    "R5CT20ABCDE            unauthorized usb:1-4 transport_id:3\n": "unlock it and allow USB debugging",
    "R5CT20ABCDE            offline usb:1-4 transport_id:3\n": "unplug it and plug it in again",
    "R5CT20ABCDE            no permissions (user in plugdev group; are your udev rules wrong); see [x]\n": (
        "apt-get install android-sdk-platform-tools-common"
    ),
    "R5CT20ABCDE            recovery usb:1-4 product:x transport_id:3\n": "start Android",
    "R5CT20ABCDE            hibernating transport_id:3\n": "'hibernating'",
}
PHONE = Device("phone", "adb")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The user's adb server. It lists no phones until a test adds some."""
    try:
        packages.require("phones")
    except NeedsTool as error:
        pytest.skip(str(error))
    started = Server(tmp_path, "")
    monkeypatch.setenv("ADB_SERVER_SOCKET", started.env["ADB_SERVER_SOCKET"])
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    yield started
    started.stop()


def test_the_list_of_phones_is_read_from_adb(server: Server) -> None:
    server.phones = ONE + OTHER + next(iter(STRANGE)).replace("R5", "Z9")
    found = _adb.listed({})
    assert [(each.serial, each.state) for each in found] == [
        ("R5CT20ABCDE", "device"), ("192.168.1.7:5555", "device"), ("Z9CT20ABCDE", "unauthorized"),
    ]  # fmt: skip


@pytest.mark.parametrize("line", STRANGE)
def test_a_phone_that_cannot_be_used_is_reported_with_how_to_fix_it(server: Server, line: str, tmp_path: Path) -> None:
    server.phones = line
    reason = adb.unavailable(Store(tmp_path), PHONE)
    assert reason is not None and reason.startswith("R5CT20ABCDE: ") and STRANGE[line] in reason
    assert "\n" not in reason
    assert list(adb.discover(Store(tmp_path), [])) == [reason]


def test_without_a_serial_there_must_be_exactly_one_phone(server: Server, tmp_path: Path) -> None:
    build = Store(tmp_path)
    assert adb.unavailable(build, PHONE) == _adb.NONE
    server.phones = ONE
    assert _adb.choose("x", _adb.listed({}), None).serial == "R5CT20ABCDE"
    server.phones = ONE + OTHER
    reason = adb.unavailable(build, PHONE)
    assert reason is not None and "2 phones (R5CT20ABCDE, 192.168.1.7:5555)" in reason and 'serial = "…"' in reason


def test_a_serial_chooses_among_several_phones(server: Server, tmp_path: Path) -> None:
    server.phones = ONE + OTHER
    assert _adb.choose("x", _adb.listed({}), "192.168.1.7:5555").serial == "192.168.1.7:5555"
    with pytest.raises(Unreachable, match=r"^named: .* X9 \(.*R5CT20ABCDE, 192.168.1.7:5555\)"):
        adb.push(Store(tmp_path), Device("named", "adb", False, {"serial": "X9"}), [])


def test_a_phone_that_disconnects_is_reported_as_a_lost_connection(server: Server, tmp_path: Path) -> None:
    server.phones = ONE
    with pytest.raises(Unreachable, match=f"^phone: {_adb.LOST}$"):
        adb.push(Store(tmp_path), PHONE, [])


def test_without_adb_the_error_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = adb.unavailable(Store(tmp_path), PHONE)
    assert reason is not None and reason.endswith("apt-get install --no-install-recommends adb")
    assert list(adb.discover(Store(tmp_path), [])) == [reason]


HOSTILE = ["", "a b", "it's", '"$HOME"', "$(touch x)", "`x`", ";", "a\nb", "..", "-n", "*", "\\", "é ☃"]


def test_arguments_pass_through_the_phones_shell_unchanged() -> None:
    command = _adb._quoted('for w; do printf "%s\\0" "$w"; done', HOSTILE)
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)  # as adbd calls its shell
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


@pytest.fixture(params=["42", "held 1", "lastmile", "\x1b[32mhi\x1b[0m\n{}"])
def noisy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """A phone whose shell prints something before it runs a command. This machine's shell stands in for it."""
    program = tmp_path / "adb"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(request.param)}\nexec sh -c \"$4\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Phone("noisy", "serial", {})


def test_what_the_phones_shell_prints_is_not_part_of_an_answer(noisy: Phone) -> None:
    assert noisy.shell('printf "%s " "$@"; false', "a", "b c").out == "a b c "
    assert noisy.shell("false").code == 1
    with noisy.exclusive("echo lastmile held one two; cat") as held:
        assert held == ["one", "two"]


def test_a_script_runs_only_while_the_job_holds_the_lock(noisy: Phone, tmp_path: Path) -> None:
    lock, trace = tmp_path / "lock", tmp_path / "trace"
    lock.touch()
    with noisy.exclusive("echo lastmile held; cat", guard=f"[ -e {lock} ]"):
        assert noisy.shell("echo fine").out.strip() == "fine"
        with pytest.raises(Unreachable, match=f"^noisy: {re.escape(_adb.LOCK_LOST)}$"):
            noisy.shell(f"rm {lock}")  # lost while the script ran
        with pytest.raises(Unreachable, match="lost its lock"):
            noisy.shell(f"touch {trace}")
    assert not trace.exists()
    assert noisy.shell("echo fine").out.strip() == "fine"  # without a lock there is nothing to lose


def test_no_command_is_sent_after_the_shell_that_holds_the_lock_ended(noisy: Phone) -> None:
    with noisy.exclusive("echo lastmile held; exec cat"):
        assert noisy.holder is not None
        noisy.holder.kill()
        noisy.holder.wait()
        trips = noisy.traffic.trips
        for command in (lambda: noisy.adb(["push", "a", "b"]), lambda: noisy.shell("true")):
            with pytest.raises(Unreachable, match="lost its lock"):
                command()
        assert noisy.traffic.trips == trips


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adress": "x"}, r"unknown key 'adress' \(known: board, chunk_samples, cool_down_c, .*summary"),
        ({"serial": 3}, "serial = 3 "),
        ({"chunk_samples": 0}, "chunk_samples = 0 "),
        ({"cool_down_c": "cold"}, "cool_down_c = 'cold' "),
        ({"fixed_performance": "yes"}, "fixed_performance "),
        ({"board": "pi4"}, r"board = 'pi4' .*\(known: \"phone\"\)"),
    ],
)
def test_an_unknown_key_or_invalid_value_is_an_error(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=message):
        adb.push(Store(tmp_path), Device("p", "adb", False, options), [])


def test_runtimes_that_the_app_does_not_contain_are_refused(tmp_path: Path) -> None:
    from pipeline import devices

    reason = devices.bound(PHONE).unsupported(registry.bind("targets", "onnx"))
    assert reason is not None and "onnxruntime" in reason
    with pytest.raises(StageFailed, match=f"^phone: {reason}$"):
        adb.setup(Store(tmp_path), PHONE, "onnxruntime")


LOGS = {
    "11-21 10:19:43.880  217  217 F DEBUG   : pid: 217, tid: 230, name: run  >>> org.lastmile.app <<<\n"
    "11-21 10:19:43.880  217  217 F DEBUG   : signal 11 (SIGSEGV), code 1 (SEGV_MAPERR), fault addr 0x0\n"
    "11-21 10:19:43.880  217  217 F DEBUG   : Abort message: 'bad'\n"
    "11-21 10:19:43.880  217  217 F DEBUG   :       #00 pc 0000000000001234  libtensorflowlite_jni.so (f+1)\n"
    "==log==\n": "crashed in native code: signal 11 (SIGSEGV), code 1 (SEGV_MAPERR), fault addr 0x0; "
    "Abort message: 'bad'; #00 pc 0000000000001234  libtensorflowlite_jni.so (f+1)",
    "11-21 10:19:40.0  1  1 E AndroidRuntime: FATAL EXCEPTION: run\n"
    "11-21 10:19:40.0  1  1 E AndroidRuntime: Process: org.lastmile.app, PID: 1\n"
    "11-21 10:19:40.0  1  1 E AndroidRuntime: java.lang.OutOfMemoryError: no more\n"
    "11-21 10:19:40.0  1  1 E AndroidRuntime: \tat org.lastmile.app.Run.work(Run.kt:3)\n"
    "==log==\n": "crashed: java.lang.OutOfMemoryError: no more",
    "==log==\n11-21 10:19:40.0  9  9 I lowmemorykiller: Kill 'org.lastmile.app' (1), uid 10123\n": (
        "was ended by the system or the user; the last lines of its log: Kill 'org.lastmile.app' (1), uid 10123"
    ),
    "": "was ended by the system or the user; the last lines of its log: none",
}


@pytest.mark.parametrize("log", LOGS)
def test_the_reason_of_the_apps_end_is_read_from_its_log(log: str) -> None:
    assert adb._end_reason(log) == LOGS[log]
