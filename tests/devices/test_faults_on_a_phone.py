"""Faults on an emulated phone: each ends in one line that says what to do, and no finished work is lost.

Most tests call the device kind; those about whole commands run `inv`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

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
LOST, LOCK_LOST = f"phone-emulated: {_adb.LOST}", f"phone-emulated: {_adb.LOCK_LOST}"
TABLE = f"""
[phone-emulated]
kind = "adb"
board = "phone"
emulated = true
chunk_samples = {CHUNK}
"""


@dataclass(frozen=True)
class Files:
    """A model and its evaluation images, on this machine."""

    model: Path
    images: Path

    def run(self, *more: str) -> list[str | Path]:
        return ["run", self.model, "--runtime", "litert", "--inputs", self.images, "--layout", "NHWC", *more]


@pytest.fixture
def files(matrix: Store) -> Files:
    return Files(next(matrix.root.glob("*/fp32/tflite/model.tflite")), next(matrix.root.glob("data/*/images.npy")))


@pytest.fixture
def job(phone: Phone) -> Iterator[Phone]:
    """The phone, locked for one job, with the app installed."""
    with adb.exclusive(phone.build, DEVICE):
        adb.setup(phone.build, DEVICE, "litert")
        yield phone


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def cut(phone: Phone) -> None:
    """Kills adbd, which has the effect of a pulled cable. It restarts after a second."""
    phone.adb("shell", "kill -9 $(pidof adbd)")


def kill_shell(phone: Phone) -> None:
    """Kills the shell that holds the lock, with all its processes, so that it restores nothing."""
    phone.shell("kill -9 $(pgrep -f 'stay_on_while_plugged_[i]n.*flock -n 9'); pkill -9 -x cat; true")


def plugged_in(phone: Phone) -> bool:
    return phone.adb("get-state").stdout.strip() == "device"


# -- the app -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("KILL", "edge-bench: the app was ended by the system or the user; "),
        ("SEGV", "edge-bench: the app crashed in native code: signal 11 (SIGSEGV)"),
    ],
)
def test_a_crash_of_the_app_is_an_error_with_the_reason_from_its_log(
    job: Phone, files: Files, name: str, message: str
) -> None:
    adb.push(job.build, DEVICE, [files.model, files.images])
    done: list[Done] = []
    args = files.run("--min-seconds", "600")
    call = threading.Thread(target=lambda: done.append(adb.call(job.build, DEVICE, "litert", args, 300)))
    call.start()
    until(lambda: "Loaded native library" in job.adb("logcat", "-d").stdout)
    job.shell(f"kill -{name} {job.app()}; logcat -c")
    call.join()
    assert done[0].code == 1
    assert done[0].reason.startswith(message)


def test_the_shrunk_app_measures_without_copies_and_its_memory_in_another_process(job: Phone, files: Files) -> None:
    adb.push(job.build, DEVICE, [files.model, files.images])
    done = adb.call(job.build, DEVICE, "litert", files.run(*QUICK), 300)
    assert done.code == 0, done.reason
    found = done.result()
    assert found["includes_input_copy"] is False
    assert found["memory_process"] == "memory" and found["peak_rss_bytes"] > found["rss_before_load_bytes"] > 0
    assert found["pss_bytes"] > 0 and isinstance(found["peak_rss_reset"], bool)
    assert (found["foreground_lost"], found["screen_off"], found["call"]) == (False, False, False)
    libraries = package.libraries("x86_64", ("litert",))
    assert found["runtime"]["library_sha256"] == hashlib.sha256(libraries["libtensorflowlite_jni.so"]).hexdigest()


def test_a_model_that_was_changed_on_the_phone_is_refused_and_sent_again(job: Phone, files: Files) -> None:
    remote = adb.push(job.build, DEVICE, [files.model, files.images])[0][files.model]
    job.shell(f"echo changed >>{remote}")
    done = adb.call(job.build, DEVICE, "litert", files.run(*QUICK), 300)
    assert done.code == 2 and str(files.model) in done.reason
    assert adb.push(job.build, DEVICE, [files.model])[1] == store.size(files.model)
    assert adb.call(job.build, DEVICE, "litert", files.run(*QUICK), 300).code == 0


def for_core_ml(model: Path, into: Path) -> Path:
    """An ExecuTorch file as if exported for another backend. A flatbuffer stores a string as its length and bytes."""
    ours, others = b"\x0e\0\0\0XnnpackBackend\0", b"\x0d\0\0\0CoreMLBackend\0\0"
    content = model.read_bytes()
    assert ours in content
    path = into / "model.pte"
    path.write_bytes(content.replace(ours, others))
    return path


def with_custom_operator(model: Path, into: Path) -> Path:
    """A TFLite file whose first operator is unknown to all runtimes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes()))
    code = content.operatorCodes[content.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "MySpecialOp"
    builder = flatbuffers.Builder()
    builder.Finish(content.Pack(builder), b"TFL3")
    path = into / "model.tflite"
    path.write_bytes(builder.Output())
    return path


@pytest.mark.parametrize(
    ("target", "change", "reasons"),
    [
        ("executorch", for_core_ml, ("CoreMLBackend", "VulkanBackend, XnnpackBackend")),
        ("tflite", with_custom_operator, ("Encountered unresolved custom op: MySpecialOp",)),
    ],
)
def test_a_missing_backend_or_operator_is_named(
    job: Phone,
    matrix: Store,
    tmp_path: Path,
    target: str,
    change: Callable[[Path, Path], Path],
    reasons: tuple[str, ...],
) -> None:
    model = change(next(matrix.root.glob(f"*/fp32/{target}/model.*")), tmp_path)
    adb.push(job.build, DEVICE, [model])
    done = adb.call(job.build, DEVICE, {"tflite": "litert"}.get(target, target), ["run", model, *QUICK], 300)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("edge-bench: ") and done.err.count("\n") == 1
    assert all(reason in done.err for reason in reasons) and done.err.count("https://") <= 1


def test_a_truncated_file_of_samples_is_named(job: Phone, files: Files, tmp_path: Path) -> None:
    short = tmp_path / "it's $short; .npy"
    short.write_bytes(files.images.read_bytes()[:-100])
    adb.push(job.build, DEVICE, [files.model, short])
    done = adb.call(job.build, DEVICE, "litert", Files(files.model, short).run(*QUICK), 300)
    assert done.code == 2 and done.reason.startswith(f"edge-bench: {short}")


def test_a_run_that_exceeds_its_timeout_is_ended_and_leaves_nothing_behind(phone: Phone, files: Files) -> None:
    with adb.exclusive(phone.build, DEVICE):
        adb.setup(phone.build, DEVICE, "litert")
        adb.push(phone.build, DEVICE, [files.model, files.images])
        done = adb.call(phone.build, DEVICE, "litert", files.run("--min-seconds", "600"), 2)
        assert done.timed_out and "2 s" in done.reason
        until(lambda: phone.app() == "")
    assert phone.shell("ls /data/local/tmp/lastmile/runs") == ""
    assert phone.shell(f"ls {adb.RESULTS} 2>/dev/null || true") == ""


def test_a_screen_with_a_pin_must_be_unlocked_and_one_without_is_unlocked(job: Phone) -> None:
    job.shell("locksettings set-pin 1234; input keyevent KEYCODE_SLEEP")
    try:
        with pytest.raises(Unreachable, match=r"^phone-emulated: its screen is locked: unlock it"):
            adb.call(job.build, DEVICE, "litert", ["facts"], 300)
    finally:
        job.shell("locksettings clear")
    assert adb.call(job.build, DEVICE, "litert", ["facts"], 300).code == 0


# -- the connection ----------------------------------------------------------------------------------------------------


def test_a_cable_pulled_during_a_push_leaves_no_partial_file(phone: Phone, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(np.random.default_rng(0).bytes(192 << 20))
    errors: list[BaseException] = []

    def push() -> None:
        try:
            adb.push(phone.build, DEVICE, [large])
        except Unreachable as error:
            errors.append(error)

    sending = threading.Thread(target=push)
    sending.start()
    until(lambda: phone.adb("shell", "ls -a /data/local/tmp/lastmile/files").stdout.count(".tmp-"))
    cut(phone)
    sending.join()
    assert [str(error) for error in errors] == [LOST]
    until(lambda: plugged_in(phone))
    with adb.exclusive(phone.build, DEVICE):
        assert phone.adb("shell", "ls -a /data/local/tmp/lastmile/files").stdout.count(".tmp-") == 0
    assert adb.push(phone.build, DEVICE, [large])[1] == 192 << 20
    adb.clean(phone.build, DEVICE)


@dataclass(frozen=True)
class Desk:
    """A user's build folder, from which the phone is used."""

    build: Path
    tiny: Path
    devices: Path

    @property
    def bench(self) -> tuple[object, ...]:
        task = ("bench", "--model", self.tiny, "--target", "tflite", "--recipe", "fp32", "--device", "phone-emulated")
        return (*task, *QUICK)

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


@pytest.mark.parametrize(
    ("fault", "errors"), [(cut, (LOST, LOCK_LOST)), (kill_shell, (LOCK_LOST,))], ids=["cable pulled", "lock lost"]
)
def test_finished_work_survives_a_fault_during_a_bench(
    desk: Desk, phone: Phone, matrix: Store, fault: Callable[[Phone], None], errors: Sequence[str]
) -> None:
    running = Running(desk.build, *desk.bench, **desk.env)
    running.until((desk.folder / "chunks" / "0.json").is_file)
    fault(phone)
    done = running.wait()
    assert done.complaint in errors
    until(lambda: plugged_in(phone))
    again = inv(desk.build, *desk.bench, **desk.env)
    assert again.code == 0, again.err
    assert "1 of 3 chunks" in again.err
    found = store.read(Measurement, desk.folder / "measurement.json")
    local = next(matrix.root.glob("*/fp32/tflite/local/predictions.npz"))
    assert found is not None and found.accuracy.samples == SAMPLES
    assert found.runtime["delegate"] == "xnnpack"
    assert len(found.device["states"]) == len(found.processes)
    assert found.device["states"][0].keys() == {"before", "after", "samples"}
    assert (found.device["compiled"], found.device["stay_on"]) == ("speed", True)
    with np.load(local) as one, np.load(desk.folder / "predictions.npz") as other:
        assert np.abs(one["output_0"] - other["output_0"]).max() < 1e-3
    assert phone.app() == ""


def test_a_second_job_waits_and_names_the_first(phone: Phone, desk: Desk) -> None:
    with adb.exclusive(phone.build, DEVICE):
        args = [str(arg) for arg in desk.bench if arg not in QUICK]
        other = Running(desk.build, "push", *args[1:], **desk.env)
        other.until_printed("phone-emulated is in use by ")
        assert f"process {os.getpid()}" in other.printed[-1]
    assert other.wait().code == 0


def test_cleaning_removes_everything_even_while_another_job_waits(phone: Phone, desk: Desk) -> None:
    with adb.exclusive(phone.build, DEVICE):
        args = [str(arg) for arg in desk.bench if arg not in QUICK]
        other = Running(desk.build, "push", *args[1:], **desk.env)
        other.until_printed("phone-emulated is in use by ")
        adb.clean(phone.build, DEVICE)
    assert other.wait().code == 0
    assert phone.shell("ls /data/local/tmp/lastmile/files") != ""
    adb.clean(phone.build, DEVICE)
    assert phone.shell("ls -A /data/local/tmp /data/app /sdcard/Android/data") == (
        "/data/app:\n\n/data/local/tmp:\n\n/sdcard/Android/data:"
    )


def test_a_wrong_clock_of_the_phone_affects_nothing(phone: Phone, desk: Desk, files: Files) -> None:
    phone.reboot(emulated.Boot(clock=1_000_000_000))
    try:
        assert phone.shell("date +%Y") == "2001"
        done = inv(desk.build, *desk.bench, **desk.env)
        assert done.code == 0, done.err
        found = store.read(Measurement, desk.folder / "measurement.json")
        assert found is not None
        started_at = datetime.fromisoformat(found.processes[0].started_at)
        assert datetime.now(UTC) - started_at < timedelta(hours=1)
        phone.shell("logcat -c")
        with adb.exclusive(phone.build, DEVICE):
            test_a_crash_of_the_app_is_an_error_with_the_reason_from_its_log(
                phone, files, "SEGV", "edge-bench: the app crashed in native code: signal 11 (SIGSEGV)"
            )
            assert phone.shell("logcat -d -t 1").startswith("09-09 ")  # 2001
    finally:
        phone.reboot()


# -- the lock, and what a job sets on the phone ------------------------------------------------------------------------


def kill_server(phone: Phone) -> None:
    """Kills adb's server. The emulated phone starts another one."""
    socket = phone.env["ADB_SERVER_SOCKET"].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[:1] == [b"adb"] and socket in words and b"server" in words:
                os.kill(int(folder.name), signal.SIGKILL)
    until(lambda: plugged_in(phone))


@pytest.mark.parametrize("end", [kill_shell, kill_server])
def test_a_job_that_lost_its_lock_runs_no_further_command(phone: Phone, end: Callable[[Phone], None]) -> None:
    with pytest.raises(Unreachable) as raised, adb.exclusive(phone.build, DEVICE):
        adb.setup(phone.build, DEVICE, "litert")
        assert adb.call(phone.build, DEVICE, "litert", ["facts"], 300).code == 0
        end(phone)
        adb.call(phone.build, DEVICE, "litert", ["facts"], 300)
    assert str(raised.value) == LOCK_LOST
    until(lambda: plugged_in(phone))
    assert adb.call(phone.build, DEVICE, "litert", ["facts"], 300).code == 0  # another job


def test_a_script_whose_job_no_longer_holds_the_lock_fails(phone: Phone) -> None:
    with adb.exclusive(phone.build, DEVICE):
        held = _adb.HELD[0]
        assert held.shell("echo fine").out.strip() == "fine"
        phone.shell(f"echo other >{adb.FOLDER}/job")
        with pytest.raises(Unreachable, match="lost its lock"):
            held.shell("echo never")


def stays_on(phone: Phone) -> str:
    return phone.shell("settings get global stay_on_while_plugged_in")


def test_the_screen_stays_on_for_the_job_and_the_users_setting_is_restored(phone: Phone) -> None:
    name = "global stay_on_while_plugged_in"
    for before, change in (("2", f"put {name} 2"), ("null", f"delete {name}")):
        phone.shell(f"settings {change}")
        with adb.exclusive(phone.build, DEVICE):
            assert stays_on(phone) == "15"
        assert stays_on(phone) == before


HOLDS = """
import sys, time
from pathlib import Path
from pipeline.core import Device
from pipeline.devices import adb
from pipeline.system.store import Store
device = Device("phone-emulated", "adb", True, {"board": "phone", "fixed_performance": True})
with adb.exclusive(Store(Path(sys.argv[1])), device):
    print("held", flush=True)
    time.sleep(600)
"""


def fixed(phone: Phone) -> bool:
    return "mFixed=True" in phone.shell("dumpsys power")


def test_a_killed_job_leaves_the_phone_as_it_was(phone: Phone) -> None:
    phone.shell("settings put global stay_on_while_plugged_in 2")
    process = subprocess.Popen([sys.executable, "-c", HOLDS, phone.build.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert (stays_on(phone), fixed(phone)) == ("15", True)
    process.kill()
    process.wait()
    until(lambda: (stays_on(phone), fixed(phone)) == ("2", False))
    process.stdout.close()


def test_the_next_job_restores_what_a_killed_shell_left(phone: Phone) -> None:
    phone.shell("settings put global stay_on_while_plugged_in 2")
    device = dataclasses.replace(DEVICE, options={**DEVICE.options, "fixed_performance": True})
    with adb.exclusive(phone.build, device):
        kill_shell(phone)
    assert (stays_on(phone), fixed(phone)) == ("15", True)
    with adb.exclusive(phone.build, DEVICE):
        assert (stays_on(phone), fixed(phone)) == ("15", False)
    assert stays_on(phone) == "2"


def test_what_a_job_sets_on_the_phone_is_a_fact(phone: Phone) -> None:
    wants = dataclasses.replace(DEVICE, options={**DEVICE.options, "fixed_performance": True})
    facts = json.loads(adb.call(phone.build, wants, "litert", ["facts"], 300).out)["device"]
    assert (facts["compiled"], facts["compile_error"]) == ("speed", None)
    assert (facts["fixed_performance"], facts["fixed_performance_error"], facts["stay_on"]) == (True, None, True)
    phone.reboot(emulated.Boot(properties={"ro.lastmile.fixed_performance": "0"}))
    try:
        facts = json.loads(adb.call(phone.build, wants, "litert", ["facts"], 300).out)["device"]
        assert facts["fixed_performance"] is False and "FIXED_PERFORMANCE" in facts["fixed_performance_error"]
        facts = json.loads(adb.call(phone.build, DEVICE, "litert", ["facts"], 300).out)["device"]
        assert facts["fixed_performance"] is None
    finally:
        phone.reboot()


def test_files_on_the_phone_cannot_be_listed_by_other_apps(job: Phone, files: Files) -> None:
    remote = adb.push(job.build, DEVICE, [files.model])[0][files.model]
    path = PurePosixPath(remote)
    folders = " ".join(map(str, list(path.parents)[:3]))
    assert str(path.parents[2]) == adb.FOLDER
    assert job.shell(f"stat -c %a {folders} {adb.FOLDER}/runs").split() == ["711"] * 4
    assert job.shell(f"stat -c %a {adb.FOLDER}/who {adb.FOLDER}/job {adb.FOLDER}/lock").split() == ["600"] * 3
    assert path.parent.name == store.sha256(files.model)


def test_cleaning_counts_files_of_more_than_two_gigabytes(phone: Phone) -> None:
    with adb.exclusive(phone.build, DEVICE):
        adb.clean(phone.build, DEVICE)
        for name in "ab":
            phone.shell(f"truncate -s 3G {adb.FOLDER}/files/{name}")
        assert adb.clean(phone.build, DEVICE) == 6 << 30


# -- disturbed measurements --------------------------------------------------------------------------------------------


def measure(job: Phone, files: Files, disturb: str) -> tuple[list[Done], list[BaseException]]:
    """Measures for three seconds and runs a command in the phone's shell as soon as the app has loaded its runtime."""
    adb.push(job.build, DEVICE, [files.model, files.images])
    done: list[Done] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            done.append(adb.call(job.build, DEVICE, "litert", files.run("--min-seconds", "3"), 300))
        except StageFailed as error:
            errors.append(error)

    job.shell("logcat -c")
    running = threading.Thread(target=call)
    running.start()
    until(lambda: "Loaded native library" in job.adb("logcat", "-d").stdout)
    time.sleep(0.5)  # for the first inferences
    job.shell(disturb)
    running.join()
    return done, errors


def test_a_measurement_that_lost_the_foreground_is_repeated(
    job: Phone, files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    (done,), _ = measure(job, files, "input keyevent KEYCODE_HOME")
    assert "lost the foreground" in capfd.readouterr().err
    assert done.code == 0
    found = json.loads(done.out)
    assert (found["foreground_lost"], found["screen_off"]) == (False, False)
    assert found["memory_process"] == "memory" and found["peak_rss_bytes"] > found["rss_before_load_bytes"]
    assert found["samples"] and found["throttling"] == []
    assert len(found["runtime"]["library_sha256"]) == 64


def test_a_measurement_whose_attempts_are_all_disturbed_fails_with_the_reason(
    job: Phone, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "ATTEMPTS", 1)
    done, (error,) = measure(job, files, "input keyevent KEYCODE_SLEEP")
    assert done == [] and "its screen turned off in each of 1 runs" in str(error)


# -- installing --------------------------------------------------------------------------------------------------------


def resigned(phone: Phone, tmp_path: Path) -> Path:
    """The app, signed with another key."""
    key, apk = tmp_path / "other.jks", tmp_path / "other.apk"
    argv = ["keytool", "-genkeypair", "-keystore", key, "-storepass", "secret", "-keypass", "secret", "-alias", "a"]
    subprocess.run([*argv, "-keyalg", "RSA", "-dname", "CN=other"], check=True, capture_output=True)
    shutil.copyfile(android.path(phone.build), apk)
    argv = ["apksigner", "sign", "--ks", key, "--ks-pass", "pass:secret", apk]
    subprocess.run(argv, check=True, capture_output=True)
    return apk


def older(phone: Phone, tmp_path: Path) -> Path:
    """The app with a further file, signed with the same key."""
    apk = tmp_path / "older.apk"
    shutil.copyfile(android.path(phone.build), apk)
    with zipfile.ZipFile(apk, "a") as archive:
        archive.writestr("assets/older", "once", zipfile.ZIP_DEFLATED)
    package.sign(apk, package.DEBUG_KEY)
    return apk


def test_setup_replaces_another_build_of_the_app_once(
    phone: Phone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adb.clean(phone.build, DEVICE)
    assert "Success" in phone.adb("install", "--no-streaming", older(phone, tmp_path)).stdout
    for installs in (True, False):
        adb.setup(phone.build, DEVICE, "litert")
        assert capfd.readouterr().err.startswith("installing the app on phone-emulated (") is installs
        output = phone.shell(f"sha256sum $(pm path {adb.PACKAGE} | cut -d: -f2)")
        assert output.split()[0] == store.sha256(android.path(phone.build))


def test_an_app_signed_with_another_key_is_kept_and_a_full_phone_is_an_error(phone: Phone, tmp_path: Path) -> None:
    adb.clean(phone.build, DEVICE)
    assert "Success" in phone.adb("install", "--no-streaming", resigned(phone, tmp_path)).stdout
    with pytest.raises(StageFailed, match=r"signed with another key: adb uninstall org\.lastmile\.app"):
        adb.setup(phone.build, DEVICE, "litert")
    phone.reboot(emulated.Boot(data_mb=8))
    try:
        with pytest.raises(StageFailed, match=r"^phone-emulated: no space for the app"):
            adb.setup(phone.build, DEVICE, "litert")
        large = tmp_path / "large.bin"
        large.write_bytes(bytes(16 << 20))
        with pytest.raises(StageFailed, match=r"^phone-emulated: no space left.* inv devices.clean --device"):
            adb.push(phone.build, DEVICE, [large])
    finally:
        phone.reboot()
    assert adb.unavailable(phone.build, DEVICE) is None
