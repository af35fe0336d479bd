"""The gate: what is compared with a baseline, on what evidence, and what input is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.core import Measurement
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken
from pipeline.report import gate as report
from pipeline.results import releases
from pipeline.results.gates import (
    ACCURACY,
    CANNOT_TELL,
    FAIL,
    INSTRUCTIONS,
    LATENCY,
    LOAD,
    MEMORY,
    PASS,
    SIZE,
    Check,
    Gates,
    Limits,
    Outcome,
)
from pipeline.stages import gate
from tests import builds, bundles, scripted
from tests.builds import LOCAL, Tree
from tests.bundles import cell
from tests.cli import Done, inv
from tests.scripted import microseconds, noisy

QUIET = noisy(1.0, 0.002)
BOARD = {**builds.BOARD, "name": "board"}


def changed(root: Path, wrong: int = 0, size: int = 640, device: dict[str, Any] = LOCAL, **more: Any) -> Tree:
    """A build folder with one file, int8 on tflite, and fp32 on tflite as it is in every such folder."""
    made = bundles.tree(root, **more)
    cell(made, "fp32", "tflite", device)
    cell(made, "int8", "tflite", device, outputs=made.wrong(wrong), content=root.name.encode().ljust(size))
    return made


def gated(
    old: Tree,
    new: Tree,
    device: BoundDevice,
    limits: Gates = Gates(),  # noqa: B008  (frozen)
) -> dict[tuple[str, str], Check]:
    """The checks by recipe and figure."""
    found = gate.gate(new.build, releases.read(old.root), [device], limits, Path("gates.toml"))
    return {(check.recipe, check.figure): check for check in found.checks}


@pytest.fixture
def old(tmp_path: Path) -> Tree:
    return changed(tmp_path / "old")


def test_only_a_file_that_changed_is_measured(old: Tree, tmp_path: Path) -> None:
    device = scripted.device(QUIET)
    found = gated(old, changed(tmp_path / "new"), device)
    assert {check.verdict for (_, figure), check in found.items() if figure != ACCURACY} == {PASS}
    assert set(found) == {
        (recipe, figure) for recipe in ("fp32", "int8") for figure in (SIZE, ACCURACY, LATENCY, MEMORY)
    }
    assert isinstance(device.kind, scripted.Scripted)
    assert {path.parent.parent.name for path in device.kind.calls} == {"int8"}
    assert [path.parts[-5] for path in device.kind.calls[:4]] == ["old", "new", "new", "old"]
    assert len(device.kind.calls) == 2 * 10
    same = found["fp32", LATENCY]
    assert (same.change, same.interval, same.reason) == (1.0, None, gate.SAME_FILE)


def test_a_slower_file_fails_and_a_faster_one_passes(old: Tree, tmp_path: Path) -> None:
    new = changed(tmp_path / "new")
    slow = gated(old, new, scripted.device(noisy(1.15, 0.01)))["int8", LATENCY]
    assert slow.verdict == FAIL and slow.change == pytest.approx(1.15, rel=0.02)
    assert (slow.old, slow.new) == (pytest.approx(0.1, rel=0.02), pytest.approx(0.115, rel=0.02))
    assert gated(old, new, scripted.device(noisy(0.8, 0.01)))["int8", LATENCY].verdict == PASS


def test_noise_that_hides_the_limit_extends_the_rounds_once_and_cannot_tell(old: Tree, tmp_path: Path) -> None:
    device = scripted.device(noisy(1.0, 0.3))
    check = gated(old, changed(tmp_path / "new"), device)["int8", LATENCY]
    assert check.verdict == CANNOT_TELL and check.needed is not None and check.needed > 10
    assert isinstance(device.kind, scripted.Scripted)
    assert len(device.kind.calls) == 2 * 20


def test_memory_and_load_time_are_compared_where_they_have_limits(old: Tree, tmp_path: Path) -> None:
    def figures(path: Path, round: int) -> dict[str, Any]:
        factor = 2 if "new" in path.parts else 1
        return {**QUIET(path, round), "peak_rss_bytes": factor * 50_000_000 + round, "load_ns": factor * 10**6 + round}

    limits = Gates(Limits(latency_ratio=None, load_ratio=1.5))
    found = gated(old, changed(tmp_path / "new"), scripted.device(figures), limits)
    assert ("int8", LATENCY) not in found
    assert [found["int8", figure].verdict for figure in (MEMORY, LOAD)] == [FAIL, FAIL]
    assert (found["int8", LOAD].old, found["int8", LOAD].new) == (
        pytest.approx(1.0, rel=1e-3),
        pytest.approx(2.0, rel=1e-3),
    )


def test_accuracy_is_compared_sample_by_sample(old: Tree, tmp_path: Path) -> None:
    check = gated(old, changed(tmp_path / "new", wrong=40), scripted.device(QUIET))["int8", ACCURACY]
    assert (check.verdict, check.change) == (FAIL, pytest.approx(20))
    few = gated(old, changed(tmp_path / "few"), scripted.device(QUIET), Gates(Limits(drop_points=0.9)))[
        "int8", ACCURACY
    ]
    assert few.verdict == CANNOT_TELL and few.needed is not None and few.needed > 200


def test_a_subset_is_compared_with_the_same_samples_of_the_whole_split(old: Tree, tmp_path: Path) -> None:
    from pipeline import stats

    new = changed(tmp_path / "new")
    chosen = stats.stratified(new.truth, 100)
    folder = new.build.cell("tiny", "torch", "int8", "tflite") / "local"
    wrong = new.wrong(0)[chosen]
    wrong[:30] = -wrong[:30]
    digest = builds.predictions(folder / "predictions.npz", output_0=wrong)
    value = json.loads((folder / "measurement.json").read_text())
    share = float((wrong.argmax(1) == new.truth[chosen]).mean())
    value["accuracy"] |= {"samples": 100, "value": share, "predictions_sha256": digest}
    (folder / "measurement.json").write_text(json.dumps(value))
    check = gated(old, new, scripted.device(QUIET))["int8", ACCURACY]
    assert (check.old, check.new) == (1.0, pytest.approx(share))
    assert "of 100;" in check.reason


def test_a_larger_file_fails_by_its_exact_size(old: Tree, tmp_path: Path) -> None:
    check = gated(old, changed(tmp_path / "new", size=700), scripted.device(QUIET))["int8", SIZE]
    assert (check.verdict, check.old, check.new, check.device) == (FAIL, 640, 700, None)


def test_a_table_of_one_file_overrides_its_limit(old: Tree, tmp_path: Path) -> None:
    limits = Gates(cells={("int8", "tflite"): Limits(size_ratio=1.2)})
    assert gated(old, changed(tmp_path / "new", size=700), scripted.device(QUIET), limits)["int8", SIZE].verdict == PASS


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, PASS), (1.02, PASS), (1.021, FAIL)])
def test_instructions_decide_on_a_device_that_counts_them(tmp_path: Path, factor: float, verdict: str) -> None:
    old, new = (changed(tmp_path / name, device=BOARD) for name in ("old", "new"))
    count = lambda path, _: microseconds(1000 * (factor if "new" in path.parts else 1))  # noqa: E731
    board = scripted.device(count, "board", emulated=True, options={"clock": "instructions"})
    found = gated(old, new, board)
    assert {figure for _, figure in found} == {SIZE, ACCURACY, INSTRUCTIONS}
    check = found["int8", INSTRUCTIONS]
    assert (check.verdict, check.change, check.old) == (verdict, pytest.approx(factor), pytest.approx(1e6))


def test_a_file_that_can_no_longer_be_exported_fails(old: Tree, tmp_path: Path) -> None:
    new = bundles.tree(tmp_path / "new")
    cell(new, "fp32", "tflite", LOCAL)
    new.fail("int8", "tflite", "the converter crashed")
    check = gated(old, new, scripted.device(QUIET))["int8", "file"]
    assert check.verdict == FAIL and "the converter crashed" in check.reason


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_was_not_exported_or_measured_is_refused_with_the_command(old: Tree, tmp_path: Path) -> None:
    new = bundles.tree(tmp_path / "new")
    cell(new, "fp32", "tflite", LOCAL)
    with pytest.raises(BadOption, match="int8 on tflite of the baseline is not exported: inv bench"):
        gated(old, new, scripted.device(QUIET))
    cell(new, "int8", "tflite", content=b"other")
    with pytest.raises(BadOption, match=r"not measured on local.*--device local"):
        gated(old, new, scripted.device(QUIET))


def test_a_device_that_the_baseline_was_not_measured_on_is_refused(old: Tree, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"--device phone: .* measured on local"):
        gated(old, changed(tmp_path / "new"), scripted.device(QUIET, "phone"))


def test_a_baseline_of_another_model_or_of_changed_labels_is_refused(old: Tree, tmp_path: Path) -> None:
    other = Tree(tmp_path / "other", model="other")
    other.checkpoint()
    with pytest.raises(BadOption, match=r"tiny \(torch\), and not other"):
        gated(other, old, scripted.device(QUIET))
    labels = changed(tmp_path / "labels", labels=("a", "b", "c", "e"))
    with pytest.raises(BadOption, match="other labels"):
        gated(old, labels, scripted.device(QUIET))


def test_what_is_no_baseline_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadOption, match="no bundle and no build folder"):
            releases.read(folder)
    both = bundles.tree(tmp_path / "build")
    Tree(both.root, model="other").checkpoint()
    with pytest.raises(BadOption, match="--model"):
        releases.read(both.root)
    assert releases.read(both.root, "other").spec.name == "other"


def test_a_changed_file_is_refused(old: Tree, tmp_path: Path) -> None:
    new = changed(tmp_path / "new")
    (new.build.cell("tiny", "torch", "int8", "tflite") / "model.bin").write_bytes(b"x" * 640)
    with pytest.raises(Broken, match="does not match"):
        gated(old, new, scripted.device(QUIET))


def test_given_limits_below_the_resolution_are_refused_and_defaults_are_not(old: Tree, tmp_path: Path) -> None:
    new = changed(tmp_path / "new")
    device = scripted.device(noisy(1.0, 0.05))
    with pytest.raises(BadOption, match=r"latency_ratio 1\.001: 10 rounds .* rounds = \d+"):
        gated(old, new, device, Gates(Limits(latency_ratio=1.001, given=frozenset({"latency_ratio"}))))
    with pytest.raises(BadOption, match=r"drop_points 0\.1: 200 samples"):
        gated(old, new, device, Gates(Limits(drop_points=0.1, given=frozenset({"drop_points"}))))
    assert gated(old, new, device, Gates(Limits(latency_ratio=1.001)))["int8", LATENCY].verdict == CANNOT_TELL


# -- as a user runs it -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Path]:
    """A build folder, and the bundle that was made from it."""
    made = bundles.usual(tmp_path_factory.mktemp("gate") / "build")
    return made, bundles.made(made).path


def run(build: Path, *words: object) -> Done:
    return inv(build, "gate", "--baseline", *words)


def test_a_gate_against_a_bundle_of_the_same_files_passes(shipped: tuple[Tree, Path], tmp_path: Path) -> None:
    made, bundle = shipped
    done = run(made.root, bundle, "--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md")
    assert done.lines[-1].startswith("pass: 18 pass")
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "18", "0", "0")
    assert len(root.findall("./testsuite/testcase")) == 18
    assert (tmp_path / "gate.md").read_text().startswith("## Gate: pass\n")
    assert run(made.root, made.root).code == 0


def test_a_failed_gate_exits_with_1_and_names_the_check_in_each_report(
    shipped: tuple[Tree, Path], tmp_path: Path
) -> None:
    made, bundle = shipped
    limits = tmp_path / "gates.toml"
    limits.write_text('[cells."int8/coreml"]\nsize_ratio = 0.5\n')
    done = run(
        made.root, bundle, "--gates", limits, "--junit", tmp_path / "gate.xml", "--summary", tmp_path / "gate.md"
    )
    assert done.code == 1 and done.err == ""
    (failure,) = ElementTree.parse(tmp_path / "gate.xml").iter("failure")
    assert "int8 on coreml: size" in str(failure.get("message"))
    assert "| int8 on coreml | – | size |" in (tmp_path / "gate.md").read_text()


def test_a_check_that_cannot_tell_is_an_error_in_junit() -> None:
    check = Check("toy", "torch", "int8", "tflite", "local", LATENCY, 1.05, CANNOT_TELL, 1.0, 1.0, 1.0, (0.9, 1.1), 34)
    root = ElementTree.fromstring(report.junit(Outcome("a\x00b", (check,))).partition("\n")[2])
    (error,) = root.iter("error")
    assert (error.get("type"), root.get("errors")) == ("cannot tell", "1")
    assert "34 rounds" in str(error.get("message"))


def test_bad_input_is_one_line_and_writes_nothing(shipped: tuple[Tree, Path], tmp_path: Path) -> None:
    made, bundle = shipped
    report_, limits = tmp_path / "gate.xml", tmp_path / "gates.toml"
    limits.write_text("latency = 1\n")
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "models" / "int8" / "tflite" / "model.bin").write_bytes(b"x")
    for words in (
        (tmp_path,), (bundle, "--device", "phone"), (bundle, "--device", "nothing"), (bundle, "--gates", limits),
        (bundle, "--gates", tmp_path / "none.toml"), (bundle, "--summary", tmp_path / "none" / "x.md"), (copy,),
    ):  # fmt: skip
        assert run(made.root, *words, "--junit", report_).only
    assert not report_.exists()


def test_an_old_release_keeps_its_figures(shipped: tuple[Tree, Path]) -> None:
    made, bundle = shipped
    old, new = releases.read(bundle), releases.of_build(made.build, "tiny", "torch")
    assert (old.version, new.version) == ("1.0.0", None)
    assert set(old.files) == set(new.files) and old.devices == new.devices == ["local"]
    for place, file in old.files.items():
        assert {**file.measured}.keys() == new.files[place].measured.keys()
        for device, found in file.measured.items():
            assert isinstance(found.measurement, Measurement)
            assert (found.top1() == new.files[place].measured[device].top1()).all()
    assert math.isclose(old.accuracy, new.accuracy)
