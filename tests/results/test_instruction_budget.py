"""The instruction budget: growth and missing counts fail, and the file is validated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline import devices
from pipeline.errors import BadOption, Unsupported
from pipeline.results import instruction_budget
from pipeline.results.instruction_budget import Budget, Comparison, Count
from pipeline.system.store import Store
from tests.boards import Board
from tests.builds import BOARD, Tree
from tests.cli import inv

PI4 = devices.find("pi4-emulated")
ONE = Count("toy", "torch", "int8", "tflite", "Pi", "litert", 1, "2.3.0", 1_000_000)
TWO = dataclasses.replace(ONE, recipe="fp32", instructions=5_000_000)
ASKED = {("tflite", "int8"), ("tflite", "fp32")}


def of(instructions: int, version: str = "2.3.0") -> Count:
    return dataclasses.replace(ONE, instructions=instructions, version=version)


def compared(*counts: Count, recorded: tuple[Count, ...] = (ONE,)) -> list[Comparison]:
    return instruction_budget.compare(counts, Budget(recorded), PI4, ASKED)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "instructions.json"
    instruction_budget.record(path, [ONE, TWO])
    return path


# -- what is compared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "fails"), [(1_000_000, False), (1_020_000, False), (1_020_001, True), (980_000, False), (500_000, False)]
)
def test_growth_beyond_two_percent_fails(now: int, fails: bool) -> None:
    (found,) = compared(of(now))
    assert found.fails is fails


def test_growth_is_reported_with_both_counts_and_the_share() -> None:
    (found,) = compared(of(1_034_500))
    assert found.message == "toy int8 on tflite (litert, Pi): 1,034,500 instructions, 1,000,000 recorded (+3.5%)"


def test_another_runtime_version_is_reported_if_the_count_changed() -> None:
    (found,) = compared(of(1_100_000, "2.4.0"))
    assert (found.message or "").endswith("(+10.0%, litert 2.4.0, 2.3.0 recorded)")
    (same,) = compared(of(1_000_000, "2.4.0"))
    assert same.message is None and not same.fails


def test_a_smaller_count_is_reported_and_does_not_fail() -> None:
    (found,) = compared(of(900_000))
    assert not found.fails
    assert "(-10.0%)" in (found.message or "") and "--record" in (found.message or "")


def test_a_count_that_is_not_recorded_fails() -> None:
    (found,) = compared(ONE, recorded=())
    assert found.fails
    assert found.message == (
        "toy int8 on tflite (litert, Pi): 1,000,000 instructions, none recorded: add them with --record"
    )


@pytest.mark.parametrize(
    "other", [{"board": "Pi 5"}, {"runtime": "tflite_runtime"}, {"threads": 2}, {"framework": "keras"}]
)
def test_another_board_runtime_or_number_of_threads_is_another_count(other: dict[str, object]) -> None:
    found, *_ = compared(dataclasses.replace(ONE, **other))
    assert found.recorded is None and found.fails


def test_a_recorded_count_that_was_requested_but_not_measured_fails() -> None:
    first, gone = compared(ONE, recorded=(ONE, TWO))
    assert not first.fails and gone.fails
    assert gone.message == (
        "toy fp32 on tflite (litert, Pi): 5,000,000 instructions recorded, none counted now: remove them there"
    )


def test_recorded_counts_that_were_not_requested_do_not_fail() -> None:
    others = [
        dataclasses.replace(ONE, **changes)
        for changes in (
            {"recipe": "fp16"}, {"target": "onnx", "runtime": "onnxruntime"}, {"model": "other"}, {"board": "Pi 5"},
            {"runtime": "tflite_runtime"},
        )
    ]  # fmt: skip
    assert [one.now for one in compared(ONE, recorded=(ONE, *others))] == [ONE]


def test_a_count_is_the_median_of_a_measurement_with_any_weights(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    found = instruction_budget.count(tree.measure("int8", "onnx", device=BOARD))
    assert found == Count("toy", "torch", "int8", "onnx", "a desk", "litert", 1, "2.3.0", 25_000)
    assert (
        instruction_budget.count(tree.measure("int8", "onnx", device=BOARD, artifact_sha256="of other weights"))
        == found
    )


def test_only_a_clock_that_counts_instructions_is_accepted() -> None:
    instruction_budget.require_clock(PI4)
    with pytest.raises(Unsupported, match=r"^local .*emulate --board pi4"):
        instruction_budget.require_clock(devices.find("local"))


# -- the file ----------------------------------------------------------------------------------------------------------


def test_recorded_counts_replace_older_ones_and_keep_the_others(file: Path) -> None:
    instruction_budget.record(file, [of(900_000)])
    assert set(instruction_budget.read(file).counts) == {of(900_000), TWO}
    again = file.read_bytes()
    instruction_budget.record(file, [of(900_000)])
    assert file.read_bytes() == again


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "recursion"),
        ("[]", "expected an object"),
        ('{"counts": []}', "schema"),
        ('{"counts": [], "schema": 2}', "schema 2"),
        ('{"counts": [{}], "schema": 1}', "model"),
        ('{"counts": {}, "schema": 1}', "expected a list"),
    ],
)
def test_an_invalid_file_is_refused(file: Path, wrong: str, message: str) -> None:
    file.write_text(wrong)
    with pytest.raises(BadOption) as caught:
        instruction_budget.read(file)
    assert message in str(caught.value) and f"inv bench --record {file}" in str(caught.value)


@pytest.mark.parametrize("wrong", ["many", 1.5, True, None])
def test_a_count_that_is_not_a_whole_number_is_refused(file: Path, wrong: object) -> None:
    value = json.loads(file.read_text())
    value["counts"][1]["instructions"] = wrong
    file.write_text(json.dumps(value))
    with pytest.raises(BadOption, match=r"counts\[1\]\.instructions: expected int"):
        instruction_budget.read(file)


@pytest.mark.parametrize(("at", "message"), [(0, "a count below 1"), (-5, "a count below 1")])
def test_a_count_below_1_is_refused(file: Path, at: int, message: str) -> None:
    value = json.loads(file.read_text())
    value["counts"][0]["instructions"] = at
    file.write_text(json.dumps(value))
    with pytest.raises(BadOption, match=message):
        instruction_budget.read(file)


def test_duplicate_counts_are_refused(file: Path) -> None:
    value = json.loads(file.read_text())
    value["counts"].append({**value["counts"][0], "instructions": 1})
    file.write_text(json.dumps(value))
    with pytest.raises(BadOption, match="two counts for toy torch fp32 tflite Pi litert 1; remove one"):
        instruction_budget.read(file)


def test_a_missing_file_is_refused_with_the_command_that_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(BadOption, match=rf"no such file.*inv bench --record {path}"):
        instruction_budget.read(path)
    with pytest.raises(BadOption):
        instruction_budget.read(tmp_path)  # a folder


# -- the gate ----------------------------------------------------------------------------------------------------------


def test_bench_compares_a_board_with_the_recorded_counts(
    copied: Store, tiny: Path, board: Board, tmp_path: Path
) -> None:
    (copied.root / "boards").symlink_to(board.build.root / "boards")
    file = tmp_path / "instructions.json"
    argv = ("bench", "--model", tiny, "--target", "executorch", "--recipe", "fp32,int8", "--device", "pi4-emulated")
    argv += ("--samples", "20", "--min-runs", "16", "--min-seconds", "0")
    done = inv(copied.root, *argv, "--record", file)
    assert done.lines[-1] == f"{file}: 2 counts recorded"
    fp32, int8 = instruction_budget.read(file).counts
    assert (fp32.recipe, int8.recipe) == ("fp32", "int8")
    assert (fp32.board, fp32.runtime) == ("Raspberry Pi 4 Model B (emulated)", "executorch_runner")

    instruction_budget.record(file, [dataclasses.replace(int8, instructions=round(int8.instructions / 1.04))])
    done = inv(copied.root, *argv, "--check", file)

    assert done.code == 1, done.err
    changes = {line.split()[0]: line.split()[-1] for line in done.out.splitlines()[-3:]}
    assert abs(float(changes["fp32"].rstrip("%"))) <= 0.1
    assert abs(float(changes["int8"].rstrip("%")) - 4) <= 0.1
    message = done.err.splitlines()[-1]
    assert message.startswith("tiny int8 on executorch (executorch_runner, Raspberry Pi 4 Model B (emulated)): ")
    assert f"{round(int8.instructions / 1.04):,} recorded (+" in message
