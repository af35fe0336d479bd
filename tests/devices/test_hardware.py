"""What tells one piece of hardware from another. The phones here are an adb program that runs its commands on this
machine, with a getprop of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.core import Device
from pipeline.devices import _adb, adb, local
from pipeline.errors import Unreachable
from pipeline.stages import measure
from pipeline.stages.push import Runnable
from tests.builds import Tree
from tests.plans import QUICK

PROGRAMS = {
    "adb": """
case $1 in
devices) echo List of devices attached; [ ! -s "$HERE/phone" ] || echo "$(sed -n 1p "$HERE/phone") device usb:1-4" ;;
-s) echo "$3" >>"$HERE/log"; shift 3; exec sh -c "$*" ;;
esac
""",
    "getprop": """
case $1 in
ro.serialno) sed -n 2p "$HERE/phone" ;;
ro.build.fingerprint) sed -n 3p "$HERE/phone" ;;
esac
""",
    "am": "",
    "cmd": "",
    "pm": "",
}
PHONE = devices.bound(Device("phone", "adb"))
BUILD_1, BUILD_2 = "google/oriole/oriole:14/1:user/release-keys", "google/oriole/oriole:14/2:user/release-keys"


@dataclass(frozen=True)
class Cable:
    """The cable that adb sees one phone on."""

    folder: Path

    def plug_in(self, serial: str, fingerprint: str = BUILD_1, name: str | None = None) -> None:
        """Replaces the phone on the cable. Args: name: adb's name of it, if it is not its serial number."""
        (self.folder / "phone").write_text(f"{name or serial}\n{serial}\n{fingerprint}\n")
        adb.PHONES.clear()

    def unplug(self) -> None:
        (self.folder / "phone").unlink()
        adb.PHONES.clear()

    @property
    def calls(self) -> list[str]:
        """The calls of adb that went to the phone."""
        return (self.folder / "log").read_text().split() if (self.folder / "log").exists() else []


@pytest.fixture
def cable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cable:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\nHERE='{folder}'\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.setattr(adb, "FOLDER", str(tmp_path / "on the phone"))
    monkeypatch.setattr(adb, "RESULTS", str(tmp_path / "results"))
    return Cable(folder)


def key_on(tree: Tree, device: devices.BoundDevice) -> str:
    one = Runnable(tree.artifact("int8", "tflite"), tree.root / "model.tflite", "litert")
    return measure.key(tree.build, tree.checkpoint(), device, one, 1, QUICK)


def test_two_phones_on_one_cable_share_no_figure_and_the_first_loses_none(cable: Cable, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "build")
    keys = []
    for serial, fingerprint in (("A1", BUILD_1), ("B2", BUILD_1), ("A1", BUILD_2), ("A1", BUILD_1)):
        cable.plug_in(serial, fingerprint)
        keys.append(key_on(tree, PHONE))
    assert len(set(keys)) == 3 and keys[0] == keys[3]
    tree.measure("int8", "tflite", device={"name": "phone"}, key=keys[0])
    folder = tree.build.cell("toy", "torch", "int8", "tflite") / "phone"
    assert [measure.ready(folder, key) for key in keys] == [True, False, False, True]


def test_a_phone_is_the_same_over_wi_fi(cable: Cable, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "build")
    cable.plug_in("A1")
    by_cable = key_on(tree, PHONE)
    cable.plug_in("A1", name="192.168.1.7:5555")
    by_address = devices.bound(Device("phone", "adb", False, {"serial": "192.168.1.7:5555", "summary": "on the wall"}))
    assert key_on(tree, by_address) == by_cable


def test_a_phone_is_asked_once_and_again_when_it_is_locked(cable: Cable, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "build")
    cable.plug_in("A1")
    planned = {PHONE.hardware(tree.build) for _ in range(3)}
    assert planned == {f"serial A1, build {BUILD_1}"}
    assert cable.calls == ["shell"]
    (cable.folder / "phone").write_text(f"A1\nB2\n{BUILD_1}\n")  # another phone that adb gives the same name
    with PHONE.exclusive(tree.build):
        assert PHONE.hardware(tree.build) == f"serial B2, build {BUILD_1}"
    assert _adb.HELD == []


def test_without_a_phone_the_reason_is_one_line(cable: Cable, tmp_path: Path) -> None:
    cable.plug_in("A1")
    cable.unplug()
    with pytest.raises(Unreachable, match=r"^phone: adb sees no phone"):
        PHONE.hardware(Tree(tmp_path / "build").build)


def test_a_phone_without_a_serial_number_is_known_by_adbs(cable: Cable, tmp_path: Path) -> None:
    cable.plug_in("", name="0123456789")
    assert PHONE.hardware(Tree(tmp_path / "build").build) == f"serial 0123456789, build {BUILD_1}"


def test_this_machine_is_its_processor_and_its_cores(tmp_path: Path) -> None:
    here = devices.find("local").hardware(Tree(tmp_path / "build").build)
    assert here == f"{local._processor()}, {os.cpu_count()} cores"
    assert len({devices.find(name).hardware(Tree(tmp_path).build) for name in ("local", "local-tflite-runtime")}) == 1


def test_emulated_devices_need_not_run_to_be_known(tmp_path: Path) -> None:
    build = Tree(tmp_path / "build").build
    found = [devices.find(name).hardware(build) for name in ("pi4-emulated", "pi5-emulated", "phone-emulated")]
    assert len(set(found)) == 3
    assert devices.find("pi4-emulated-tflite-runtime").hardware(build) == found[0]
