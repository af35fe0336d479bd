"""Faults on an emulated phone: each ends in one line that says what happened and what to do, and nothing is lost.

Most are asked of the device kind; those that are about a whole command go through the door.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline import android
from pipeline.android import package
from pipeline.core import Measurement
from pipeline.devices import _adb, adb
from pipeline.emulate import phone as emulated
from pipeline.errors import StageFailed, Unreachable
from pipeline.system import store
from pipeline.system.proc import Done
from pipeline.system.store import Store
from tests.cli import Running, inv
from tests.phones import DEVICE, Phone

SAMPLES, CHUNK = 504, 200
QUICK = ("--min-runs", "3", "--min-seconds", "0")
LOST = f"phone-emulated: {_adb.LOST}"
TABLE = f"""
[phone-emulated]
kind = "adb"
board = "phone"
emulated = true
chunk_samples = {CHUNK}
"""


@dataclass(frozen=True)
class Files:
    """A model and the pictures that it is evaluated on, here."""

    model: Path
    pictures: Path

    def run(self, *more: str) -> list[str | Path]:
        return ["run", self.model, "--runtime", "litert", "--inputs", self.pictures, "--layout", "NHWC", *more]


@pytest.fixture
def files(matrix: Store) -> Files:
    return Files(next(matrix.root.glob("*/fp32/tflite/model.tflite")), next(matrix.root.glob("data/*/images.npy")))


@pytest.fixture
def job(phone: Phone) -> Iterator[Phone]:
    """The phone, held for one job, with the app on it."""
    with adb.exclusive(phone.build, DEVICE):
        adb.setup(phone.build, DEVICE, "litert")
        yield phone


def until(there: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def cut(phone: Phone) -> None:
    """As a pulled cable does: the phone's end of the line goes away, and comes again after a second."""
    phone.adb("shell", "kill -9 $(pidof adbd)")


def plugged_in(phone: Phone) -> bool:
    return phone.adb("get-state").stdout.strip() == "device"


# -- the app -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "told"),
    [
        ("KILL", "edge-bench: the app was ended by the system or by a person; its log's last lines: "),
        ("SEGV", "edge-bench: the app crashed in native code: signal 11 (SIGSEGV)"),
    ],
)
def test_an_app_that_dies_in_the_middle_is_a_result_with_the_logs_last_words(
    job: Phone, files: Files, signal: str, told: str
) -> None:
    adb.push(job.build, DEVICE, [files.model, files.pictures])
    done: list[Done] = []
    words = files.run("--min-seconds", "600")
    call = threading.Thread(target=lambda: done.append(adb.call(job.build, DEVICE, "litert", words, 300)))
    call.start()
    until(lambda: "Loaded native library" in job.adb("logcat", "-d").stdout)
    job.shell(f"kill -{signal} {job.app()}; logcat -c")
    call.join()
    assert done[0].code == 1
    assert done[0].reason.startswith(told)


def test_a_model_that_was_altered_there_is_refused_and_sent_anew(job: Phone, files: Files) -> None:
    there = adb.push(job.build, DEVICE, [files.model, files.pictures])[0][files.model]
    job.shell(f"echo altered >>{there}")
    done = adb.call(job.build, DEVICE, "litert", files.run(*QUICK), 300)
    assert done.code == 2 and str(files.model) in done.reason
    assert adb.push(job.build, DEVICE, [files.model])[1] == store.size(files.model)
    assert adb.call(job.build, DEVICE, "litert", files.run(*QUICK), 300).code == 0


def for_core_ml(model: Path, into: Path) -> Path:
    """An ExecuTorch file as if exported for another backend: a text in a flatbuffer is its length and its bytes."""
    ours, others = b"\x0e\0\0\0XnnpackBackend\0", b"\x0d\0\0\0CoreMLBackend\0\0"
    content = model.read_bytes()
    assert ours in content
    path = into / "model.pte"
    path.write_bytes(content.replace(ours, others))
    return path


