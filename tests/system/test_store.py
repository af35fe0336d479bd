"""The build folder: atomic writes, manifests, content hashes, and one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.core import Failure, Recipe
from pipeline.errors import Broken, DiskFull
from pipeline.registry import load
from pipeline.system import store
from pipeline.system.store import Store

ROOT = Path(__file__).parents[2]
FAILURE = Failure("failed", "why", "export.log", "key")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_paths_contain_model_framework_recipe_and_target() -> None:
    build = Store(Path("build"))
    assert build.checkpoint("m", "torch") == Path("build/m.torch/checkpoint")
    assert build.graphs("m", "torch") == Path("build/m.torch/graphs")
    assert build.graphs("m", "torch", "int8") == Path("build/m.torch/int8/graphs")
    assert build.cell("m", "torch", "int8", "onnx") == Path("build/m.torch/int8/onnx")


def test_models_are_those_with_a_checkpoint(tmp_path: Path) -> None:
    build = Store(tmp_path)
    for name in ("b-width=0.5.torch", "a.keras"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        (tmp_path / name / "checkpoint" / "checkpoint.json").touch()
    (tmp_path / "c.torch" / "checkpoint").mkdir(parents=True)
    assert build.models() == [("a", "keras"), ("b-width=0.5", "torch")]


# -- manifests ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recipe = load("recipes", "int8").RECIPE
    store.write(tmp_path / "deep" / "recipe.json", recipe)
    assert store.read(Recipe, tmp_path / "deep" / "recipe.json") == recipe
    assert names(tmp_path / "deep") == ["recipe.json"]


def test_a_missing_manifest_is_none(tmp_path: Path) -> None:
    assert store.read(Failure, tmp_path / "none.json") is None
    (tmp_path / "file").touch()
    assert store.read(Failure, tmp_path / "file" / "none.json") is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not JSON"),
        (b'{"status": "fail', "not JSON"),
        (b"\xff\xfe\x00binary", "not JSON"),
        (b"[]", "expected an object"),
        (b'{"schema": 1}', "missing"),
        (json.dumps({**vars(FAILURE), "schema": 9}).encode(), "schema 9 is not 1"),
        (json.dumps({**vars(FAILURE), "reason": 3}).encode(), "reason: expected str, not 3"),
    ],
)
def test_a_broken_manifest_gives_a_warning_and_counts_as_missing(
    content: bytes, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failure.json"
    path.write_bytes(content)
    with pytest.raises(Broken, match=complaint) as caught:
        store.read(Failure, path)
    assert str(caught.value).startswith(str(path))
    assert store.read_or_warn(Failure, path) is None
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(str(path))


# -- atomic writes -----------------------------------------------------------------------------------------------------


def test_an_error_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), store.atomic(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError("midway")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.bin"]


def test_an_interrupt_leaves_the_old_folder_and_no_temporary_folder(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), store.atomic(path) as temporary:
        temporary.mkdir()
        (temporary / "b").write_text("new")
        raise KeyboardInterrupt
    assert names(path) == ["a"]
    assert names(tmp_path) == ["package"]


def test_a_folder_replaces_a_folder_with_contents(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.mkdir()
    (path / "old").touch()
    with store.atomic(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["package"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.system import store

place, exchanges = Path(sys.argv[1]), sys.argv[2] == "True"
if not exchanges:
    store._exchanged = lambda first, second: False

def replace(kind, path, text):
    with store.atomic(path) as new:
        if kind == "folder":
            (new / "below").mkdir(parents=True)
            for name in ("one", "below/two"):
                (new / name).write_text(text)
        else:
            new.write_text(text)

def content(path):
    if not path.exists():
        return None
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sorted(p.read_text() for p in files)

def killed(kind, path, step):
    pid = os.fork()
    if pid == 0:
        left = step
        def count(frame, event, function):
            nonlocal left
            system = event in ("c_call", "c_return") and function.__module__ == "posix"
            left -= system or frame.f_code.co_filename == store.__file__
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        replace(kind, path, "new")
        sys.setprofile(None)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0

for kind, whole in (("folder", 2), ("file", 1)):
    seen, step = set(), 0
    while True:
        home = place / f"{kind}-{step}"
        path = home / "thing"
        replace(kind, path, "old")
        ended = not killed(kind, path, step)
        if exchanges:
            assert content(path) in (["old"] * whole, ["new"] * whole), (kind, step, content(path))
        with store.lock(store.Store(home), "a test"):
            pass
        found = content(path)
        assert found in (["old"] * whole, ["new"] * whole), (kind, step, found)
        assert sorted(p.name for p in home.iterdir()) == [".lock", "thing"], (kind, step, list(home.iterdir()))
        seen.add(found[0])
        if ended:
            break
        step += 1
    print(kind, step > 30, sorted(seen))
"""


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_one(tmp_path: Path, exchanges: bool) -> None:
    """Processes are killed at each call of the system and of store.py, and at each return. Where the file system cannot
    exchange two names, the next holder of the lock restores the old folder."""
    memory = Path("/dev/shm")  # hundreds of flushed folders take minutes on a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place:
        argv = [sys.executable, "-c", KILLED, place, str(exchanges)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["folder True ['new', 'old']", "file True ['new', 'old']"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system cannot exchange names, and the second rename fails."""
    monkeypatch.setattr(store, "_exchanged", lambda first, second: False)
    path = folder_of(tmp_path / "package", {"old": "1"})
    rename = Path.rename

    def fails_once_there_is_room(self: Path, target: Path) -> Path:
        if target == path and (self / "new").exists():
            raise OSError(errno.EIO, "the disk fails")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once_there_is_room)
    with pytest.raises(OSError, match="the disk fails"), store.atomic(path) as temporary:
        folder_of(temporary, {"new": "2"})
    assert names(path) == ["old"]
    assert names(tmp_path) == ["package"]


def test_two_names_are_exchanged_in_one_call(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "first", {"a": "1"}), folder_of(tmp_path / "second", {"b": "2"})
    assert store._exchanged(first, second)
    assert (names(first), names(second)) == (["b"], ["a"])
    with pytest.raises(FileNotFoundError):
        store._exchanged(first, tmp_path / "third")


def test_the_temporary_name_keeps_the_suffix_for_converters(tmp_path: Path) -> None:
    with store.atomic(tmp_path / "model.mlpackage") as temporary:
        assert temporary.suffix == ".mlpackage"
        assert temporary.name.startswith(store.TEMPORARY)
        temporary.mkdir()


FILL = """
import sys
from pathlib import Path
from pipeline.system import store
from pipeline.errors import DiskFull
folder = Path(sys.argv[1])
(folder / "model.bin").write_text("old")
try:
    with store.atomic(folder / "model.bin") as temporary, temporary.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except DiskFull as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()), (folder / "model.bin").read_text())
