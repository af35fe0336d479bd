"""The push stage: the evaluation split is written once and sent with every artifact that the device can run."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import devices, registry
from pipeline.core import Checkpoint, Device
from pipeline.errors import Broken, Unsupported
from pipeline.stages import push, train
from pipeline.stages.plan import Job
from pipeline.system import store
from pipeline.system.store import Store
from tests.plans import TINY, cells, plan


def checkpoint_of(build: Store, job: Job) -> Checkpoint:
    found = train.ready(build, job)
    assert found is not None
    return found


def test_the_evaluation_split_has_every_test_image_with_its_label(matrix: Store, job: Job) -> None:
    checkpoint = checkpoint_of(matrix, job)
    images = push.evaluation(matrix, job, checkpoint)
    test = train.split_of(checkpoint, job)
    kept = np.load(images)
    assert (kept.dtype, kept.shape) == (np.uint8, (504, 8, 8, 1))
    assert (kept == test.inputs(range(504))).all()
    assert (push.labels(images) == test.labels).all()
    assert checkpoint.dataset_sha256[:16] in images.parent.name


def test_an_intact_evaluation_split_is_reused_and_an_altered_one_is_rebuilt(
    copied: Store, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoint_of(copied, job)
    images = push.evaluation(copied, job, checkpoint)
    whole = store.sha256(images.parent)
    made = images.stat().st_mtime_ns
    assert push.evaluation(copied, job, checkpoint) == images
    assert (images.stat().st_mtime_ns, capsys.readouterr().err) == (made, "")
    with images.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert push.evaluation(copied, job, checkpoint) == images
    assert capsys.readouterr().err == "preparing 504 evaluation samples of digits\n"
    assert store.sha256(images.parent) == whole


def test_test_images_that_changed_since_the_training_are_refused(copied: Store, job: Job) -> None:
    import dataclasses

    checkpoint = dataclasses.replace(checkpoint_of(copied, job), dataset_sha256="0" * 64)
    with pytest.raises(Broken, match=rf"changed since tiny was trained; inv train --model {TINY} "):
        push.evaluation(copied, job, checkpoint)
    assert not [path for path in (copied.root / "data").iterdir() if "0000" in path.name]


def test_push_to_this_machine_sends_nothing_and_counts_what_it_can_run(matrix: Store, job: Job) -> None:
    made = cells(matrix, devices="local")
    runnable = push.runnable(made.plan, job, made.outcomes, devices.find("local"))
    names = {target for target in registry.names("targets") if registry.load("targets", target).RUNTIME}
    assert {one.artifact.target for one in runnable} == names >= {"tflite", "executorch", "onnx"}
    assert push.push(matrix, made.plan) == [push.Pushed("local", len(runnable) + 1, 0)]


def test_a_device_gets_only_the_targets_that_devices_toml_lists(matrix: Store, job: Job) -> None:
    made = cells(matrix)
    desk = devices.bound(Device("desk", "local", options={"targets": ["onnx"]}))
    assert {one.artifact.target for one in push.runnable(made.plan, job, made.outcomes, desk)} == {"onnx"}


def test_a_named_target_that_a_device_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(Unsupported, match=r"^coreml cannot be measured on local: not checked by Lastmile"):
        plan(["onnx", "coreml"], devices="local")
    assert plan(["onnx", "tflite"], devices="local").devices[0].name == "local"
