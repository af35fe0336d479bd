"""The emulated phone, really booted. The fixture `phone` (conftest.py) runs it for the whole session."""

from __future__ import annotations

import os
import platform
import shlex
import time
from pathlib import Path

import pytest

from pipeline import emulate
from pipeline.devices import adb
from pipeline.emulate import debian
from pipeline.emulate import phone as emulated
from pipeline.emulate.phone import image
from pipeline.errors import NeedsTool, StageFailed, UnknownName
from pipeline.system import proc
from pipeline.system.store import Store
from tests.phones import DEVICE, Phone

# -- the system --------------------------------------------------------------------------------------------------------


def test_it_has_androids_shell_and_a_property_that_marks_it_as_emulated(phone: Phone) -> None:
    assert phone.shell("echo $KSH_VERSION").startswith("@(#)MIRBSD KSH")
    assert phone.shell("getprop ro.lastmile.emulated") == "1"
    phone.shell("test -d /data/local/tmp && test -d /sdcard/Android/data")
    assert phone.adb("shell", "exit 7").returncode == 7


def test_arguments_of_system_commands_arrive_unchanged(phone: Phone) -> None:
    odd = "a b'c\"$d; `e`\n*.."
    assert phone.shell(f"getprop no.such {shlex.quote(odd)}") == odd


def test_an_unsupported_system_command_is_an_error(phone: Phone) -> None:
    assert phone.adb("shell", "service list").stdout.startswith("service: ")


def test_it_is_reachable_only_through_its_socket_and_has_no_network(phone: Phone) -> None:
    # Source: proc(5), net/tcp: local address and port in hexadecimal, state 0A is listening; 15B3 is adbd's 5555.
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    assert [row[1] for row in rows if row[3] == "0A" and row[1].endswith(":15B3")] == []
    socket = Path(phone.env["ADB_SERVER_SOCKET"].partition(":")[2])
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert phone.shell("ip route 2>/dev/null; ifconfig -S 2>/dev/null | grep -v '^lo' || true") == ""


def test_its_processes_have_a_seccomp_filter(phone: Phone) -> None:
    adbd = phone.shell("pidof adbd")
    status = phone.shell(f"cat /proc/{adbd}/status")
    assert "Seccomp:\t2" in status


def test_a_second_boot_changes_nothing(phone: Phone) -> None:
    before = dict(phone.env)
    assert emulate.boot(phone.build, "phone") == f"adb over {before['ADB_SERVER_SOCKET'].partition(':')[2]}"
    assert phone.env == before


# -- apps --------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_a_signed_app_is_not_installed(phone: Phone, tmp_path: Path) -> None:
    apk = tmp_path / "no app.apk"
    apk.write_bytes(b"no zip")
    assert "INSTALL_PARSE_FAILED_NO_CERTIFICATES" in phone.adb("install", "--no-streaming", apk).stdout


def test_the_shell_can_only_start_existing_activities_and_not_run_as_the_app(phone: Phone) -> None:
    adb.setup(phone.build, DEVICE, "litert")
    output = phone.adb("shell", f"am start -n {adb.PACKAGE}/.NoActivity").stdout
    assert "Activity class" in output and "does not exist" in output
    assert f"package:{adb.PACKAGE}" in phone.shell("pm list packages")
    assert phone.adb("shell", f"run-as {adb.PACKAGE} ls").stdout == f"run-as: package not debuggable: {adb.PACKAGE}\n"


def test_the_apps_screen_opens_without_a_crash(phone: Phone) -> None:
    adb.setup(phone.build, DEVICE, "litert")
    output = phone.shell(f"am start -W -n {adb.PACKAGE}/.MainActivity")
    assert "Status: ok" in output, phone.shell("logcat -d -b crash")
    time.sleep(2)  # for what the app does after its screen is shown
    assert phone.app() != "", phone.shell("logcat -d -b crash")
    phone.shell(f"am force-stop {adb.PACKAGE}")


# -- start and stop ----------------------------------------------------------------------------------------------------


def test_stopping_ends_all_its_processes(phone: Phone) -> None:
    state = emulated.boot(phone.build)
    assert emulate.stop(phone.build, "phone") is True
    assert proc.began(state["pid"]) is None
    assert not Path(state["socket"]).parent.exists()
    reason = emulated.endpoint(phone.build)
    assert isinstance(reason, str) and reason.endswith("inv devices.emulate --board phone")
    assert emulate.stop(phone.build, "phone") is False
    assert adb.unavailable(phone.build, DEVICE) == reason
    phone.reboot()


def test_an_unknown_board_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'phon'.*'phone'.*\(known: phone, pi4, pi5\)$"):
        emulate.boot(Store(tmp_path), "phon")


def test_another_architecture_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(NeedsTool, match=r"x86-64.*aarch64"):
        emulated.boot(Store(tmp_path))


def test_a_machine_without_namespaces_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = next(Path(folder) / "true" for folder in os.get_exec_path() if (Path(folder) / "true").exists())
    refuses = tmp_path / "unshare"
    refuses.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert real.exists()
    with pytest.raises(NeedsTool, match=r"namespaces.* \(unshare failed: Operation not permitted\)"):
        emulated.boot(Store(tmp_path / "build"))


# -- packages ----------------------------------------------------------------------------------------------------------

DEB822 = "# a mirror\nTypes: deb\nURIs: http://one/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
SECOND = "\nTypes: deb\nURIs: http://one/debian-security\n"
SOURCES = {
    "debian.sources": (f"{DEB822}Signed-By: /k.gpg\n{SECOND}", "/k.gpg"),
    "other.list": ("deb [arch=amd64 signed-by=/k.gpg] http://one/debian bookworm main contrib\n", "/k.gpg"),
    "plain.list": ("# deb http://no/debian x main\ndeb http://one/debian bookworm main\n", None),
}


@pytest.mark.parametrize("name", SOURCES)
def test_packages_come_from_the_hosts_debian_archive_for_another_suite(name: str, tmp_path: Path) -> None:
    text, key = SOURCES[name]
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "a.sources").write_text("Types: deb\nURIs: http://other/x\nComponents: main\n")
    (tmp_path / "sources.list.d" / name).write_text(text)
    fields = dict(line.split(": ", 1) for line in debian.sources("trixie", tmp_path).splitlines())
    signed = {"Signed-By": key} if key else {}
    assert fields == {
        "URIs": "http://one/debian", "Suites": "trixie", "Components": "main", "Types": "deb", **signed,
    }  # fmt: skip


def test_a_host_without_a_debian_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://one/ubuntu noble main\n")
    with pytest.raises(StageFailed, match=r"no Debian archive.*trixie"):
        debian.sources("trixie", tmp_path)


def test_adbd_mksh_and_toybox_are_pinned_by_version_and_hash() -> None:
    pinned = {name: sha256 for name, _, sha256 in image.pinned()}
    assert {"adbd", "mksh", "toybox"} <= set(pinned)
    assert all(len(sha256) == 64 for sha256 in pinned.values())