def with_an_operator_of_its_own(model: Path, into: Path) -> Path:
    """A TFLite file whose first operator is one that no runtime knows."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    there = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes()))
    code = there.operatorCodes[there.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "MySpecialOp"
    builder = flatbuffers.Builder()
    builder.Finish(there.Pack(builder), b"TFL3")
    path = into / "model.tflite"
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize(
    ("target", "spoil", "told"),
    [
        (
            "executorch",
            for_core_ml,
            "it was exported for CoreMLBackend, and this build has VulkanBackend, XnnpackBackend",
        ),
        ("tflite", with_an_operator_of_its_own, "Encountered unresolved custom op: MySpecialOp"),
    ],
)
def test_what_the_engine_has_not_is_named(
    job: Phone, matrix: Store, tmp_path: Path, target: str, spoil: Callable[[Path, Path], Path], told: str
) -> None:
    model = spoil(next(matrix.root.glob(f"*/fp32/{target}/model.*")), tmp_path)
    adb.push(job.build, DEVICE, [model])
    done = adb.call(job.build, DEVICE, {"tflite": "litert"}.get(target, target), ["run", model, *QUICK], 300)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("edge-bench: ") and done.err.count("\n") == 1
    assert told in done.err and done.err.count("https://") <= 1


def test_evaluation_data_cut_short_is_named(job: Phone, files: Files, tmp_path: Path) -> None:
    short = tmp_path / "it's $short; .npy"
    short.write_bytes(files.pictures.read_bytes()[:-100])
    adb.push(job.build, DEVICE, [files.model, short])
    done = adb.call(job.build, DEVICE, "litert", Files(files.model, short).run(*QUICK), 300)
    assert done.code == 2 and done.reason.startswith(f"edge-bench: {short}")


def test_a_run_past_its_time_is_ended_and_nothing_is_left_running(phone: Phone, files: Files) -> None:
    with adb.exclusive(phone.build, DEVICE):
        adb.setup(phone.build, DEVICE, "litert")
        adb.push(phone.build, DEVICE, [files.model, files.pictures])
        done = adb.call(phone.build, DEVICE, "litert", files.run("--min-seconds", "600"), 2)
        assert done.reason == "timeout after 2 s"
        until(lambda: phone.app() == "")
    assert phone.shell("ls /data/local/tmp/lastmile/runs") == ""
    assert phone.shell(f"ls {adb.OWN} 2>/dev/null || true") == ""


def test_a_locked_screen_is_said_and_one_without_a_pin_is_opened(job: Phone) -> None:
    job.shell("locksettings set-pin 1234; input keyevent KEYCODE_SLEEP")
    try:
        with pytest.raises(Unreachable, match=r"^phone-emulated: its screen is locked: unlock it"):
            adb.call(job.build, DEVICE, "litert", ["facts"], 300)
    finally:
        job.shell("locksettings clear")
    assert adb.call(job.build, DEVICE, "litert", ["facts"], 300).code == 0


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_cable_pulled_in_a_push_leaves_no_half_file(phone: Phone, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes(192 << 20))
    said: list[BaseException] = []

    def push() -> None:
        try:
            adb.push(phone.build, DEVICE, [large])
        except Unreachable as error:
            said.append(error)

    sending = threading.Thread(target=push)
    sending.start()
    until(lambda: phone.adb("shell", "ls -a /data/local/tmp/lastmile/files").stdout.count(".tmp-"))
    cut(phone)
    sending.join()
    assert [str(error) for error in said] == [LOST]
    until(lambda: plugged_in(phone))
    with adb.exclusive(phone.build, DEVICE):
        assert phone.adb("shell", "ls -a /data/local/tmp/lastmile/files").stdout.count(".tmp-") == 0
    assert adb.push(phone.build, DEVICE, [large])[1] == 192 << 20
    adb.clean(phone.build, DEVICE)


@dataclass(frozen=True)
class Desk:
    """A person's build folder, from which the phone is used."""

    build: Path
    tiny: Path
    devices: Path

    @property
    def bench(self) -> tuple[object, ...]:
        words = ("bench", "--model", self.tiny, "--target", "tflite", "--recipe", "fp32", "--device", "phone-emulated")
        return (*words, *QUICK)

    @property
    def env(self) -> dict[str, str]:
        return {"LASTMILE_DEVICES": str(self.devices)}

    @property
    def folder(self) -> Path:
        return self.build / "tiny.torch" / "fp32" / "tflite" / "phone-emulated"


@pytest.fixture
def desk(tmp_path: Path, matrix: Store, phone: Phone, tiny: Path) -> Desk:
    home = matrix.root / "tiny.torch"
    for part in ("checkpoint", "graphs", "fp32/tflite"):
        shutil.copytree(home / part, tmp_path / "build" / "tiny.torch" / part)
    shutil.copytree(matrix.root / "data", tmp_path / "build" / "data")
    for part in ("boards", "android"):
        (tmp_path / "build" / part).symlink_to(phone.build.root / part)
    (tmp_path / "devices.toml").write_text(TABLE)
    return Desk(tmp_path / "build", tiny, tmp_path / "devices.toml")


def test_a_cable_pulled_in_a_bench_loses_nothing_that_was_finished(desk: Desk, phone: Phone, matrix: Store) -> None:
    running = Running(desk.build, *desk.bench, **desk.env)
    running.until((desk.folder / "chunks" / "0.json").is_file)
    cut(phone)
    done = running.ended()
    assert done.complaint == LOST
    until(lambda: plugged_in(phone))
    again = inv(desk.build, *desk.bench, **desk.env)
    assert again.code == 0, again.err
    kept = [line for line in again.err.splitlines() if "chunks of samples are there" in line]
    assert kept == ["  1 of 3 chunks of samples exist; computing the others"]
    found = store.read(Measurement, desk.folder / "measurement.json")
    here = next(matrix.root.glob("*/fp32/tflite/local/predictions.npz"))
    assert found is not None and found.accuracy.samples == SAMPLES
    assert found.runtime["delegate"] == "xnnpack"
    with np.load(here) as one, np.load(desk.folder / "predictions.npz") as other:
        assert np.abs(one["output_0"] - other["output_0"]).max() < 1e-3
    assert phone.app() == ""


