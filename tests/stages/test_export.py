"""The export stage: up-to-date files are not exported again, files that do not match their manifest are, and a process
that dies fails one recipe."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Artifact, Checkpoint, Failure, Recipe
from pipeline.errors import StageFailed, Unsupported
from pipeline.results import collect
from pipeline.stages import export, train
from pipeline.stages.plan import Job, recipes_of
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.plans import plan

ROOT = Path(__file__).parents[2]
TARGETS, RECIPES = registry.names("targets"), plans.RECIPES
EXPORT = """
import json, sys
from pathlib import Path
from pipeline.stages import export
from pipeline.system.store import Store
from tests.plans import plan
names = [words if words == "all" else words.split(",") for words in sys.argv[2:4]]
outcomes = export.export(Store(Path(sys.argv[1])), plan(*names))
print(json.dumps([[o.target, o.recipe, o.status, o.reason, o.fresh] for o in outcomes]))
print(json.dumps([m for m in ("torch", "numpy", "onnx", "tensorflow", "coremltools") if m in sys.modules]))
"""


def start(build: Store, targets: list[str], recipes: list[str]) -> subprocess.Popen[str]:
    """Starts an export in another process."""
    words = ["all" if names in (TARGETS, RECIPES) else ",".join(names) for names in (targets, recipes)]
    command = [sys.executable, "-c", EXPORT, str(build.root), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[list[list[object]], list[str], str]:
    """Waits for an export. Returns its outcomes, the heavy packages it imported, and its stderr."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    outcomes, heavy = out.splitlines()
    return json.loads(outcomes), json.loads(heavy), err


