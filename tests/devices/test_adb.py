"""Which phone is meant, and what is said where none can be used; and the one place that quotes for a phone's shell."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Device
from pipeline.devices import _adb, adb
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
    "R5CT20ABCDE            recovery usb:1-4 product:x transport_id:3\n": "start its system",
    "R5CT20ABCDE            hibernating transport_id:3\n": "adb calls it 'hibernating'",
}
PHONE = Device("phone", "adb")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The user's own adb server; it sees nothing until it is told."""
    try:
        packages.require("phones")
    except NeedsTool as error:
        pytest.skip(str(error))
    started = Server(tmp_path, "")
    monkeypatch.setenv("ADB_SERVER_SOCKET", started.env["ADB_SERVER_SOCKET"])
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    yield started
    started.stop()


def test_adb_says_which_phones_it_sees(server: Server) -> None:
    server.phones = ONE + OTHER + next(iter(STRANGE)).replace("R5", "Z9")
    found = _adb.seen({})
    assert [(each.serial, each.state) for each in found] == [
        ("R5CT20ABCDE", "device"), ("192.168.1.7:5555", "device"), ("Z9CT20ABCDE", "unauthorized"),
    ]  # fmt: skip


@pytest.mark.parametrize("line", STRANGE)
def test_a_phone_that_cannot_be_used_is_named_with_what_mends_it(server: Server, line: str, tmp_path: Path) -> None:
    server.phones = line
    told = adb.unavailable(Store(tmp_path), PHONE)
    assert told is not None and told.startswith("R5CT20ABCDE: ") and STRANGE[line] in told and "\n" not in told
    assert list(adb.discover(Store(tmp_path), [])) == [told]


def test_no_phone_two_phones_and_none_named_and_one_that_is_not_there(server: Server, tmp_path: Path) -> None:
    build = Store(tmp_path)
    assert adb.unavailable(build, PHONE) == _adb.NONE
    server.phones = ONE + OTHER
    told = adb.unavailable(build, PHONE)
    assert told == 'adb sees 2 phones (R5CT20ABCDE, 192.168.1.7:5555): say serial = "…" in devices.toml'
    with pytest.raises(Unreachable, match=r"^named: adb sees no phone X9 \(it sees R5CT20ABCDE, 192.168.1.7:5555\)"):
        adb.push(build, Device("named", "adb", False, {"serial": "X9"}), [])
    assert _adb.choose("x", _adb.seen({}), "192.168.1.7:5555").serial == "192.168.1.7:5555"


def test_a_phone_that_leaves_in_between_is_said_to_be_lost(server: Server, tmp_path: Path) -> None:
    server.phones = ONE
    with pytest.raises(Unreachable, match=f"^phone: {_adb.LOST}$"):
        adb.push(Store(tmp_path), PHONE, [])


def test_without_adb_the_line_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told = "adb not found; as root: apt-get install --no-install-recommends adb"
    assert adb.unavailable(Store(tmp_path), PHONE) == told
    assert list(adb.discover(Store(tmp_path), [])) == [told]


HOSTILE = ["", "a b", "it's", '"$HOME"', "$(touch x)", "`x`", ";", "a\nb", "..", "-n", "*", "\\", "é ☃"]


def test_every_word_arrives_in_the_phones_shell_as_it_is() -> None:
    command = _adb._quoted('for w; do printf "%s\\0" "$w"; done', HOSTILE)
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)  # as adbd calls its own
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"adress": "x"}, r"unknown key 'adress' \(known: board, chunk_samples, cool_down_c, .*summary"),
        ({"serial": 3}, "serial = 3 is not a text"),
        ({"chunk_samples": 0}, "chunk_samples = 0 is not a whole number above 0"),
        ({"cool_down_c": "cold"}, "cool_down_c = 'cold' is not a number"),
        ({"fixed_performance": "yes"}, "fixed_performance is true or false"),
        ({"board": "pi4"}, r"board = 'pi4' is unknown \(known: \"phone\"\)"),
    ],
)
def test_a_key_that_cannot_be_is_refused(options: dict[str, object], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=complaint):
        adb.push(Store(tmp_path), Device("p", "adb", False, options), [])


def test_what_the_app_does_not_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    from pipeline import devices

    onnx = registry.bind("targets", "onnx")
    assert devices.bound(PHONE).unsupported(onnx) == "the app runs LiteRT and ExecuTorch, not onnxruntime"
    with pytest.raises(StageFailed, match=r"^phone: the app runs LiteRT and ExecuTorch, not onnxruntime$"):
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
        "was ended by the system or by a person; its log's last lines: Kill 'org.lastmile.app' (1), uid 10123"
    ),
    "": "was ended by the system or by a person; its log's last lines: none",
}


@pytest.mark.parametrize("log", LOGS)
def test_how_an_app_died_is_one_line_of_its_log(log: str) -> None:
    assert adb._death(log) == LOGS[log]
