"""framework → host runtime → device: which outputs are compared, and what a step reports if they cannot be."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import stats
from pipeline.core import Cell, Measurement, Step
from pipeline.results import collect
from pipeline.system import store
from pipeline.system.store import Store
from tests.builds import BOARD, LOCAL, Tree, predictions

RUNNER = {"name": "executorch_runner", "version": "1.5.1", "threads": 1, "delegate": "xnnpack"}
BINDINGS = {**RUNNER, "name": "executorch"}
OPTIONS = "--model toy --target executorch --recipe int8"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.checkpoint()
    made.artifact("int8", "executorch")
    return made


def nudged(tree: Tree, count: int, by: float) -> Any:
    """The float model's outputs, changed by `by` in the first `count` samples."""
    outputs = tree.logits.copy()
    outputs[:count, 0] += np.float32(by)
    return outputs


def cell(build: Store, device: str) -> Cell:
    (found,) = [c for c in collect.cells(build) if c.device == device]
    return found


def figures(step: Step) -> tuple[Any, ...]:
    return step.place, step.accuracy, step.equal, step.top1_agreement, step.samples


def test_each_step_is_compared_with_the_step_before(tree: Tree) -> None:
    host, device = tree.wrong(20), tree.wrong(20)
    device[150:] += np.float32(0.25)  # changes the bits of a quarter of the samples and no prediction
    tree.measure("int8", "executorch", host, runtime=RUNNER)
    tree.measure("int8", "executorch", device, device=BOARD, runtime=RUNNER)
    steps = cell(tree.build, "pi4-emulated").steps
    assert list(map(figures, steps)) == [
        ("framework", 1.0, None, None, 200),
        ("local", 0.9, 0.9, 0.9, 200),
        ("pi4-emulated", 0.9, 0.75, 1.0, 200),
    ]
    assert steps[-1].max_error == pytest.approx(0.25, abs=1e-6)
    assert [step.runtime for step in steps] == ["torch 2.13.0", *["executorch_runner 1.5.1, 1 thread, xnnpack"] * 2]
    assert [step.reason for step in steps] == [None] * 3


def test_a_measurement_on_the_host_has_two_steps(tree: Tree) -> None:
    tree.measure("int8", "executorch", nudged(tree, 50, 0.5))
    assert list(map(figures, cell(tree.build, "local").steps)) == [
        ("framework", 1.0, None, None, 200),
        ("local", 1.0, 0.75, 1.0, 200),
    ]


def test_a_device_is_compared_with_the_host_measurement_of_the_same_runtime(tree: Tree) -> None:
    tree.measure("int8", "executorch", nudged(tree, 100, 0.5), runtime=BINDINGS)
    other = {**LOCAL, "name": "local-executorch-runner"}
    tree.measure("int8", "executorch", nudged(tree, 30, 0.5), device=other, runtime=RUNNER)
    tree.measure("int8", "executorch", nudged(tree, 30, 0.5), device=BOARD, runtime=RUNNER)
    host, device = cell(tree.build, "pi4-emulated").steps[1:]
    assert (host.place, host.runtime) == ("local-executorch-runner", "executorch_runner 1.5.1, 1 thread, xnnpack")
    assert (device.equal, device.max_error, device.reason) == (1.0, 0.0, None)


def test_a_host_runtime_of_the_same_version_is_preferred(tree: Tree) -> None:
    tree.measure("int8", "executorch", runtime={**RUNNER, "version": "1.4.0"})
    other = {**LOCAL, "name": "the-same"}
    tree.measure("int8", "executorch", device=other, runtime=RUNNER)
    tree.measure("int8", "executorch", device=BOARD, runtime=RUNNER)
    assert cell(tree.build, "pi4-emulated").steps[1].place == "the-same"


def test_another_runtime_on_the_host_is_reported_with_the_command_that_runs_the_same_one(tree: Tree) -> None:
    tree.measure("int8", "executorch", runtime=BINDINGS)
    tree.measure("int8", "executorch", device=BOARD, runtime=RUNNER)
    device = cell(tree.build, "pi4-emulated").steps[-1]
    assert device.equal == 1.0
    reason = device.reason or ""
    assert "the host ran executorch, the device executorch_runner" in reason
    assert reason.endswith(f"inv bench {OPTIONS} --device local-executorch-runner")


