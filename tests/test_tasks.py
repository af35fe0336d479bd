"""The commands of tasks.py: their output, what they load, and what a second call does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline import devices, registry, sources
from pipeline.core import Cell, Latency
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.cli import INV, ROOT, Done, contexts, environment, inv, tree
from tests.plans import RECIPES

HEAVY = {"torch", "tensorflow", "keras", "coremltools", "executorch", "onnx", "numpy"}
QUICK = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0")
TASKS = (
    "train", "export", "push", "bench", "results", "report", "demo", "clean", "models", "recipes", "targets", "doctor",
    "tensorboard", "lint", "test", "devices.list", "data.download",
)  # fmt: skip


def loaded(build: Path, *args: object) -> tuple[Done, set[str]]:
    """The result of `inv ARGS`, and the top-level packages that are loaded when it ends."""
    script = (
        "import atexit, json, runpy, sys\n"
        "sys.argv = ['tasks.py', *json.loads(sys.argv[1])]\n"
        "atexit.register(lambda: print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "runpy.run_path('tasks.py', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, json.dumps([str(word) for word in args])]
    done = subprocess.run(command, cwd=ROOT, env=environment(build), capture_output=True, text=True, check=False)
    *lines, last = done.stdout.splitlines()
    assert last.startswith("LOADED invoke") or " invoke " in last, done.stderr
    return Done(done.returncode, "\n".join(lines), done.stderr), set(last.split()[1:])


def cells_of(done: Done) -> list[list[str]]:
    """The texts of the printed tables by row and column."""
    return [re.split(r" {2,}", line) for line in done.lines if line]


def names_in(done: Done, column: str) -> list[str]:
    """The texts in one column of the first table."""
    head, *rows = cells_of(done)
    place = head.index(column)
    return [row[place] for row in rows]


# -- what is loaded ----------------------------------------------------------------------------------------------------


def test_listing_tasks_loads_no_framework_and_no_numpy(tmp_path: Path) -> None:
    done, packages = loaded(tmp_path / "build", "--list")
    assert done.code == 0 and "export" in done.out
    assert packages & HEAVY == set()
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("task", ["models", "recipes", "targets", "devices", "results"])
def test_listing_plug_ins_loads_no_framework_and_no_numpy(tmp_path: Path, task: str) -> None:
    done, packages = loaded(tmp_path / "build", task)
    assert done.code == 0, done.err
    assert packages & HEAVY == set()
    assert not (tmp_path / "build").exists()


def test_an_export_that_is_up_to_date_loads_no_framework_and_changes_nothing(copied: Store, tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")}
    done, packages = loaded(copied.root, "export", "--model", tiny, "--recipe", "all")
    assert done.code == 0 and done.err == "", done.err
    assert packages & HEAVY == set()
    assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")} == before
    cells = [line.split() for line in done.lines]
    assert len(cells) == len(registry.names("targets")) * len(RECIPES)
    paths = [Path(args[3]) for args in cells if args[3].startswith("/")]
    assert [args[0] for args in cells].count("ok") == len(paths)
    assert len(paths) == len(list(copied.root.glob("*/*/*/artifact.json"))) and all(path.exists() for path in paths)


def test_every_other_stage_that_is_up_to_date_changes_nothing(copied: Store, tiny: Path) -> None:
    before = tree(copied.root)
    assert inv(copied.root, "train", "--model", tiny).lines[0].startswith(str(copied.checkpoint("tiny", "torch")))
    assert inv(copied.root, "bench", "--model", tiny, "--target", "onnx", *QUICK).err == ""
    assert tree(copied.root) == before


# -- help --------------------------------------------------------------------------------------------------------------


def test_the_list_describes_every_task(tmp_path: Path) -> None:
    listed = json.loads(inv(tmp_path, "--list", "--list-format", "json").out)
    found = {task["name"]: task["help"] for task in listed["tasks"]}
    for collection in listed["collections"]:
        found |= {f"{collection['name']}.{task['name']}": task["help"] for task in collection["tasks"]}
    assert set(TASKS) <= set(found)
    assert [name for name, what in found.items() if not what] == []


def test_every_option_of_every_task_is_described() -> None:
    parsers = contexts()
    assert {parser.name for parser in parsers} >= set(TASKS)
    bare = [(p.name, flag) for p in parsers for flag, argument in p.flags.items() if not argument.help]
    assert bare == []
    assert [p.name for p in parsers if "--debug" not in p.flags] == []


def test_the_help_of_a_task_shows_its_options(tmp_path: Path) -> None:
    shown = " ".join(inv(tmp_path, "export", "--help").out.split())
    assert re.search(r"--recipe=STRING .*?`inv recipes`.*?\(default: fp32\)", shown)
    for option, what in (("--target=STRING", "or all"), ("--model=STRING", "inv models"), ("--debug", "traceback")):
        assert option in shown and what in shown.partition(option)[2]


def test_every_command_that_the_help_mentions_exists() -> None:
    import tasks

    named = {name for text in tasks.HELP.values() for name in re.findall(r"`inv ([\w.]+)`", text)}
    parsers = contexts()
    assert named and named <= {name for parser in parsers for name in (parser.name, *parser.aliases)}


# -- listings ----------------------------------------------------------------------------------------------------------


def test_models_lists_the_folders_in_models(tmp_path: Path) -> None:
    assert names_in(inv(tmp_path, "models"), "model") == sources.names()


def test_recipes_are_listed_by_name(tmp_path: Path) -> None:
    assert names_in(inv(tmp_path, "recipes"), "recipe") == registry.names("recipes")


def test_targets_are_listed_with_the_reason_for_every_unsupported_recipe(tmp_path: Path) -> None:
    rows = cells_of(inv(tmp_path, "targets"))
    shown = {
        (row[1], recipe, framework): row[4]
        for row in rows
        if row[0] == "unsupported"
        for recipe in row[2].split(", ")
        for framework in row[3].split(", ")
    }
    reasons = {
        (target, recipe, framework): registry.load("targets", target).supports(
            registry.load("recipes", recipe).RECIPE, framework
        )
        for target in registry.names("targets")
        for recipe in registry.names("recipes")
        for framework in registry.names("frameworks")
    }
    assert shown == {cell: reason for cell, reason in reasons.items() if reason}
    assert [row[0] for row in rows[1 : 1 + len(registry.names("targets"))]] == registry.names("targets")


def test_devices_lists_devices_toml_with_the_status_of_each_device(tmp_path: Path) -> None:
    assert set(devices.devices()) <= set(names_in(inv(tmp_path, "devices"), "device"))
    toml = tmp_path / "devices.toml"
    toml.write_text('[desk]\nkind = "local"\nsummary = "my desk"\nemulated = true\n')
    _, (status, name, kind, description, *_) = cells_of(inv(tmp_path, "devices.list", LASTMILE_DEVICES=str(toml)))[:2]
    assert (status, name, kind) == ("ok", "desk", "local")
    assert "my desk" in description and "(emulated)" in description


def test_doctor_checks_every_package_runtime_and_device(tmp_path: Path) -> None:
    done = inv(tmp_path / "build", "doctor")
    for what in ("python", "invoke", "torch", "onnx", "disk", "runtime onnxruntime", "device local"):
        assert re.search(rf"\b{what}\b", done.out), (what, done.out)
    failed = [line for line in done.out.splitlines() if line.startswith("failed")]
    assert done.code == (2 if failed else 0), done.out + done.err
    assert all("→" in line for line in failed)


# -- results, report, clean --------------------------------------------------------------------------------------------


def test_results_as_json_is_a_list_of_cells_with_the_documented_fields(matrix: Store) -> None:
    cells = inv(matrix.root, "results", "--json").json
    assert len(cells) >= len(registry.names("targets")) * len(RECIPES)
    names = {field.name for field in fields(Cell)}
    for cell in cells:
        assert set(cell) == names
        assert cell["status"] in ("ok", "unsupported", "failed", "missing")
        assert (cell["reason"] is None) == (cell["status"] == "ok")
    measured = [cell for cell in cells if cell["device"] == "local"]
    assert measured
    for cell in measured:
        assert (cell["model"], cell["framework"], cell["status"], cell["emulated"]) == ("tiny", "torch", "ok", False)
        assert set(cell["latency_ms"]) == {field.name for field in fields(Latency)}
        assert 0 < cell["latency_ms"]["p90"] <= cell["latency_ms"]["p99"]
        assert 0 < cell["accuracy"] <= 1 and 0 < cell["agreement"] <= 1
        assert cell["drop_interval"][0] <= cell["drop_points"] <= cell["drop_interval"][1]
        assert cell["size_bytes"] > 0 and cell["load_ms"] > 0 and cell["peak_rss_bytes"] > 0


def test_the_margin_decides_the_verdict(matrix: Store) -> None:
    def cells(*options: str) -> list[dict[str, object]]:
        found = inv(matrix.root, "results", "--json", *options).json
        return [cell for cell in found if cell["device"] == "local" and cell["status"] == "ok"]

    for cell in cells("--margin", "99"):
        assert (cell["verdict"], cell["margin_points"], cell["samples_needed"]) == ("no worse", 99.0, None)
    for cell in cells("--margin", "0.0625"):
        assert (cell["verdict"], cell["margin_points"]) == ("cannot tell", 0.0625)
        assert cell["samples_needed"] > cell["samples"]
    assert {cell["margin_points"] for cell in cells()} == {1.0}
    assert "cannot tell (" in inv(matrix.root, "results", "--margin", "0.0625").out


def test_results_of_an_empty_build_folder_are_an_empty_list(tmp_path: Path) -> None:
    assert inv(tmp_path / "build", "results", "--json").json == []
    assert inv(tmp_path / "build", "results").code == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path, unbuffered: str) -> None:
    """The write fails at the first line (unbuffered), or when Python flushes at exit."""
    pipe, env = subprocess.PIPE, environment(tmp_path, PYTHONUNBUFFERED=unbuffered)
    process = subprocess.Popen([*INV, "recipes"], cwd=ROOT, env=env, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (err, process.returncode) == (b"", 128 + signal.SIGPIPE)


def test_a_broken_pipe_to_another_program_is_an_error() -> None:
    code = "import tasks\n@tasks.command()\ndef breaks(_c): raise BrokenPipeError(32, 'Broken pipe')\nbreaks.body(None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("Exit: error: [Errno 32] Broken pipe\n")


def test_report_writes_three_files_and_prints_the_path(copied: Store) -> None:
    (line,) = inv(copied.root, "report").lines
    assert line == str(copied.root / "report.html")
    assert Path(line).read_text().lstrip().lower().startswith("<!doctype html")
    assert "tiny" in (copied.root / "report.md").read_text()
    assert json.loads((copied.root / "results.json").read_text())


def test_clean_removes_one_model_or_everything(copied: Store, tmp_path: Path) -> None:
    keep = copied.root / "other.torch" / "checkpoint"
    keep.mkdir(parents=True)
    assert inv(copied.root, "clean", "--model", "tiny").lines == [f"removed {copied.home('tiny', 'torch')}"]
    assert keep.is_dir() and not copied.home("tiny", "torch").exists()
    error = inv(copied.root, "clean", "--model", "tiny").only
    assert str(copied.root) in error and "'tiny'" in error and error.endswith(": other)")
    assert inv(copied.root, "clean").code == 0
    assert tree(copied.root) == {}
    assert inv(tmp_path / "nowhere", "clean").code == 0 and not (tmp_path / "nowhere").exists()


def build_with(build: Path, *names: str) -> Store:
    """A build folder with files in it."""
    with store.lock(Store(build), "a test"):
        for name in names:
            (build / name).parent.mkdir(parents=True, exist_ok=True)
            (build / name).write_text(name)
    return Store(build)


def test_clean_removes_an_unfinished_training(tmp_path: Path) -> None:
    home = tmp_path / "build" / "tiny.torch"
    (home / "training").mkdir(parents=True)
    assert inv(tmp_path / "build", "clean", "--model", "tiny").lines == [f"removed {home}"]


@pytest.mark.parametrize("args", [("clean", "--dry"), ("--dry", "clean"), ("clean", "-R"), ("-R", "clean")])
def test_a_dry_clean_prints_what_it_would_remove_and_removes_nothing(tmp_path: Path, args: tuple[str, ...]) -> None:
    build = build_with(tmp_path / "build", "results.json", "tiny.torch/checkpoint/checkpoint.json")
    before = tree(build.root)
    printed = [f"would remove {build.root / name}" for name in ("results.json", "tiny.torch")]
    assert inv(build.root, *args).lines == printed
    assert inv(build.root, *args, "--model", "tiny").lines == printed[1:]
    assert inv(build.root, "clean", INVOKE_RUN_DRY="1").lines == printed
    assert tree(build.root) == before


def test_a_build_folder_with_the_former_tag_can_be_cleaned(tmp_path: Path) -> None:
    build = build_with(tmp_path / "build", "results.json")
    (build.root / store.TAG).write_text(store.OLD_SIGNATURE)
    assert inv(build.root, "clean").lines == [f"removed {build.root / 'results.json'}"]


def test_a_dry_clean_stops_no_board(tmp_path: Path) -> None:
    build = build_with(tmp_path / "build", "boards/.lock", "boards/pi4/known_hosts")
    with subprocess.Popen(["sleep", "600"]) as board:
        (build.root / "boards" / "pi4" / "board.json").write_text(json.dumps(running_board(board.pid)))
        lines = inv(build.root, "clean", "--dry").lines
        assert lines == ["pi4: would be stopped", f"would remove {build.root / 'boards' / 'pi4'}"]
        assert board.poll() is None
        board.kill()


def test_clean_keeps_the_lock_and_the_tag(tmp_path: Path) -> None:
    build = build_with(tmp_path / "build", "results.json", "boards/keys/client", "boards/.lock")
    (tmp_path / "build" / "boards" / "phone").mkdir()
    lock = (build.root / ".lock").stat().st_ino
    removed = [build.root / name for name in ("boards/keys", "boards/phone", "results.json")]
    assert inv(build.root, "clean").lines == [f"removed {path}" for path in removed]
    assert sorted(path.name for path in build.root.iterdir()) == [".lastmile", ".lock", "boards"]
    assert [path.name for path in (build.root / "boards").iterdir()] == [".lock"]
    assert (build.root / ".lock").stat().st_ino == lock
    assert inv(build.root, "clean").lines == []


def test_clean_refuses_a_folder_that_was_not_created_as_a_build_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    build_with(tmp_path, "tiny.torch/checkpoint/checkpoint.json")
    error = inv(tmp_path, "clean").only
    assert error.startswith(str(tmp_path)) and ".lastmile" in error
    assert inv(tmp_path, "clean", "--model", "tiny").lines == [f"removed {tmp_path / 'tiny.torch'}"]
    assert (tmp_path / "thesis.tex").exists()


def test_the_default_build_folder_is_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks

    monkeypatch.setenv("LASTMILE_BUILD", "")
    assert tasks._build().root == ROOT / "build"


def test_clean_accepts_a_model_as_other_commands_do(tmp_path: Path, tiny: Path) -> None:
    homes = ("resnet8.torch", "mobilenet_v3_small-width=0.5.keras", "tiny.torch", "tiny.frameworks", "tiny.json")
    build = build_with(tmp_path / "build", *(f"{home}/a" for home in homes), "results.json", "boards/a")

    def removed(word: object) -> list[str]:
        return [Path(line).name for line in inv(build.root, "clean", "--model", word).lines]

    assert removed("mobilenet_v3_small:width=0.5") == ["mobilenet_v3_small-width=0.5.keras"]
    assert removed(tiny) == ["tiny.frameworks", "tiny.torch"]
    for word in ("results", "boards", "tiny"):
        error = inv(build.root, "clean", "--model", word).only
        assert str(build.root) in error and error.endswith(": resnet8)")
    assert list(tree(build.root)) == ["boards/a", "resnet8.torch/a", "results.json", "tiny.json/a"]


def running_board(pid: int) -> dict[str, object]:
    """The state of an emulated board whose QEMU is this process."""
    return {
        "schema": 1, "board": "pi4", "pid": pid, "started": proc.began(pid), "address": "127.0.0.1",
        "port": 1, "user": "pi", "identity": "none", "known_hosts": "none",
    }  # fmt: skip


def test_clean_stops_emulated_boards_first(tmp_path: Path) -> None:
    """The stand-in for QEMU cannot be reached over ssh, so it is killed."""
    build = build_with(tmp_path / "build", "boards/.lock", "boards/pi4/known_hosts")
    with subprocess.Popen(["sleep", "600"]) as board:
        (build.root / "boards" / "pi4" / "board.json").write_text(json.dumps(running_board(board.pid)))
        assert inv(build.root, "clean").lines == ["pi4: stopped", f"removed {build.root / 'boards' / 'pi4'}"]
        assert board.wait() == -signal.SIGKILL
