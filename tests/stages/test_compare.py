"""Comparing two artifacts: their processes alternate, the rounds are extended once, and bad input is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import Artifact
from pipeline.errors import BadOption, Broken, StageFailed, Unsupported
from pipeline.results import ratios
from pipeline.results.comparison import Comparison
from pipeline.stages import compare
from pipeline.stages.compare import Options
from pipeline.system import store
from pipeline.system.store import Store
from tests import scripted
from tests.builds import Tree
from tests.cli import inv
from tests.scripted import microseconds, noisy

USUAL = Options()


def files(folder: Path) -> tuple[compare.Subject, compare.Subject]:
    """Two files alone, in folders "old" and "new"."""
    for name in ("old", "new"):
        (folder / name).mkdir()
        (folder / name / "model.tflite").write_bytes(name.encode())
    old, new = (compare.subject(folder / name / "model.tflite") for name in ("old", "new"))
    return old, new


def compared(folder: Path, figures: scripted.Figures, how: Options = USUAL, **more: Any) -> Comparison:
    old, new = files(folder)
    return compare.compare(Store(folder / "build"), old, new, scripted.device(figures, **more), how)


def test_processes_alternate_and_every_other_round_begins_with_the_new_file(tmp_path: Path) -> None:
    device = scripted.device(noisy(1.2, 0.01))
    old, new = files(tmp_path)
    found = compare.compare(Store(tmp_path / "build"), old, new, device, Options(rounds=4))
    assert isinstance(device.kind, scripted.Scripted)
    assert [path.parent.name for path in device.kind.calls] == ["old", "new", "new", "old"] * 2
    assert (found.verdict, found.rounds, found.alpha) == (ratios.WORSE, 4, 0.01)
    assert found.interval is not None and found.interval[0] < 1.2 < found.interval[1]
    assert (found.old_cost, found.new_cost) == (pytest.approx(0.1, rel=0.05), pytest.approx(0.12, rel=0.05))


def test_rounds_that_cannot_tell_are_extended_once(tmp_path: Path) -> None:
    found = compared(tmp_path, noisy(1.0, 0.2), Options(rounds=5))
    assert (found.rounds, found.alpha, found.verdict) == (10, 0.04, ratios.CANNOT_TELL)
    assert found.rounds_needed is not None and found.rounds_needed > 5
    assert found.resolution is not None and found.resolution > found.margin


def test_files_within_the_margin_are_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, noisy(1.0, 0.002), Options(rounds=5))
    assert (found.verdict, found.rounds, found.rounds_needed) == (ratios.SAME, 5, None)


def test_a_given_margin_below_the_resolution_is_refused_with_the_rounds_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--margin 1: 5 rounds .* --rounds (\d+)") as raised:
        compared(tmp_path, noisy(1.0, 0.1), Options(rounds=5, margin=0.01))
    needed = int(str(raised.value).rpartition(" ")[2])
    assert 50 < needed < 2000


def test_a_clear_difference_needs_no_margin_within_the_resolution(tmp_path: Path) -> None:
    assert compared(tmp_path, noisy(3.0, 0.1), Options(rounds=6, margin=0.001)).verdict == ratios.WORSE


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "same"), (1.015, "same"), (1.03, "worse"), (0.9, "better")])
def test_instructions_decide_on_a_device_that_counts_them(tmp_path: Path, ratio: float, verdict: str) -> None:
    count = lambda path, _: microseconds(1000 * (ratio if "new" in path.parts else 1))  # noqa: E731
    found = compared(tmp_path, count, name="pi", emulated=True, options={"clock": "instructions"})
    assert (found.figure, found.verdict, found.rounds) == ("instructions", verdict, 1)
    assert (found.old_cost, found.interval, found.resolution) == (pytest.approx(1e6), None, None)


def test_an_emulated_device_that_counts_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="counts no instructions"):
        compared(tmp_path, noisy(1.0, 0.0), emulated=True)


@pytest.mark.parametrize(
    "options", [Options(rounds=1), Options(margin=0.0), Options(margin=1.0), Options(threads=0),
                Options(margin=float("nan")), Options(inputs=Path("/nowhere.npy"))],
)  # fmt: skip
def test_invalid_options_are_refused(options: Options) -> None:
    with pytest.raises(BadOption, match="--"):
        options.check()


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for name in ("notes.txt", "nothing.tflite", "."):
        with pytest.raises(BadOption):
            compare.subject(tmp_path / name)


def test_a_file_that_does_not_match_its_manifest_is_refused(tmp_path: Path) -> None:
    Tree(tmp_path / "build").artifact("int8", "tflite")
    with pytest.raises(Broken, match=r"model\.bin does not match"):
        compare.subject(tmp_path / "build" / "toy.torch" / "int8" / "tflite")


def test_a_file_that_the_device_does_not_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mlpackage").mkdir()
    found = compare.subject(tmp_path / "x.mlpackage")
    with pytest.raises(Unsupported, match="Apple"):
        found.file(scripted.LOCAL)


def tree(root: Path, wrong: int) -> Path:
    """A build folder with a measured cell whose first `wrong` samples are classified wrongly; the cell's folder."""
    made = Tree(root)
    made.checkpoint()
    artifact = made.artifact("int8", "tflite", file="model.tflite")
    folder = made.build.cell("toy", "torch", "int8", "tflite")
    (folder / "model.tflite").write_bytes(bytes([wrong]))
    digest = store.sha256(folder / "model.tflite")
    value = {**json.loads((folder / "artifact.json").read_text()), "sha256": digest}
    (folder / "artifact.json").write_text(json.dumps(value))
    made.measure("int8", "tflite", made.wrong(wrong), artifact_sha256=digest)
    assert isinstance(artifact, Artifact)
    return folder