def test_a_missing_host_measurement_is_reported_with_its_command(tree: Tree) -> None:
    tree.measure("int8", "executorch", tree.wrong(20), device=BOARD, runtime=RUNNER)
    _, host, device = cell(tree.build, "pi4-emulated").steps
    assert (host.accuracy, host.equal) == (None, None)
    assert host.reason == f"not measured on the host: inv bench {OPTIONS} --device local-executorch-runner"
    assert (device.accuracy, device.equal, device.top1_agreement, device.max_error) == (0.9, None, None, None)


def test_a_device_that_ran_part_of_the_split_is_compared_over_that_part(tree: Tree) -> None:
    tree.measure("int8", "executorch", tree.wrong(20), runtime=RUNNER)
    chosen = stats.stratified(tree.truth, 50)
    outputs = tree.wrong(20)[chosen]
    noun = tree.measure("int8", "executorch", tree.wrong(20), device=BOARD, runtime=RUNNER)
    folder = tree.build.cell("toy", "torch", "int8", "executorch") / str(BOARD["name"])
    right = float((outputs.argmax(1) == tree.truth[chosen]).mean())
    digest = predictions(folder / "predictions.npz", output_0=outputs)
    own = dataclasses.replace(noun.accuracy, samples=50, value=right, predictions_sha256=digest)
    store.write(folder / "measurement.json", dataclasses.replace(noun, accuracy=own))
    assert 0.8 < right < 1.0
    assert list(map(figures, cell(tree.build, "pi4-emulated").steps)) == [
        ("framework", 1.0, None, None, 50),
        ("local", right, right, right, 50),
        ("pi4-emulated", right, 1.0, 1.0, 50),
    ]


def test_a_host_measurement_of_another_file_is_not_compared(tree: Tree) -> None:
    tree.measure("int8", "executorch", runtime=RUNNER, artifact_sha256="of last week")
    tree.measure("int8", "executorch", device=BOARD, runtime=RUNNER)
    assert "not measured on the host" in (cell(tree.build, "pi4-emulated").steps[1].reason or "")


def test_the_command_names_the_default_host_if_devices_toml_is_broken(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.toml").write_text("[")
    monkeypatch.setenv("LASTMILE_DEVICES", str(tmp_path / "devices.toml"))
    tree.measure("int8", "executorch", device=BOARD, runtime=RUNNER)
    assert (cell(tree.build, "pi4-emulated").steps[1].reason or "").endswith("--device local")


def test_nonfinite_outputs_agree_with_nothing(tree: Tree) -> None:
    outputs = tree.logits.copy()
    outputs[:50] = np.nan
    noun = tree.measure("int8", "executorch", outputs, runtime=RUNNER)
    right = dataclasses.replace(noun.accuracy, value=0.75)
    for device in (LOCAL, BOARD):
        tree.measure("int8", "executorch", outputs, device=device, runtime=RUNNER, accuracy=right)
    device_step = cell(tree.build, "pi4-emulated").steps[-1]
    assert (device_step.equal, device_step.top1_agreement) == (0.75, 0.75)


def test_a_real_measurement_is_compared_with_the_hosts(copied: Store) -> None:
    home = next(copied.root.glob("*/int8/onnx/local"))
    there = home.parent / "board"
    shutil.copytree(home, there)
    with np.load(home / "predictions.npz") as kept:
        outputs = kept["output_0"]
    assert np.unique(outputs.argmax(1)).size > 1
    outputs[::2] *= np.float32(1.5)  # keeps every prediction and changes every value that is not zero
    noun = store.read(Measurement, home / "measurement.json")
    assert noun is not None
    digest = predictions(there / "predictions.npz", output_0=outputs)
    noun = dataclasses.replace(
        noun,
        device={**noun.device, "name": "board", "kind": "ssh"},
        accuracy=dataclasses.replace(noun.accuracy, predictions_sha256=digest),
    )
    store.write(there / "measurement.json", noun)
    framework, host, device = next(c for c in collect.cells(copied) if c.device == "board").steps
    assert framework.accuracy == next(c for c in collect.cells(copied) if c.device == "board").reference_accuracy
    assert (host.place, device.place) == ("local", "board")
    assert (device.equal, device.top1_agreement, device.samples) == (0.5, 1.0, len(outputs))
    assert host.accuracy == device.accuracy
