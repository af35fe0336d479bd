"""The history of measurements: what is added, what is refused, and how figures become trends."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import to_json
from pipeline.errors import BadOption, Broken, UnknownName
from pipeline.report import history as report
from pipeline.results import collect, history, trends
from pipeline.results.history import ACCURACY, INSTRUCTIONS, LATENCY, SIZE, Entry
from pipeline.system import store
from tests.builds import BOARD, LOCAL, Tree
from tests.cli import inv
from tests.scripted import microseconds

ENTRY = Entry(
    at="2026-01-01T00:00:00+00:00", model="toy", framework="torch", recipe="int8", target="tflite", device="pi5",
    threads=1, hardware="pi5 1234", runtime="litert 2.3.0", method="5 × edge-bench run", figure=LATENCY,
    medians=(1.0, 1.01, 1.02), size_bytes=4096, metric="top1", accuracy=0.9, samples=1000, dataset_sha256="d" * 64,
    artifact_sha256="a" * 64, throttled=False, commit=None, note="",
)  # fmt: skip


def tree(root: Path) -> Tree:
    """A build folder with int8 and fp32 on tflite, measured here, and int8 on an emulated board."""
    made = Tree(root)
    made.checkpoint()
    for recipe in ("fp32", "int8"):
        made.artifact(recipe, "tflite")
        made.measure(recipe, "tflite", device=LOCAL, method="5 × edge-bench run", **microseconds(250))
    made.measure("int8", "tflite", device=BOARD)
    return made


def write(folder: Path, *entries: Entry) -> None:
    for one in entries:
        store.write(folder / one.name, one)


def days(count: int, **changes: Any) -> list[Entry]:
    """Entries of successive days; a list among the changes has a value for each."""
    found = []
    for i in range(count):
        own = {name: value[i] if isinstance(value, list) else value for name, value in changes.items()}
        found.append(replace(ENTRY, at=f"2026-{1 + i // 28:02}-{1 + i % 28:02}T00:00:00+00:00", **own))
    return found


def only(entries: list[Entry], figure: str) -> trends.Trend:
    (found,) = [one for one in trends.trends(entries) if one.figure == figure]
    return found


# -- adding ------------------------------------------------------------------------------------------------------------


def test_every_valid_measurement_becomes_one_file(tmp_path: Path) -> None:
    made, folder = tree(tmp_path / "build"), tmp_path / "history"
    new = history.add(folder, collect.rows(made.build), "c" * 40, "before\nthe update")
    entries, left_out = history.read(folder)
    assert (len(new), left_out, {path.name for path in new}) == (3, [], {one.name for one in entries})
    one = next(one for one in entries if (one.recipe, one.device) == ("int8", "local"))
    assert (one.hardware, one.runtime, one.method) == ("a cpu, 4 cores", "litert 2.3.0 XNNPACK", "5 × edge-bench run")
    assert (one.figure, one.medians) == (LATENCY, pytest.approx((0.25,) * 5))
    assert (one.size_bytes, one.samples, one.metric, one.commit) == (4096, len(made.truth), "top1", "c" * 40)
    assert (one.at, one.note, one.artifact_sha256) == ("2026-01-01T00:00:00+00:00", "before the update", "int8-tflite")
    board = next(one for one in entries if one.device == "pi4-emulated")
    assert (board.figure, board.method) == (INSTRUCTIONS, "unknown") and board.medians[0] > 1000


def test_a_measurement_is_added_once_whatever_the_note(tmp_path: Path) -> None:
    rows = collect.rows(tree(tmp_path / "build").build)
    assert len(history.add(tmp_path / "history", rows, note="one")) == 3
    assert history.add(tmp_path / "history", rows, "c" * 40, "two") == []


def test_a_changed_file_is_never_overwritten(tmp_path: Path) -> None:
    rows = collect.rows(tree(tmp_path / "build").build)
    one, *others = history.add(tmp_path / "history", rows)
    one.write_text("{}")
    for other in others:
        other.unlink()
    with pytest.raises(Broken, match=one.name):
        history.add(tmp_path / "history", rows)
    assert one.read_text() == "{}" and list((tmp_path / "history").iterdir()) == [one]


def test_two_branches_that_add_the_same_measurement_merge_without_conflict(tmp_path: Path) -> None:
    write(tmp_path, replace(ENTRY, note="one"), replace(ENTRY, note="two"))
    assert len(list(tmp_path.iterdir())) == 2
    assert [one.measurement for one in history.read(tmp_path)[0]] == [ENTRY]


def test_stale_measurements_are_not_added(tmp_path: Path) -> None:
    made = tree(tmp_path / "build")
    made.artifact("fp32", "tflite", sha256="other")
    assert len(history.add(tmp_path / "history", collect.rows(made.build))) == 2
    with pytest.raises(BadOption):
        history.add(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_measured_files_that_are_not_added_are_named(tmp_path: Path) -> None:
    made = tree(tmp_path / "build")
    assert history.not_added(collect.rows(made.build)) == [], "files that no device measured are not named"
    made.artifact("fp32", "tflite", sha256="other")
    done = inv(made.root, "history", "--add", "--folder", tmp_path / "history")
    (line,) = done.err.splitlines()
    assert all(word in line for word in ("toy", "torch", "fp32", "tflite", "local", "inv bench"))
    assert done.code == 0 and len(done.lines) == 2 and all("tflite" not in path for path in done.lines)


def test_the_commit_is_that_of_the_users_repository(tmp_path: Path) -> None:
    assert history.commit(tmp_path) is None
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e")
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    for words in (["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *words], check=True)
    clean = history.commit(tmp_path)
    assert clean is not None and len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert history.commit(tmp_path) == f"{clean}-dirty"


# -- reading -----------------------------------------------------------------------------------------------------------


def broken(value: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**value, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1}, {"schema": 2}, {"threads": "1"}, {"threads": 0}, {"medians": [-1.0]}, {"medians": [1e400]},
        {"accuracy": float("nan")}, {"samples": 10**4000}, {"at": "yesterday"}, {"at": "2026-01-01T00:00:00"},
        {"at": "../../x"}, {"figure": "speed"}, {"model": None}, {"note": "changed"},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_with_other_values_is_left_out_by_name_and_the_rest_is_read(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, ENTRY)
    (tmp_path / "bad.json").write_text(broken(to_json(ENTRY), **changes))
    entries, left_out = history.read(tmp_path)
    assert entries == [ENTRY]
    (found,) = left_out
    assert found.file == "bad.json" and found.reason and len(found.reason) <= 200


def test_a_changed_file_is_found_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, ENTRY)
    (tmp_path / ENTRY.name).write_text(broken(to_json(ENTRY), accuracy=0.99))
    assert [left.file for left in history.read(tmp_path)[1]] == [ENTRY.name]
    (tmp_path / ENTRY.name).write_bytes(json.dumps(to_json(ENTRY), indent=4).replace("\n", "\r\n").encode())
    assert history.read(tmp_path) == ([ENTRY], []), "line ends and spaces do not matter"


def test_links_folders_pipes_and_large_or_deep_files_are_left_out(tmp_path: Path) -> None:
    folder, outside = tmp_path / "history", tmp_path / ENTRY.name
    write(folder, ENTRY)
    store.write(outside, ENTRY)
    (folder / "a").symlink_to(outside)
    (folder / "b").mkdir()
    os.mkfifo(folder / "c")
    (folder / "d").write_bytes(b" " * 1_000_001)
    (folder / "e").write_text("[" * 100_000)
    (folder / "f\x1b[31m").write_bytes(b"\xff\xfe")
    (folder / ".gitattributes").write_text("")
    entries, left_out = history.read(folder)
    assert entries == [ENTRY]
    assert [left.file for left in left_out] == ["a", "b", "c", "d", "e", "f [31m"]
    assert all(left.reason.isprintable() for left in left_out)


def test_without_a_folder_there_is_no_history(tmp_path: Path) -> None:
    with pytest.raises(BadOption):
        history.read(tmp_path / "none")


def test_a_time_far_out_is_broken() -> None:
    with pytest.raises(Broken):
        _ = replace(ENTRY, at="0001-01-01T00:00:00+14:00").name


# -- trends ------------------------------------------------------------------------------------------------------------


def test_a_trend_has_its_points_by_time_and_the_latest_change(tmp_path: Path) -> None:
    write(tmp_path, *reversed(days(3, medians=[(1.0,), (2.0,), (3.0,)], accuracy=[0.9, 0.9, 0.91])))
    found = {one.figure: one for one in trends.history(tmp_path).trends}
    assert set(found) == {LATENCY, SIZE, ACCURACY}
    assert [point.value for point in found[LATENCY].points] == [1, 2, 3]
    assert found[LATENCY].change == 1.5 and found[ACCURACY].change == pytest.approx(1) and found[SIZE].change == 1


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ({"hardware": "another"}, (LATENCY, ACCURACY)),
        ({"runtime": "litert 2.4.0"}, (LATENCY, ACCURACY)),
        ({"method": "1 × edge-bench run"}, (LATENCY,)),
        ({"dataset_sha256": "e" * 64}, (ACCURACY,)),
        ({"samples": 500}, (ACCURACY,)),
        ({"artifact_sha256": "b" * 64}, ()),
    ],
    ids=str,
)
def test_trends_break_where_their_conditions_change(change: dict[str, Any], figures: tuple[str, ...]) -> None:
    before, after = days(20)[:10], [replace(one, **change) for one in days(20, medians=(2.0, 2.1))[10:]]
    found = {one.figure: one for one in trends.trends(before + after)}
    assert {figure for figure, one in found.items() if one.breaks} == set(figures)
    for figure in figures:
        (gap,) = found[figure].breaks
        assert gap.at == after[0].at and gap.changed[0].startswith(next(iter(change)))
        assert found[figure].steps == (), "figures on both sides of a break are not compared"
    assert bool(found[LATENCY].steps) == (LATENCY not in figures)


def test_other_devices_and_numbers_of_threads_are_other_trends() -> None:
    entries = [ENTRY, replace(ENTRY, device="pi4"), replace(ENTRY, threads=4), replace(ENTRY, recipe="fp32")]
    assert len(trends.trends(entries)) == 4 * 3


def test_a_slower_file_is_a_step_with_date_ratio_and_interval() -> None:
    random = np.random.default_rng(1)
    medians = [tuple((1 + 0.1 * (i >= 12)) * np.exp(random.normal(0, 0.01, 5))) for i in range(20)]
    entries = days(20, medians=medians, note=[f"run {i}" for i in range(20)])
    (step,) = only(entries, LATENCY).steps
    assert (step.at[:10], step.note) == ("2026-01-13", "run 12")
    assert step.interval[0] < step.change < step.interval[1] and step.interval[0] < 1.1 < step.interval[1]
    assert step.p < 0.05


def test_in_histories_without_a_change_steps_are_rare_over_all_trends_together() -> None:
    random = np.random.default_rng(7)

    def steps() -> int:
        own = []
        for recipe in ("fp32", "fp16", "int8", "int4"):
            levels = np.exp(random.normal(0, 0.02, 16))  # days differ by more than the processes of one day
            medians = [tuple(level * np.exp(random.normal(0, 0.01, 5))) for level in levels]
            own += days(16, recipe=recipe, medians=medians)
        return sum(len(one.steps) for one in trends.trends(own))

    assert sum(steps() > 0 for _ in range(100)) <= 8, "5 expected at most; 8 in 100 is its 95th percentile"


def test_figures_without_noise_step_wherever_they_change_by_a_percent() -> None:
    counts = [(1000.0,), (1005.0,), (1009.0,), (1011.0,), (1011.0,)]
    found = only(days(5, figure=INSTRUCTIONS, medians=counts, size_bytes=[100, 100, 50, 50, 50]), INSTRUCTIONS)
    (step,) = found.steps
    assert (step.before, step.after, step.p) == (1000, 1011, 0) and step.interval == (step.change, step.change)
    assert [step.change for step in only(days(5, size_bytes=[100, 100, 50, 50, 50]), SIZE).steps] == [0.5]


def test_throttled_latencies_are_shown_but_not_tested() -> None:
    slow = [False] * 8 + [True] * 8
    found = only(days(16, throttled=slow, medians=[(2.0,) if each else (1.0,) for each in slow]), LATENCY)
    assert len(found.points) == 16 and found.steps == ()


def test_accuracy_counts_once_for_each_file() -> None:
    files = [f"{i // 4}" * 64 for i in range(16)]
    few = only(days(16, artifact_sha256=files, accuracy=[0.9] * 8 + [0.7] * 8), ACCURACY)
    assert few.steps == (), "four files are too few, however often they were measured"
    many = only(days(16, artifact_sha256=[f"{i:064}" for i in range(16)], accuracy=[0.9] * 8 + [0.7] * 8), ACCURACY)
    assert [step.change for step in many.steps] == [pytest.approx(-20)]


def test_filters_take_known_names_only(tmp_path: Path) -> None:
    write(tmp_path, ENTRY, replace(ENTRY, recipe="fp32"))
    assert {one.recipe for one in trends.history(tmp_path, {"recipe": ["fp32"]}).trends} == {"fp32"}
    with pytest.raises(UnknownName) as error:
        trends.history(tmp_path, {"recipe": ["fp16"]})
    assert error.value.known == ["fp32", "int8"]


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_sparkline_shows_breaks() -> None:
    entries = days(4, medians=[(1.0,), (2.0,), (2.0,), (1.0,)], method=["a", "a", "b", "b"])
    assert report.sparkline(only(entries, LATENCY).points) == "▁█|█▁"
    assert report.sparkline(only(entries, SIZE).points) == "▄▄▄▄"


def test_the_command_adds_and_shows(tmp_path: Path) -> None:
    build, folder = tree(tmp_path / "build").root, tmp_path / "history"
    added = inv(build, "history", "--add", "--folder", folder, "--note", "first").lines
    assert sorted(map(Path, added)) == sorted(folder.iterdir()) and len(added) == 3
    assert inv(build, "history", "--folder", folder, "--add").lines == [f"{folder}: up to date"]
    found = inv(build, "history", "--folder", folder, "--recipe", "int8", "--json").json
    assert [(one["device"], one["figure"]) for one in found["trends"] if one["figure"] in (LATENCY, INSTRUCTIONS)] == [
        ("local", LATENCY), ("pi4-emulated", INSTRUCTIONS),
    ]  # fmt: skip
    (folder / "stray.json").write_text("{}")
    done = inv(build, "history", "--folder", folder)
    assert done.code == 2 and "fp32" in done.out
    (line,) = done.err.splitlines()
    assert line.startswith("error: stray.json: ")
    assert "--note" in inv(build, "history", "--folder", folder, "--note", "x").only


@pytest.mark.parametrize(("ms", "text"), [(0.0043, "0.0043"), (0.25, "0.25"), (1.234, "1.23"), (1234.5, "1,234")])
def test_latencies_have_three_digits(ms: float, text: str) -> None:
    assert report.value(LATENCY, ms) == text


def test_names_from_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    write(tmp_path / "h", replace(ENTRY, model="[red]a[/]\x1b[2J\ud800", device=":bomb: \n b", recipe="[/x]"))
    done = inv(tmp_path / "build", "history", "--folder", tmp_path / "h")
    assert "\x1b" not in done.out and "[red]a[/] [2J" in done.lines[0] and ":bomb: b" in done.lines[0]
    assert any(line.startswith("[/x]") for line in done.lines)


def test_lines_name_breaks_and_steps() -> None:
    entries = days(12, figure=INSTRUCTIONS, medians=[(1000.0,)] * 6 + [(1100.0,)] * 6, commit="c" * 40)
    entries = [replace(one, hardware="other" if i >= 9 else one.hardware) for i, one in enumerate(entries)]
    step, gap = report.events(trends.trends(entries))
    assert step.startswith("2026-01-07 step: int8 on tflite, instructions: 1,000 → 1,100")
    assert "+10.0 %" in step and "cccccccccccc" in step
    assert gap.startswith("2026-01-10 ") and "hardware: pi5 1234 → other" in gap