def test_accuracy_is_compared_on_the_same_samples_by_mcnemars_exact_test(tmp_path: Path) -> None:
    old, new = (compare.subject(tree(tmp_path / name, wrong)) for name, wrong in (("old", 2), ("new", 12)))
    found = compare.compare(Store(tmp_path / "b"), old, new, scripted.device(noisy(1.0, 0.001)), Options(rounds=4))
    assert found.accuracy is not None and found.accuracy_unknown is None
    change = found.accuracy
    assert (change.samples, change.lost, change.gained, change.verdict) == (200, 10, 0, "worse")
    assert change.p == pytest.approx(2 / 1024)
    assert change.old - change.new == pytest.approx(0.05) and change.drop_points == pytest.approx(5)
    assert (found.old, found.new) == ("int8 on tflite", "int8 on tflite")


def test_why_accuracy_is_not_compared_is_recorded(tmp_path: Path) -> None:
    folders = [tree(tmp_path / name, 1) for name in ("old", "new")]
    old, new = map(compare.subject, folders)
    device = scripted.device(noisy(1.0, 0.001))
    shutil.rmtree(folders[1] / "local")
    found = compare.compare(Store(tmp_path / "b"), old, new, device, Options(rounds=4))
    assert found.accuracy is None and str(folders[1]) in (found.accuracy_unknown or "")


def test_files_are_compared_on_this_machine(matrix: Store, tmp_path: Path) -> None:
    fp32, int8 = (matrix.cell("tiny", "torch", recipe, "tflite") for recipe in ("fp32", "int8"))
    found = inv(tmp_path, "compare", fp32, int8 / "model.tflite", "--rounds", 3, "--json").json
    assert found["verdict"] in ("better", "worse", "same", "cannot tell")
    assert found["rounds"] in (3, 6) and found["new_bytes"] == (int8 / "model.tflite").stat().st_size
    assert (found["old"], found["new"], found["figure"]) == ("fp32 on tflite", "model.tflite", "latency")
    assert found["old_cost"] > 0 and found["hardware"]
    same = inv(tmp_path, "compare", fp32, fp32, "--rounds", 2, "--margin", 90)
    assert any(line.startswith("median") and "worse" not in line and "better" not in line for line in same.lines)
    assert any("0 lost, 0 gained" in line for line in same.lines)


def test_a_file_that_the_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"x" * 100)
    done = inv(tmp_path, "compare", tmp_path / "broken.tflite", tmp_path / "broken.tflite")
    assert "broken.tflite" in done.complaint
    with pytest.raises(StageFailed, match=r"broken\.tflite"):
        one = compare.subject(tmp_path / "broken.tflite")
        compare.compare(Store(tmp_path / "build"), one, one, scripted.LOCAL, Options())
