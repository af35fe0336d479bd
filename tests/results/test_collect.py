"""Results of build folders written by hand: every state of a cell, and every kind of broken file."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import formatting, registry
from pipeline.core import Cell, Failure, to_json
from pipeline.report.groups import by_device
from pipeline.results import collect
from pipeline.system import store
from pipeline.system.store import Store
from tests.builds import BOARD, LOCAL, Tree, predictions


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    return made


def cell(tree: Tree, recipe: str, target: str, device: str | None = None) -> Cell:
    """The one cell of these names."""
    (found,) = [
        c for c in collect.cells(tree.build) if (c.recipe, c.target) == (recipe, target) and device in (None, c.device)
    ]
    return found


# -- the states of a cell ----------------------------------------------------------------------------------------------


def test_every_recipe_and_target_has_a_cell_before_anything_is_exported(tree: Tree) -> None:
    found = collect.cells(tree.build)
    assert len(found) == 5 * 5
    assert {c.status for c in found} == {"missing", "unsupported"}
    assert all(c.reason for c in found)


def test_a_model_without_a_checkpoint_has_cells_only_on_request(tmp_path: Path) -> None:
    assert collect.cells(Store(tmp_path)) == []
    asked = collect.cells(Store(tmp_path), [("toy", "torch")])
    assert {c.reason for c in asked if c.status == "missing"} == {"not trained yet: inv train --model toy"}


def test_a_cell_that_is_not_exported_names_the_export_command(tree: Tree) -> None:
    assert cell(tree, "int8", "tflite").reason == (
        "not exported yet: inv export --model toy --target tflite --recipe int8"
    )


def test_a_cell_that_is_not_measured_names_the_bench_command_and_has_a_size(tree: Tree) -> None:
    tree.artifact("int8", "tflite")
    found = cell(tree, "int8", "tflite")
    assert (found.status, found.size_bytes) == ("missing", 4096)
    assert found.reason == "not measured yet: inv bench --model toy --target tflite --recipe int8"


def test_the_command_names_a_framework_other_than_torch(tmp_path: Path) -> None:
    tree = Tree(tmp_path, framework="keras")
    tree.checkpoint()
    tree.artifact("fp32", "onnx")
    assert "--model toy --framework keras " in (cell(tree, "fp32", "onnx").reason or "")


def test_an_unsupported_cell_has_the_targets_reason(tree: Tree) -> None:
    found = cell(tree, "int8_dynamic", "coreml")
    assert found.status == "unsupported"
    assert "Core ML" in (found.reason or "")


def test_a_measured_cell_has_all_its_figures(tree: Tree) -> None:
    tree.artifact("int8", "tflite")
    tree.measure("int8", "tflite", tree.wrong(4))
    found = cell(tree, "int8", "tflite", "local")
    assert (found.status, found.reason, found.emulated) == ("ok", None, False)
    assert found.latency_ms is not None
    assert found.latency_ms.p50 == pytest.approx(0.025)
    assert (found.load_ms, found.first_run_ms, found.peak_rss_bytes) == (3.0, 0.09, 50_000_000)
    assert (found.reference_accuracy, found.accuracy) == (1.0, 0.98)
    assert found.drop_points == pytest.approx(2.0)
    assert found.drop_interval == pytest.approx((-0.3808, 4.3411), abs=1e-4)
    assert found.agreement == 0.98
    assert found.runtime == "litert 2.3.0, 1 thread, XNNPACK"
    assert found.warnings == ()


def test_each_device_has_a_cell_of_its_own(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx")
    tree.measure("fp32", "onnx", device=BOARD)
    devices = [c.device for c in collect.cells(tree.build) if c.status == "ok"]
    assert devices == ["local", "pi4-emulated"]


def test_figures_of_two_phones_under_one_name_are_shown_apart(tree: Tree) -> None:
    first, second = ({**LOCAL, "name": "phone", "kind": "adb", "hardware": f"serial {n}"} for n in (1, 2))
    tree.artifact("fp32", "onnx")
    tree.artifact("int8", "onnx")
    tree.measure("fp32", "onnx", device=first)
    tree.measure("int8", "onnx", device=second)
    found = {c.recipe: c for c in collect.cells(tree.build) if c.status == "ok"}
    assert {recipe: (c.device, c.hardware) for recipe, c in found.items()} == {
        "fp32": ("phone", "serial 1"), "int8": ("phone", "serial 2"),
    }  # fmt: skip
    groups = by_device(collect.rows(tree.build))
    assert [len(rows) for _, rows in groups] == [1, 1]
    assert ["serial 1" in name for name, _ in groups] == [True, False]
    tree.measure("fp32", "onnx", device=second)
    assert [len(rows) for _, rows in by_device(collect.rows(tree.build))] == [2]
    assert not any(c.shares_name for c in collect.cells(tree.build))


def test_each_number_of_threads_has_a_cell_of_its_own(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx")
    home = tree.build.cell("toy", "torch", "fp32", "onnx") / "local"
    noun = tree.measure("fp32", "onnx", runtime={"name": "onnxruntime", "threads": 4})
    (home / "threads-4").mkdir()
    for name in ("measurement.json", "predictions.npz"):
        (home / name).rename(home / "threads-4" / name)
    tree.measure("fp32", "onnx")
    found = [c for c in collect.cells(tree.build) if c.status == "ok"]
    assert [(c.device, c.threads, formatting.device(c)) for c in found] == [
        ("local", 1, "local"), ("local", 4, "local, 4 threads"),
    ]  # fmt: skip
    store.write(home / "threads-4" / "measurement.json", dataclasses.replace(noun, artifact_sha256="of last week"))
    (stale,) = [c for c in collect.cells(tree.build) if c.threads == 4]
    assert (stale.reason or "").endswith("--recipe fp32 --device local --threads 4")


@pytest.mark.parametrize("name", ["threads-2", "threads-two", "more"])
def test_a_measurement_in_the_folder_of_another_thread_count_fails(tree: Tree, name: str) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx")
    home = tree.build.cell("toy", "torch", "fp32", "onnx") / "local"
    (home / name).mkdir()
    for file in ("measurement.json", "predictions.npz"):
        (home / file).rename(home / name / file)
    found = cell(tree, "fp32", "onnx")
    assert found.status == "failed" and "local/1" in (found.reason or "")


def test_an_emulated_device_shows_instructions_and_no_time(tree: Tree) -> None:
    tree.artifact("fp32", "onnx")
    tree.measure("fp32", "onnx", device=BOARD)
    found = cell(tree, "fp32", "onnx")
    assert found.emulated
    assert (found.latency_ms, found.load_ms, found.first_run_ms) == (None, None, None)
    assert found.instructions == 25_000
    assert found.accuracy == 1.0


def test_an_emulated_device_without_an_instruction_count_shows_neither_time_nor_instructions(tree: Tree) -> None:
    tree.artifact("fp32", "tflite")
    tree.measure("fp32", "tflite", device={**LOCAL, "name": "phone-emulated", "emulated": True})
    found = cell(tree, "fp32", "tflite")
    assert (found.status, found.latency_ms, found.instructions) == ("ok", None, None)


def test_a_core_ml_export_is_ok_but_marked_as_not_checked(tree: Tree) -> None:
    tree.artifact("fp32", "coreml")
    found = cell(tree, "fp32", "coreml")
    assert (found.status, found.device, found.size_bytes) == ("ok", None, 4096)
    assert (found.accuracy, found.latency_ms, found.parity) == (None, None, None)
    assert (found.unchecked or "").startswith("not checked by Lastmile")


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_a_recorded_failure_is_shown_with_its_reason(tree: Tree, status: str) -> None:
    tree.fail("int8", "onnx", "no kernel for Foo", status)
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.reason) == (status, "no kernel for Foo")


def test_a_failed_run_on_a_device_is_a_failed_cell_of_that_device(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.fail("int8", "onnx", "Illegal instruction", device="pi5-emulated")
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.device, found.reason) == ("failed", "pi5-emulated", "Illegal instruction")


def test_an_export_that_failed_under_another_key_is_not_exported_yet(tree: Tree) -> None:
    """Other weights, tools or code: the failure may have been fixed."""
    path = tree.fail("int8", "onnx", "no kernel for Foo", "unsupported")
    failure = store.read(Failure, path)
    assert failure is not None
    for weights, status in (("x" * 64, "missing"), ("w" * 64, "unsupported")):
        tree.checkpoint(weights_sha256=weights)
        assert cell(tree, "int8", "onnx").status == status
    store.write(path, dataclasses.replace(failure, key="k" * 64))
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.reason) == (
        "missing", "not exported yet: inv export --model toy --target onnx --recipe int8",
    )  # fmt: skip


def test_a_run_that_failed_with_another_file_is_not_measured_yet(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.fail("int8", "onnx", "Illegal instruction", device="pi5-emulated")
    tree.artifact("int8", "onnx", sha256="exported again")
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.device) == ("missing", "pi5-emulated")
    assert (found.reason or "").startswith("not measured yet: inv bench ")


def test_a_run_that_failed_with_another_runtime_is_no_warning_on_the_older_figures(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    tree.fail("int8", "onnx", "Illegal instruction", device="local")
    assert len(cell(tree, "int8", "onnx").warnings) == 1
    versions = registry.versions
    monkeypatch.setattr(registry, "versions", lambda names: {**versions(names), "onnxruntime": "99.0"})
    assert cell(tree, "int8", "onnx").warnings == ()


def test_a_failed_run_after_a_successful_one_is_a_warning_on_its_cell(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    tree.fail("int8", "onnx", "timeout after 600 s", device="local")
    found = cell(tree, "int8", "onnx")
    assert found.status == "ok"
    (warning,) = found.warnings
    assert "the last run failed (timeout after 600 s)" in warning


# -- stale -------------------------------------------------------------------------------------------------------------


def test_a_measurement_of_an_older_export_is_not_shown(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", artifact_sha256="of last week")
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.accuracy, found.latency_ms) == ("missing", None, None)
    assert found.reason == (
        "measured on an older export: inv bench --model toy --target onnx --recipe int8 --device local"
    )


def test_a_measurement_over_other_samples_is_not_shown(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    tree.checkpoint(dataset_sha256="other")
    assert "measured on other samples" in (cell(tree, "int8", "onnx").reason or "")


def test_an_export_from_other_weights_is_not_shown(tree: Tree) -> None:
    tree.artifact("int8", "onnx", weights_sha256="older")
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.size_bytes) == ("missing", None)
    assert "other weights" in (found.reason or "")


def test_a_failure_takes_precedence_over_the_stale_export_it_could_not_replace(tree: Tree) -> None:
    tree.artifact("int8", "onnx", weights_sha256="older")
    tree.fail("int8", "onnx", "no kernel for Foo")
    assert cell(tree, "int8", "onnx").reason == "no kernel for Foo"


# -- broken ------------------------------------------------------------------------------------------------------------


def test_a_broken_manifest_is_a_failed_cell_that_names_the_file(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    home = tree.build.cell("toy", "torch", "int8", "onnx")
    for path, device in ((home / "local" / "measurement.json", "local"), (home / "artifact.json", None)):
        path.write_text("{")
        found = cell(tree, "int8", "onnx")
        assert (found.status, found.device) == ("failed", device)
        assert path.name in (found.reason or "")


def test_a_manifest_that_is_not_text_is_a_failed_cell(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    (tree.build.cell("toy", "torch", "int8", "onnx") / "artifact.json").write_bytes(b"\xff\xfe\x00")
    assert cell(tree, "int8", "onnx").status == "failed"


def test_a_broken_checkpoint_fails_every_cell_that_is_compared_with_it(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    (tree.build.checkpoint("toy", "torch") / "checkpoint.json").write_text('{"schema": 1}')
    found = collect.cells(tree.build)
    assert {c.status for c in found} == {"failed", "unsupported"}
    assert all("checkpoint is broken" in (c.reason or "") for c in found if c.status == "failed")


def test_a_missing_or_truncated_file_fails_with_its_size(tree: Tree) -> None:
    tree.artifact("int8", "onnx", size=100)
    file = tree.build.cell("toy", "torch", "int8", "onnx") / "model.bin"
    file.write_bytes(bytes(99))
    assert "has 99 bytes; its manifest has 100" in (cell(tree, "int8", "onnx").reason or "")
    file.unlink()
    assert "model.bin is missing" in (cell(tree, "int8", "onnx").reason or "")


def test_a_manifest_in_the_folder_of_another_cell_fails(tree: Tree) -> None:
    made = tree.artifact("int8", "onnx")
    folder = tree.build.cell("toy", "torch", "int8", "onnx")
    store.write(folder / "artifact.json", dataclasses.replace(made, target="tflite"))
    assert "toy/torch/int8/onnx is of toy/torch/int8/tflite" in (cell(tree, "int8", "onnx").reason or "")


def test_a_manifest_cannot_point_out_of_its_folder(tree: Tree) -> None:
    tree.artifact("int8", "onnx", file="../../secret")
    assert "not a plain file name" in (cell(tree, "int8", "onnx").reason or "")


def test_changed_predictions_fail_the_cell(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    predictions(tree.build.cell("toy", "torch", "int8", "onnx") / "local" / "predictions.npz", output_0=tree.wrong(1))
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.accuracy) == ("failed", None)
    assert "sha256 differs" in (found.reason or "")


def with_predictions(tree: Tree, content: bytes) -> Cell:
    """The cell of a measurement whose predictions file has this content and the right hash in the manifest."""
    tree.artifact("int8", "onnx")
    noun = tree.measure("int8", "onnx")
    home = tree.build.cell("toy", "torch", "int8", "onnx") / "local"
    (home / "predictions.npz").write_bytes(content)
    digest = store.sha256(home / "predictions.npz")
    accuracy = dataclasses.replace(noun.accuracy, predictions_sha256=digest)
    store.write(home / "measurement.json", dataclasses.replace(noun, accuracy=accuracy))
    return cell(tree, "int8", "onnx")


def test_pickled_predictions_are_not_loaded(tree: Tree) -> None:
    file = io.BytesIO()
    np.savez(file, output_0=np.array([{}], dtype=object))
    found = with_predictions(tree, file.getvalue())
    assert found.status == "failed"
    assert "not an .npz file of arrays" in (found.reason or "")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"])
def test_predictions_that_are_not_an_npz_file_fail_the_cell(tree: Tree, content: bytes) -> None:
    assert with_predictions(tree, content).status == "failed"


def test_predictions_of_fewer_samples_are_not_compared(tree: Tree) -> None:
    file = io.BytesIO()
    np.savez(file, output_0=tree.logits[:-1])
    assert "the float model has [((200, 4), 'float32')]" in (with_predictions(tree, file.getvalue()).reason or "")


def test_an_accuracy_that_does_not_follow_from_the_predictions_fails_the_cell(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    noun = tree.measure("int8", "onnx", tree.wrong(4))
    better = dataclasses.replace(noun.accuracy, value=1.0)
    tree.measure("int8", "onnx", tree.wrong(4), accuracy=better)
    reason = cell(tree, "int8", "onnx").reason or ""
    assert "0.9800 over 200" in reason and "1.0000 over 200" in reason


def test_a_measurement_without_runs_fails_the_cell(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", runs=())
    assert "at least one run" in (cell(tree, "int8", "onnx").reason or "")


def test_a_measurement_that_does_not_record_whether_the_device_is_emulated_shows_no_latency(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", device={"name": "local"})
    found = cell(tree, "int8", "onnx")
    assert (found.status, found.latency_ms) == ("failed", None)


def test_nonfinite_outputs_count_as_wrong_and_give_a_warning(tree: Tree) -> None:
    outputs = tree.wrong(2)
    outputs[:2] = np.nan
    outputs[:2, 3] = np.inf
    tree.artifact("fp16", "onnx")
    noun = tree.measure("fp16", "onnx", outputs)
    tree.measure("fp16", "onnx", outputs, accuracy=dataclasses.replace(noun.accuracy, value=0.99))
    found = cell(tree, "fp16", "onnx")
    assert (found.accuracy, found.agreement) == (0.99, 0.99)
    assert any("2 of 200 samples gave NaN or infinite outputs" in text for text in found.warnings)


def test_an_export_whose_recipe_was_removed_is_still_shown(tree: Tree) -> None:
    tree.artifact("int3", "onnx")
    found = cell(tree, "int3", "onnx")
    assert found.status == "failed"
    assert "unknown recipe 'int3'" in (found.reason or "")


# -- for scripts -------------------------------------------------------------------------------------------------------


def test_a_cell_as_json_has_the_fields_that_scripts_read(tree: Tree) -> None:
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    found = json.loads(json.dumps(to_json(cell(tree, "int8", "onnx"))))
    assert {"model", "framework", "recipe", "target", "device", "emulated", "status", "reason"} <= set(found)
    assert {"size_bytes", "instructions", "load_ms", "peak_rss_bytes", "accuracy", "agreement"} <= set(found)
    assert set(found["latency_ms"]) == {
        *("p50", "p90", "p99", "mean", "n", "single_runs", "processes", "spread", "clock_ns"),
    }
    assert len(found["drop_interval"]) == 2
