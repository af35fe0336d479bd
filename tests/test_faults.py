"""Faults: Ctrl-C in any stage, a full disk, two commands at once. The next run continues, and no file is incomplete."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.system.store import Store
from tests.cli import INV, ROOT, Done, Running, environment, inv, processes, tree, unfinished

QUICK = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0")

# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_training_is_resumed(tmp_path: Path, tiny: Path) -> None:
    build, args = tmp_path / "build", ("train", "--model", tiny, "--epochs", "8", "--accelerator", "cpu")
    running = Running(build, *args)
    running.until_printed("epoch 2/8")
    running.interrupt()
    assert not (build / "tiny.torch" / "checkpoint").exists()
    again = inv(build, *args)
    assert again.code == 0, again.err
    (line,) = [line for line in again.err.splitlines() if line.startswith("resuming after epoch ")]
    done = int(line.split()[3])
    assert 2 <= done < 8
    epochs = [line.split("/")[0] for line in again.err.splitlines() if line.startswith("epoch ")]
    assert epochs == [f"epoch {n}" for n in range(done + 1, 9)]


def test_ctrl_c_before_the_first_epoch_prints_one_line(tmp_path: Path, tiny: Path) -> None:
    """The signal arrives while PyTorch is being imported."""
    running = Running(tmp_path / "build", "train", "--model", tiny, "--accelerator", "cpu")
    running.until_printed("training tiny")
    running.interrupt()


def test_an_interrupted_capture_is_repeated_by_the_next_run(copied: Store, tiny: Path) -> None:
    home = copied.home("tiny", "torch")
    for part in ("graphs", "fp32/onnx"):
        shutil.rmtree(home / part)
    args = ("export", "--model", tiny, "--target", "onnx")
    running = Running(copied.root, *args)
    running.until(lambda: bool(list(home.glob(".tmp-*graphs"))))
    running.interrupt()
    assert not (home / "graphs").exists()
    assert inv(copied.root, *args).code == 0


def test_an_interrupted_export_continues_with_the_missing_files(copied: Store, tiny: Path) -> None:
    recipes = ("fp16", "fp32", "int8", "int8_weight_only")  # one process exports them one after another
    for recipe in recipes:
        shutil.rmtree(copied.cell("tiny", "torch", recipe, "coreml"))
    args = ("export", "--model", tiny, "--target", "coreml", "--recipe", ",".join(recipes))
    running = Running(copied.root, *args)
    running.until_printed(" bytes in ")
    running.interrupt()
    cells = [copied.cell("tiny", "torch", recipe, "coreml") for recipe in recipes]
    made = [cell for cell in cells if (cell / "artifact.json").exists()]
    assert 1 <= len(made) < len(recipes)
    assert not list(copied.root.glob("*/*/*/failure.json"))  # an interruption is not a failure
    again = inv(copied.root, *args)
    assert again.code == 0, again.err
    assert again.err.count(" bytes in ") == len(recipes) - len(made)
    assert inv(copied.root, *args).err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_bench_continues_with_the_missing_measurements(
    number: signal.Signals, copied: Store, tiny: Path
) -> None:
    targets = ("executorch", "onnx", "tflite")
    args = ("bench", "--model", tiny, "--target", ",".join(targets), "--processes", "2", "--min-seconds", "2")
    running = Running(copied.root, *args)
    running.until_printed("  executorch fp32: p50")
    running.interrupt(number)
    folders = {target: copied.cell("tiny", "torch", "fp32", target) / "local" for target in targets}
    before = {target: tree(folders[target]) for target in targets}
    missing = [target for target in targets if (folders[target] / "chunks").exists()]  # they have a finished process
    assert missing in (["onnx", "tflite"], ["tflite"])
    again = inv(copied.root, *args)
    assert again.code == 0, again.err
    assert [line.split()[0] for line in again.err.splitlines() if " p50 " in line] == missing
    after = {target: tree(folders[target]) for target in targets}
    assert [target for target in targets if after[target] != before[target]] == missing


@pytest.mark.parametrize(
    ("process", "args"),
    [
        ("pipeline.stages._export_process", ("export", "--recipe", "fp16")),
        ("edge_bench run", ("bench", "--min-seconds", "60")),
    ],
)
def test_a_killed_command_leaves_no_process_running(
    copied: Store, tiny: Path, process: str, args: tuple[str, ...]
) -> None:
    shutil.rmtree(copied.cell("tiny", "torch", "fp16", "onnx"))
    shutil.rmtree(copied.cell("tiny", "torch", "fp32", "onnx") / "local")
    running = Running(copied.root, *args, "--model", tiny, "--target", "onnx")
    running.until(lambda: any(process in line for line in processes(copied.root)))
    running.process.kill()
    running.wait()
    until = time.monotonic() + 5  # the kernel needs a moment to end large processes
    while processes(copied.root) and time.monotonic() < until:
        time.sleep(0.01)
    assert processes(copied.root) == []


def test_a_command_under_nohup_ignores_sighup() -> None:
    code = "import signal, tasks\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\ntasks.recipes.body(None)\n"
    code += "signal.raise_signal(signal.SIGHUP)\nprint('goes on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "goes on", done.stderr


def test_a_failed_program_is_noticed_although_sigchld_is_ignored() -> None:
    """The kernel then keeps no exit codes, and Python takes that for success."""
    code = "import signal, subprocess, tasks\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\ntasks.recipes.body(None)\n"
    code += "print(subprocess.run(['false']).returncode)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "1", done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_reach_the_files_of_a_build(copied: Store, tiny: Path, closed: str) -> None:
    shutil.rmtree(copied.cell("tiny", "torch", "fp32", "onnx"))
    line = f"{shlex.join(INV)} export --model {shlex.quote(str(tiny))} --target onnx {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=ROOT, env=environment(copied.root), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (copied.cell("tiny", "torch", "fp32", "onnx") / "artifact.json").is_file()
    assert done.stdout.startswith("ok ") is (">&-" not in closed.split())
    assert (" bytes in " in done.stderr) is ("2>&-" not in closed)


def test_ctrl_c_ends_a_wait_for_another_run(tmp_path: Path, tiny: Path) -> None:
    build = tmp_path / "build"
    with held(build, "somebody's training"):
        running = Running(build, "train", "--model", tiny)
        running.until_printed(f"{build} is in use by somebody's training; waiting for it")
        running.interrupt()


# -- concurrency -------------------------------------------------------------------------------------------------------


@contextmanager
def held(build: Path, who: str) -> Iterator[None]:
    """Holds the build folder's lock, as another run does."""
    build.mkdir()
    with (build / ".lock").open("w") as file:
        file.write(who)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_two_exports_at_once_make_one_artifact(tmp_path: Path, tiny: Path) -> None:
    build, args = tmp_path / "build", ("export", "--model", tiny, "--target", "onnx")
    command = [*INV, *map(str, args)]
    both = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(build), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    printed = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert printed[0][0] == printed[1][0] and "model.onnx" in printed[0][0]
    for once in ("training tiny", "captured in", "exporting 1 files"):
        assert sum(err.count(once) for _, err in printed) == 1
    assert sum(err.count("is in use by export of") for _, err in printed) == 1
    assert unfinished(build) == []
    assert inv(build, *args).err == ""