def snapshot(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


def checkpoint_of(build: Store) -> Checkpoint:
    found = store.read(Checkpoint, build.checkpoint("tiny", "torch") / "checkpoint.json")
    assert found is not None
    return found


# -- up to date --------------------------------------------------------------------------------------------------------


def test_a_second_export_prints_nothing_writes_nothing_and_imports_no_framework(matrix: Store) -> None:
    before = snapshot(matrix.root)
    outcomes, heavy, err = finish(start(matrix, TARGETS, RECIPES))
    assert heavy == []
    assert err == ""
    assert snapshot(matrix.root) == before
    assert [status for _, _, status, _, _ in outcomes if status != "unsupported"] == ["ok"] * 30
    assert not any(fresh for *_, fresh in outcomes)


KEY = """
import sys
from pathlib import Path
from pipeline.stages import export
from pipeline.system import store
from pipeline.system.store import Store
from pipeline.core import Checkpoint
from pipeline.registry import bind
from pipeline.stages.plan import recipes_of
from tests.plans import job
checkpoint, (int8,) = store.read(Checkpoint, Path(sys.argv[1])), recipes_of("int8")
print(export.key(Store(Path("build")), job(), checkpoint, int8, bind("targets", "onnx")))
"""


def key_with(build: Store, path: Path) -> str:
    """The cache key of int8 for onnx when the packages in `path` come before the installed ones."""
    command = [sys.executable, "-c", KEY, str(build.checkpoint("tiny", "torch") / "checkpoint.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_every_input_of_an_artifact_changes_its_cache_key(matrix: Store, job: Job, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(matrix)
    fp32, int8 = recipes_of(["fp32", "int8"])

    def key(checkpoint: Checkpoint, recipe: Recipe, target: str) -> str:
        return export.key(matrix, job, checkpoint, recipe, registry.bind("targets", target))

    first = key(checkpoint, int8, "onnx")
    assert key(checkpoint_of(matrix), int8, "onnx") == first
    spec = dataclasses.replace(checkpoint.spec, labels=tuple("abcdefghij"))
    others = [
        key(checkpoint, fp32, "onnx"),
        key(checkpoint, int8, "tflite"),
        key(checkpoint, dataclasses.replace(int8, calibration=128), "onnx"),
        key(dataclasses.replace(checkpoint, weights_sha256="0" * 64), int8, "onnx"),
        key(dataclasses.replace(checkpoint, spec=spec), int8, "onnx"),
    ]
    assert key_with(matrix, tmp_path) == first
    info = tmp_path / "onnx-99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx\nVersion: 99.0\n")
    others.append(key_with(matrix, tmp_path))
    assert len({first, *others}) == 7


def test_current_returns_none_if_one_cell_is_out_of_date(copied: Store, job: Job) -> None:
    (copied.cell("tiny", "torch", "fp16", "onnx") / "artifact.json").unlink()
    assert export.current(copied, plan("onnx", "fp16"), job) is None
    assert export.current(copied, plan("onnx", "fp32"), job) is not None


def test_current_returns_none_without_a_checkpoint(tmp_path: Path, job: Job) -> None:
    assert export.current(Store(tmp_path), plan(), job) is None
    assert list(tmp_path.iterdir()) == []


# -- files that do not match -------------------------------------------------------------------------------------------


def test_only_altered_and_truncated_artifacts_are_exported_again_with_a_message(copied: Store) -> None:
    folders = {recipe: copied.cell("tiny", "torch", recipe, "onnx") for recipe in ("fp16", "fp32", "int8")}
    old = {recipe: store.read(Artifact, folder / "artifact.json") for recipe, folder in folders.items()}
    with (folders["fp32"] / "model.onnx").open("ab") as file:
        file.write(b"\0")
    manifest = folders["fp16"] / "artifact.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    untouched = snapshot(folders["int8"])
    outcomes, _, err = finish(start(copied, ["onnx"], ["fp16", "fp32", "int8"]))
    assert [(recipe, status, fresh) for _, recipe, status, _, fresh in outcomes] == [
        ("fp16", "ok", True),
        ("fp32", "ok", True),
        ("int8", "ok", False),
    ]
    assert f"{folders['fp32'] / 'model.onnx'} does not match its manifest (sha256 differs)" in err
    assert f"{manifest}: not JSON" in err
    for recipe, folder in folders.items():
        new, before = store.read(Artifact, folder / "artifact.json"), old[recipe]
        assert new is not None and before is not None
        assert (new.sha256, new.key) == (before.sha256, before.key)
        assert store.sha256(folder / new.file) == new.sha256
    assert snapshot(folders["int8"]) == untouched


def test_a_manifest_with_a_path_outside_its_folder_is_refused(copied: Store, job: Job) -> None:
    path = copied.cell("tiny", "torch", "fp32", "onnx") / "artifact.json"
    path.write_text(path.read_text().replace('"model.onnx"', '"../../../../../etc/passwd"'))
    with pytest.raises(Exception, match="not a plain file name"):
        export.current(copied, plan("onnx", "fp32"), job)


# -- a process that dies -----------------------------------------------------------------------------------------------


def workers_of(parent: int) -> list[int]:
    """Process ids of the exporting children of a process."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    tasks = Path(f"/proc/{parent}/task")
    found = {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}
    assert children.exists()
    return [pid for pid in found if b"pipeline.stages._export_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_worker_fails_only_its_recipe_and_the_failure_is_stored(copied: Store, job: Job) -> None:
    recipes = ["fp16", "fp32", "int8"]
    folders = {recipe: copied.cell("tiny", "torch", recipe, "onnx") for recipe in recipes}
    for folder in folders.values():
        (folder / "artifact.json").unlink()
        (folder / "export.log").unlink()
    process = start(copied, ["onnx"], recipes)
    tick = threading.Event()
    while not (folders["fp32"] / "export.log").exists():
        assert process.poll() is None, process.communicate()[1]
        tick.wait(0.005)
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    outcomes, _, err = finish(process)
    assert [(recipe, status) for _, recipe, status, _, _ in outcomes] == [
        ("fp16", "ok"),
        ("fp32", "failed"),
        ("int8", "ok"),
    ]
    assert "  onnx fp32: failed: ended by SIGKILL" in err
    failure = store.read(Failure, folders["fp32"] / "failure.json")
    assert failure is not None and failure.status == "failed" and failure.reason.startswith("ended by SIGKILL")
    assert (folders["fp32"] / failure.log).is_file()
    cells = {(c.target, c.recipe): c for c in collect.cells(copied) if c.target == "onnx"}
    assert cells["onnx", "fp32"].status == "failed"
    assert (cells["onnx", "fp32"].reason or "").startswith("ended by SIGKILL")
    assert {cells["onnx", recipe].status for recipe in ("fp16", "int8")} == {"ok"}
    assert export.current(copied, plan("onnx", "fp32"), job) is None, "a failed export is tried again"


def test_a_worker_that_ends_early_without_an_error_fails_each_recipe(
    copied: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for recipe in ("fp32", "int8"):
        (copied.cell("tiny", "torch", recipe, "onnx") / "artifact.json").unlink()
    monkeypatch.setattr(export, "process", lambda *_: [sys.executable, "-c", ""])
    outcomes = export.export(copied, plan("onnx", ["fp32", "int8"]))
    assert [(outcome.recipe, outcome.status) for outcome in outcomes] == [("fp32", "failed"), ("int8", "failed")]
    assert all("exit code 0" in (outcome.reason or "") for outcome in outcomes)


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_a_named_cell_that_is_unsupported_is_refused_with_the_targets_reason() -> None:
    reason = registry.load("targets", "coreml").supports(recipes_of("int8_dynamic")[0], "torch")
    with pytest.raises(Unsupported) as caught:
        plan(["tflite", "coreml"], ["fp32", "int8_dynamic"])
    assert str(caught.value) == f"coreml does not support int8_dynamic: {reason}"
    assert [recipe.name for recipe in plan("tflite").recipes] == RECIPES


def test_failed_exports_raise_an_error_that_names_them_and_print_the_end_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "export.log"
    log.write_text("\n".join(f"line {i}" for i in range(9)))
    lost = export.Outcome("int8", "onnx", "failed", "no such operator", log=log)
    fine = export.Outcome("fp32", "onnx", "ok")
    export.raise_if_failed([fine])
    assert capsys.readouterr().err == ""
    with pytest.raises(StageFailed, match=r"^1 of 2 exports failed.*onnx int8"):
        export.raise_if_failed([fine, lost])
    err = capsys.readouterr().err
    assert "onnx int8: no such operator" in err and "line 8" in err and "line 4" in err and "line 3" not in err
    assert f"(log: {log})" in err


def test_an_outcome_line_has_path_size_and_check_or_the_reason(matrix: Store, job: Job) -> None:
    outcomes = export.current(matrix, plan(), job)
    assert outcomes is not None
    for outcome in outcomes:
        line = export.line(outcome)
        assert outcome.target in line and outcome.recipe in line and "\n" not in line
        if outcome.artifact is None:
            assert str(outcome.reason) in line
        else:
            assert f"{outcome.artifact.size_bytes:,} bytes" in line and str(outcome.path) in line
            assert "top-1 agreement" in line or "not checked by Lastmile" in line


def test_train_finds_the_same_checkpoint(matrix: Store, job: Job) -> None:
    assert train.ready(matrix, job) == checkpoint_of(matrix)