def test_a_second_job_waits_and_says_for_whom(phone: Phone, desk: Desk) -> None:
    with adb.exclusive(phone.build, DEVICE):
        words = [str(word) for word in desk.bench if word not in QUICK]
        other = Running(desk.build, "push", *words[1:], **desk.env)
        other.until_said("phone-emulated is in use by ")
        assert f"process {os.getpid()}" in other.said[-1]
    assert other.ended().code == 0


def test_cleaning_leaves_nothing_of_ours_there_and_lets_who_waited_have_the_phone_alone(
    phone: Phone, desk: Desk
) -> None:
    with adb.exclusive(phone.build, DEVICE):
        words = [str(word) for word in desk.bench if word not in QUICK]
        other = Running(desk.build, "push", *words[1:], **desk.env)
        other.until_said("phone-emulated is in use by ")
        adb.clean(phone.build, DEVICE)
    assert other.ended().code == 0
    assert phone.shell("ls /data/local/tmp/lastmile/files") != ""
    adb.clean(phone.build, DEVICE)
    assert phone.shell("ls -A /data/local/tmp /data/app /sdcard/Android/data") == (
        "/data/app:\n\n/data/local/tmp:\n\n/sdcard/Android/data:"
    )


def test_a_phone_whose_clock_is_years_off_is_measured_and_believed_in_nothing_of_time(
    phone: Phone, desk: Desk, files: Files
) -> None:
    phone.anew(emulated.Boot(clock=1_000_000_000))
    try:
        assert phone.shell("date +%Y") == "2001"
        done = inv(desk.build, *desk.bench, **desk.env)
        assert done.code == 0, done.err
        found = store.read(Measurement, desk.folder / "measurement.json")
        assert found is not None and datetime.now(UTC) - datetime.fromisoformat(found.started_at) < timedelta(hours=1)
        phone.shell("logcat -c")
        with adb.exclusive(phone.build, DEVICE):
            test_an_app_that_dies_in_the_middle_is_a_result_with_the_logs_last_words(
                phone, files, "SEGV", "edge-bench: the app crashed in native code: signal 11 (SIGSEGV)"
            )
            assert phone.shell("logcat -d -t 1").startswith("09-09 ")  # of 2001
    finally:
        phone.anew()


# -- installing --------------------------------------------------------------------------------------------------------


def resigned(phone: Phone, tmp_path: Path) -> Path:
    """The app as somebody else signs it."""
    key, apk = tmp_path / "other.jks", tmp_path / "other.apk"
    words = ["keytool", "-genkeypair", "-keystore", key, "-storepass", "secret", "-keypass", "secret", "-alias", "a"]
    subprocess.run([*words, "-keyalg", "RSA", "-dname", "CN=other"], check=True, capture_output=True)
    shutil.copyfile(android.path(phone.build), apk)
    words = ["apksigner", "sign", "--ks", key, "--ks-pass", "pass:secret", apk]
    subprocess.run(words, check=True, capture_output=True)
    return apk


def older(phone: Phone, tmp_path: Path) -> Path:
    """An app of ours with something else in it."""
    apk = tmp_path / "older.apk"
    shutil.copyfile(android.path(phone.build), apk)
    with zipfile.ZipFile(apk, "a") as archive:
        archive.writestr("assets/older", "once", zipfile.ZIP_DEFLATED)
    package.sign(apk, package.DEBUG_KEY)
    return apk


def test_an_older_app_gives_way_to_the_one_that_is_here(
    phone: Phone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adb.clean(phone.build, DEVICE)
    assert "Success" in phone.adb("install", "--no-streaming", older(phone, tmp_path)).stdout
    for said in ("installing the app on phone-emulated (", ""):
        adb.setup(phone.build, DEVICE, "litert")
        assert capfd.readouterr().err.startswith(said)
        there = phone.shell(f"sha256sum $(pm path {adb.PACKAGE} | cut -d: -f2)")
        assert there.split()[0] == store.sha256(android.path(phone.build))


def test_an_app_of_another_signer_is_left_alone_and_a_phone_without_room_says_so(phone: Phone, tmp_path: Path) -> None:
    adb.clean(phone.build, DEVICE)
    assert "Success" in phone.adb("install", "--no-streaming", resigned(phone, tmp_path)).stdout
    with pytest.raises(StageFailed, match=r"signed with another key is there: adb uninstall org\.lastmile\.app"):
        adb.setup(phone.build, DEVICE, "litert")
    phone.anew(emulated.Boot(data_mb=8))
    try:
        with pytest.raises(StageFailed, match=r"^phone-emulated: no space for the app: free some on the phone$"):
            adb.setup(phone.build, DEVICE, "litert")
        large = tmp_path / "large.bin"
        large.write_bytes(bytes(16 << 20))
        with pytest.raises(StageFailed, match=r"^phone-emulated: no space left there; inv devices.clean --device"):
            adb.push(phone.build, DEVICE, [large])
    finally:
        phone.anew()
    assert adb.unavailable(phone.build, DEVICE) is None