"""


def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    """The disk has 64 kB, in its own mount namespace."""
    mine = ["--user", "--map-root-user"] if os.getuid() else []
    mount = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", *mine, "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message.startswith(f"no space left on the disk of {tmp_path}:")
    assert left == "['model.bin'] old"


def test_a_full_disk_and_a_full_quota_count_as_full() -> None:
    assert store.is_full(OSError(errno.ENOSPC, "")) and store.is_full(OSError(errno.EDQUOT, ""))
    assert not store.is_full(OSError(errno.EACCES, ""))


def test_other_system_errors_are_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught, store.atomic(tmp_path / "file" / "below") as temporary:
        temporary.touch()
    assert not isinstance(caught.value, DiskFull)


# -- content -----------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.sha256(tmp_path / "abc") == expected
    assert store.size(tmp_path / "abc") == 3


def folder_of(where: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    return where


def test_the_hash_of_a_folder_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    files = {"b": "2", "a/x": "1"}
    first = folder_of(tmp_path / "first", files)
    again = folder_of(tmp_path / "again", dict(reversed(files.items())))
    os.utime(again / "b", (0, 0))
    assert store.sha256(first) == store.sha256(again)
    assert store.size(first) == 2
    others = ({"b": "2", "a/y": "1"}, {"b": "2", "a/x": "3"}, {"b": "2"}, {"b": "2", "a/x": "1", "c": ""})
    hashes = {store.sha256(folder_of(tmp_path / f"other{i}", other)) for i, other in enumerate(others)}
    assert len(hashes) == 4
    assert store.sha256(first) not in hashes


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert store.digest({"a": 1, "b": (2, 3)}) == store.digest({"b": [2, 3], "a": 1})
    assert store.digest({"a": 1}) != store.digest({"a": 2})
    assert store.digest(FAILURE) == store.digest(vars(FAILURE))


def test_remove_accepts_files_folders_and_missing_paths_and_never_follows_links(tmp_path: Path) -> None:
    kept = folder_of(tmp_path / "kept", {"a": "1"})
    link = tmp_path / "link"
    link.symlink_to(kept)
    for path in (link, folder_of(tmp_path / "gone", {"a": "1"}), tmp_path / "never"):
        store.remove(path)
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["a"]


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from pipeline.system import store
with store.lock(store.Store(Path(sys.argv[1])), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(root: Path, what: str) -> subprocess.Popen[str]:
    return started(HOLD, root, what)


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", code, *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def writer_of(path: Path) -> subprocess.Popen[str]:
    """A process that has written a temporary file without the lock and has not renamed it yet."""
    process = started(WRITE, path)
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    return process


def release(process: subprocess.Popen[str]) -> str:
    """Lets the process continue to its end. Returns what it prints on stderr until then."""
    _, err = process.communicate("\n")
    assert process.returncode == 0, err
    return err


def test_a_second_writer_waits_and_names_the_first(tmp_path: Path) -> None:
    first = holder(tmp_path, "export of tiny")
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    second = holder(tmp_path, "bench of tiny")
    assert second.stderr is not None and second.stdout is not None
    line = second.stderr.readline()
    assert f"{tmp_path} is in use by export of tiny (process {first.pid})" in line
    assert second.poll() is None
    assert release(first) == ""
    assert second.stdout.readline() == "held\n"
    assert (tmp_path / ".lock").read_text() == f"bench of tiny (process {second.pid})\n"
    assert release(second) == ""


def test_a_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    first = holder(tmp_path, "export of tiny")
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = holder(tmp_path, "bench of tiny")
    assert second.stdout is not None and second.stdout.readline() == "held\n"
    assert release(second) == ""


def test_a_waiting_writer_locks_the_new_folder_if_the_old_one_was_removed(tmp_path: Path) -> None:
    build = tmp_path / "build"
    first = holder(build, "export of tiny")
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    second = holder(build, "bench of tiny")
    assert second.stderr is not None and "is in use by" in second.stderr.readline()
    store.remove(build)
    third = holder(build, "push of tiny")
    assert third.stdout is not None and third.stdout.readline() == "held\n"
    assert release(first) == ""
    assert f"{build} is in use by push of tiny (process {third.pid})" in second.stderr.readline()
    assert release(third) == ""
    assert release(second) == ""


def test_only_a_new_folder_is_marked_as_a_build_folder(tmp_path: Path) -> None:
    new, old = Store(tmp_path / "new"), Store(folder_of(tmp_path / "old", {"thesis.tex": ""}))
    for build in (new, old):
        with store.lock(build, "a test"):
            pass
    assert (new.tagged, old.tagged) == (True, False)
    assert names(new.root) == [".lastmile", ".lock"]


def test_the_lock_holder_removes_temporary_files_of_interrupted_runs(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"m.torch/{store.TEMPORARY}1-checkpoint/half": "", "m.torch/checkpoint/whole": ""})
    folder_of(tmp_path, {f"m.torch/int8/{store.TEMPORARY}2-model.onnx": ""})
    with store.lock(Store(tmp_path), "a test"):
        assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
            ".lock",
            "m.torch/checkpoint/whole",
        ]


WRITE = """
import sys
from pathlib import Path
from pipeline.system import store
with store.atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("whole")
    print("written", flush=True)
    sys.stdin.readline()
"""


def test_temporary_files_of_a_living_process_are_kept(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    writer = writer_of(report)
    with store.lock(Store(tmp_path), "a test"):
        assert release(writer) == ""
    assert report.read_text() == "whole"


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "report.html")
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert len(names(tmp_path)) == 1
    with store.lock(Store(tmp_path), "a test"):
        assert names(tmp_path) == [".lock"]


def test_a_temporary_file_is_removed_if_its_process_id_was_reused(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{store.TEMPORARY}{os.getpid()}-1-report.html": ""})
    with store.lock(Store(tmp_path), "a test"):
        assert names(tmp_path) == [".lock"]


def test_temporary_files_under_another_held_lock_are_kept(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"boards/{store.TEMPORARY}1-image/half": ""})
    inner = Store(tmp_path / "boards")
    with store.lock(Store(tmp_path), "a test"):
        assert not (inner.root / f"{store.TEMPORARY}1-image").exists()
    with store.lock(inner, "a boot"), store.atomic(inner.root / "image") as new:
        new.mkdir()
        with store.lock(Store(tmp_path), "another test"):
            assert new.is_dir()
    assert (inner.root / "image").is_dir()