def test_a_push_waits_for_a_run_that_holds_the_lock(copied: Store, tiny: Path) -> None:
    shutil.rmtree(copied.root / "data")
    (copied.root / ".lock").unlink()
    args = ("push", "--model", tiny, "--target", "onnx")
    with (copied.root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        running = Running(copied.root, *args)
        running.until_printed("is in use by another run; waiting for it")
        assert not (copied.root / "data").exists()
    out, err = running.process.communicate()
    assert running.process.returncode == 0, err
    assert out == "local: 2 files up to date, 0 bytes sent\n"


def test_clean_waits_for_a_running_command(copied: Store) -> None:
    with (copied.root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        running = Running(copied.root, "clean")
        running.until_printed("waiting for it")
        assert copied.home("tiny", "torch").is_dir()
    assert running.process.communicate()[1] == "" and running.process.returncode == 0
    assert tree(copied.root) == {}


# -- a full disk -------------------------------------------------------------------------------------------------------

ON_A_SMALL_DISK = """
import json, os, subprocess, sys
place, source, free, command, gone, again = json.loads(sys.argv[1])
disk = f"{place}/disk"
os.mkdir(disk)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], check=True)
build = f"{disk}/build"
if source:
    subprocess.run(["cp", "-a", source, build], check=True)
    subprocess.run(["rm", "-rf", *(f"{build}/{name}" for name in gone)], check=True)
else:
    os.mkdir(build)
free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - free * 1024
with open(f"{disk}/ballast", "wb") as file:
    file.write(bytes(free))
environment = {**os.environ, "LASTMILE_BUILD": build}

def call():
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr

first = call()
left = [name for _, folders, files in os.walk(build) for name in folders + files if name.startswith(".tmp-")]
os.unlink(f"{disk}/ballast")
print(json.dumps([first, left, call() if again else first]))
"""
"""Runs in a mount namespace: mounts a small disk, fills it, runs the command, frees space, runs the command again."""


def namespace() -> list[str]:
    """The command prefix that lets a program mount: as root directly, otherwise as root of a user namespace."""
    for options in (["-m"], ["-Urm"]):
        if subprocess.run(["unshare", *options, "true"], check=False, capture_output=True).returncode == 0:
            return ["unshare", *options]
    raise AssertionError("a full disk needs a mount namespace: run as root, or where user namespaces are allowed")


@dataclass(frozen=True)
class Disk:
    """A build folder's disk.

    Attributes:
        free_kb: free space.
        source: the build folder to copy to it; None for an empty one.
        gone: paths to remove from the copy first.
        again: whether to run the command again after space was freed.
    """

    free_kb: int
    source: Path | None = None
    gone: tuple[str, ...] = ()
    again: bool = True


def run_on(disk: Disk, place: Path, *args: object) -> tuple[Done, Done]:
    """Runs a command on a nearly full disk, then again after space was freed."""
    source = str(disk.source) if disk.source else None
    request = [str(place), source, disk.free_kb, [*INV, *map(str, args)], disk.gone, disk.again]
    script = [*namespace(), sys.executable, "-c", ON_A_SMALL_DISK, json.dumps(request)]
    done = subprocess.run(script, cwd=ROOT, env=environment(place), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, left, second = json.loads(done.stdout)
    assert left == []
    return Done(*first), Done(*second)


def test_a_completely_full_disk_is_reported(tmp_path: Path, tiny: Path) -> None:
    first, _ = run_on(Disk(0, again=False), tmp_path, "train", "--model", tiny)
    assert first.only.startswith("no space left on the disk") and first.only.endswith("nothing was lost")


def test_a_training_on_a_full_disk_is_reported_and_resumed(tmp_path: Path, tiny: Path) -> None:
    """The space suffices for the build folder's tag and the state after the first epoch, but not after the second."""
    first, second = run_on(Disk(68), tmp_path, "train", "--model", tiny, "--accelerator", "cpu")
    assert first.complaint.startswith("no space left on the disk of ")
    assert first.complaint.endswith("free some (inv clean) and run again; nothing was lost")
    assert second.code == 0 and "resuming after epoch 1 of 2" in second.err.splitlines(), second.err


FULL = {
    "capture": (("export", "--target", "onnx"), Disk(24, None, ("tiny.torch/graphs", "tiny.torch/fp32/onnx"), False)),
    "a worker": (("export", "--target", "onnx"), Disk(4, None, ("tiny.torch/fp32/onnx",))),
    "bench": (("bench", "--target", "onnx", *QUICK), Disk(8, None, ("tiny.torch/fp32/onnx/local",))),
    "push": (("push", "--target", "onnx"), Disk(8, None, ("data",))),
}


@pytest.mark.parametrize("stage", FULL)
def test_a_stage_reports_a_full_disk_and_then_continues(tmp_path: Path, matrix: Store, tiny: Path, stage: str) -> None:
    args, disk = FULL[stage]
    first, second = run_on(replace(disk, source=matrix.root), tmp_path, *args, "--model", tiny)
    assert "no space left on" in first.complaint.lower() and "nothing was" in first.complaint
    assert second.code == 0 or not disk.again, second.err


def test_report_fails_on_a_full_disk_and_then_succeeds(tmp_path: Path, matrix: Store) -> None:
    first, second = run_on(Disk(8, matrix.root), tmp_path, "report")
    assert first.only.startswith("no space left on the disk of ")
    assert second.code == 0, second.err
