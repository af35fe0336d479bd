"""A user's own model: a folder anywhere on disk passes through all stages, with its own data or weights."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from shlex import quote

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Checkpoint
from pipeline.errors import BadModel, Broken
from pipeline.results import predictions
from pipeline.sources import find
from pipeline.stages.train import ensure, make, ready, renewal, split_of
from pipeline.system.store import Store, read, write
from tests import plans
from tests.cli import inv, unfinished
from tests.datasets.synthetic import as_folder, class_files, divided_files

INIT = '''"""Cats from dogs, for my doorbell."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="doorbell",
    task="image_classification",
    inputs=(Tensor("photo", (12, 12, 3), value_range=(0.0, 255.0)),),
    outputs=(Tensor("scores", (2,)),),
    labels=("cat", "dog"),
    preprocessing=Preprocessing(color="RGB", resize=14, crop=12, mean=(127.5,) * 3, std=(63.75,) * 3),
    dataset="imagefolder",
    training=Training(epochs=1, batch_size=16, lr=1e-2),
    options={"width": 8},
)
'''

TORCH = """
from torch import nn

from . import blocks


def build(spec):
    width = int(spec.options["width"])
    return nn.Sequential(blocks.convolution(3, width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))
"""

BLOCKS = """
from torch import nn


def convolution(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
"""


@pytest.fixture
def doorbell(tmp_path: Path) -> Path:
    """The user's model folder, outside of the repository, with an additional module."""
    folder = tmp_path / "home" / "my models" / "doorbell"
    folder.mkdir(parents=True)
    for name, text in {"__init__.py": INIT, "torch.py": TORCH, "blocks.py": BLOCKS}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The user's images, in another size than the model's input."""
    return as_folder(tmp_path / "images", divided_files({"cat": 12, "dog": 12}, test=8))


def test_a_model_folder_and_images_are_exported_and_measured_for_every_target(
    tmp_path: Path, doorbell: Path, data: Path
) -> None:
    build = tmp_path / "build"
    quick = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0")
    done = inv(build, "bench", "--model", doorbell, "--data", data, "--recipe", "int8", *quick)
    assert done.code == 0, done.err
    results = inv(build, "results", "--json").json
    reason = next(cell["reason"] for cell in results if (cell["recipe"], cell["target"]) == ("fp16", "onnx"))
    assert f"inv export --model {quote(str(doorbell))} --target onnx --recipe fp16" in reason
    cells = [cell for cell in results if cell["recipe"] == "int8"]
    status = {**dict.fromkeys(registry.names("targets"), "ok"), "savedmodel": "unsupported"}
    assert {cell["target"]: cell["status"] for cell in cells} == status
    for cell in cells:
        assert (cell["model"], cell["framework"]) == ("doorbell", "torch")
        assert (cell["device"] is None) == (cell["target"] in ("coreml", "savedmodel"))
    artifact = json.loads((build / "doorbell.torch/int8/tflite/artifact.json").read_text())
    assert [port["name"] for port in artifact["inputs"] + artifact["outputs"]] == ["photo", "scores"]
    assert artifact["spec"]["labels"] == ["cat", "dog"]
    assert not unfinished(build)
    # --data is remembered: the next command does not need it, and everything is up to date
    again = inv(build, "export", "--model", os.path.relpath(doorbell), "--recipe", "int8")
    assert again.code == 0 and again.err == ""
    assert "doorbell" in Path(inv(build, "report").lines[0]).read_text()


def test_a_users_weights_replace_training(
    tmp_path: Path, doorbell: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    model, build = find(str(doorbell)), Store(tmp_path / "build")
    weights = tmp_path / "mine.safetensors"
    state = dict(model.code("torch").build(model.spec).state_dict())
    save_file(state, weights)
    checkpoint = ensure(build, plans.job(model=doorbell, data=data, weights=weights))
    assert checkpoint.origin == str(weights) and checkpoint.samples == 16
    imported = load_file(build.checkpoint("doorbell", "torch") / checkpoint.weights)
    assert imported.keys() == state.keys() and all(bool((imported[name] == state[name]).all()) for name in state)
    assert ready(build, plans.job(model=doorbell)) == checkpoint
    last = capfd.readouterr().err.splitlines()[-1]
    assert "top-1 on 16 test" in last and "train" not in last, "the training data of the weights is unknown"


def test_nan_outputs_count_as_wrong(
    tmp_path: Path, doorbell: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Finite weights overflow to NaN, which argmax would treat as the first class."""
    from safetensors.torch import save_file

    model = find(str(doorbell))
    state = dict(model.code("torch").build(model.spec).state_dict())
    state["0.1.weight"][:] = 1e6  # BatchNorm: the features are far above 1, and any of them overflows
    state["3.weight"][:] = 3e38
    save_file(state, tmp_path / "huge.safetensors")
    job = plans.job(model=doorbell, data=data, weights=tmp_path / "huge.safetensors")
    assert ensure(Store(tmp_path / "build"), job).accuracy == 0.0
    assert "infinite outputs for 16 of 16 test samples" in capfd.readouterr().err


def test_outputs_are_in_the_order_of_the_labels_in_spec(tmp_path: Path, doorbell: Path, data: Path) -> None:
    """The same network with its outputs in another order has the same accuracy, if SPEC.labels has that order."""
    from safetensors.torch import load_file, save_file

    build = Store(tmp_path / "build")
    sorted_ = ensure(build, plans.job(model=doorbell, data=data))
    state = load_file(build.checkpoint("doorbell", "torch") / sorted_.weights)
    weights = tmp_path / "reversed.safetensors"
    save_file({name: value.flip(0) if name.startswith("3.") else value for name, value in state.items()}, weights)
    other = doorbell.with_name("reversed")
    shutil.copytree(doorbell, other)
    (other / "__init__.py").write_text(INIT.replace("doorbell", "reversed").replace('"cat", "dog"', '"dog", "cat"'))
    job = plans.job(model=other, data=data, weights=weights)
    turned = ensure(build, job)
    assert (sorted_.spec.labels, turned.spec.labels) == (("cat", "dog"), ("dog", "cat"))
    assert turned.accuracy == sorted_.accuracy
    one, two = (
        predictions.read(build.checkpoint(name, "torch"), checkpoint.predictions, checkpoint.predictions_sha256)
        for name, checkpoint in (("doorbell", sorted_), ("reversed", turned))
    )
    assert np.array_equal(one[1], 1 - two[1]) and np.allclose(one[0][0], two[0][0][:, ::-1], atol=1e-5)
    assert np.array_equal(split_of(turned, job).labels, two[1])
    assert turned.dataset_sha256 != sorted_.dataset_sha256
    old = dataclasses.replace(turned, spec=dataclasses.replace(turned.spec, labels=("cat", "dog")))
    write(build.checkpoint("reversed", "torch") / "checkpoint.json", old)
    assert ready(build, job) is None, "a checkpoint with another order of labels is made again"


def test_test_images_that_are_also_training_images_are_counted(
    tmp_path: Path, doorbell: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    as_folder(data, {f"test/dog/copy{i}.png": (data / f"train/cat/00{i}.png").read_bytes() for i in range(3)})
    ensure(Store(tmp_path / "build"), plans.job(model=doorbell, data=data))
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "test samples also" in line)
    assert line.startswith("3 of 19 test samples ")


def test_inv_train_retrains_when_the_training_images_have_changed(tmp_path: Path, doorbell: Path, data: Path) -> None:
    build = Store(tmp_path / "build")
    old = ensure(build, plans.job(model=doorbell, data=data))
    assert renewal(plans.job(model=doorbell), old) is None
    as_folder(data, class_files("train/", {"cat": 3}, seed=500))
    assert ready(build, plans.job(model=doorbell)) == old, "other commands use the existing checkpoint"
    done = inv(build.root, "train", "--model", doorbell, "--accelerator", "cpu")
    first = done.err.splitlines()[0]
    assert done.code == 0 and str(data) in first and "changed since doorbell was trained" in first
    new = ready(build, plans.job(model=doorbell))
    assert new is not None and new.facts["train_sha256"] != old.facts["train_sha256"]
    assert new.dataset_sha256 == old.dataset_sha256
    again = inv(build.root, "train", "--model", doorbell, "--data", data, "--accelerator", "cpu")
    assert (again.code, again.err, again.out) == (0, "", done.out)
    data.rename(tmp_path / "elsewhere")
    assert renewal(plans.job(model=doorbell), new) is None, "missing data does not count as changed"


@pytest.mark.parametrize("imported", [False, True])
def test_changed_test_images_are_evaluated_with_the_existing_weights(
    imported: bool, tmp_path: Path, doorbell: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build, job = Store(tmp_path / "build"), plans.job(model=doorbell, data=data)
    old = ensure(build, job)
    if imported:
        weights = tmp_path / "mine.safetensors"
        weights.write_bytes((build.checkpoint("doorbell", "torch") / old.weights).read_bytes())
        old = ensure(build, plans.changed(job, weights=weights))
        as_folder(data, class_files("train/", {"cat": 3}, seed=500))
        assert renewal(plans.job(model=doorbell), old) is not None  # calibration samples are training images
    as_folder(data, class_files("test/", {"cat": 8, "dog": 8}, seed=600))
    with pytest.raises(Broken, match=f"inv train --model {quote(str(doorbell))}"):
        split_of(old, job)
    capfd.readouterr()
    how = renewal(plans.job(model=doorbell), old)
    (line,) = capfd.readouterr().err.splitlines()
    assert str(data) in line and "changed since doorbell was evaluated" in line
    assert how is not None
    new = make(build, job, how)
    assert (new.weights_sha256, new.origin, new.key) == (old.weights_sha256, old.origin, old.key)
    assert {name for name in new.facts if new.facts[name] != old.facts[name]} == (
        {"train_sha256"} if imported else set()
    )
    assert split_of(new, job).sha256 == new.dataset_sha256 != old.dataset_sha256
    assert renewal(plans.job(model=doorbell), new) is None and not unfinished(build.root)


def test_a_model_with_options_has_its_own_folder_in_build(tmp_path: Path, doorbell: Path, data: Path) -> None:
    build = Store(tmp_path / "build")
    checkpoint = ensure(build, plans.job(model=f"{doorbell}:width=4", data=data))
    assert checkpoint.spec.name == "doorbell-width=4"
    assert read(Checkpoint, build.checkpoint("doorbell-width=4", "torch") / "checkpoint.json") == checkpoint
    assert ready(build, plans.job(model=doorbell)) is None


def test_a_checkpoint_is_outdated_when_the_code_changes(tmp_path: Path, doorbell: Path, data: Path) -> None:
    build = Store(tmp_path / "build")
    job = plans.job(model=doorbell, data=data)
    assert ensure(build, job) == ready(build, job)
    with (doorbell / "torch.py").open("a") as file:
        file.write("# another network\n")
    assert ready(build, job) is None


def test_helper_modules_of_the_folder_belong_to_its_code(tmp_path: Path, doorbell: Path) -> None:
    before = find(str(doorbell)).source("torch")
    with (doorbell / "blocks.py").open("a") as file:
        file.write("# another block\n")
    assert find(str(doorbell)).source("torch") != before


def test_modules_in_sub_folders_belong_to_its_code_and_hidden_ones_do_not(tmp_path: Path, doorbell: Path) -> None:
    layers = doorbell / "layers" / "deep"
    layers.mkdir(parents=True)
    sources = [find(str(doorbell)).source("torch")]
    for text in ("WIDTH = 8\n", "WIDTH = 24\n"):
        (layers / "blocks.py").write_text(text)
        sources.append(find(str(doorbell)).source("torch"))
    (layers / "blocks.py").rename(layers / "parts.py")
    sources.append(find(str(doorbell)).source("torch"))
    assert len(set(sources)) == 4
    for folder in (doorbell / ".venv", layers / "__pycache__"):
        folder.mkdir()
        (folder / "module.py").touch()
    (layers / "notes.txt").touch()
    assert find(str(doorbell)).source("torch") == sources[-1]


def test_changed_code_is_imported_again_in_the_same_process(tmp_path: Path, doorbell: Path) -> None:
    (doorbell / "layers").mkdir()
    found = []
    for width in (8, 24):
        (doorbell / "layers" / "sizes.py").write_text(f"WIDTH = {width}\n")
        (doorbell / "torch.py").write_text("from .layers.sizes import WIDTH\nbuild = lambda spec: WIDTH\n")
        found.append(find(str(doorbell)).code("torch").build(None))
    assert found == [8, 24]


@pytest.mark.parametrize("line", ["from blocks import convolution", "import blocks", "from layers.parts import x"])
def test_an_absolute_import_of_a_helper_module_says_that_a_dot_is_missing(
    line: str, tmp_path: Path, doorbell: Path
) -> None:
    (doorbell / "layers").mkdir()
    (doorbell / "layers" / "parts.py").touch()
    (doorbell / "torch.py").write_text(f"{line}\n")
    with pytest.raises(BadModel, match=r"from \.(blocks|layers) import"):
        find(str(doorbell)).code("torch")


def test_a_missing_package_is_not_taken_for_a_helper_module(tmp_path: Path, doorbell: Path) -> None:
    (doorbell / "torch.py").write_text("import no_such_package\n")
    with pytest.raises(BadModel, match=r"no_such_package'$"):
        find(str(doorbell)).code("torch")


def test_two_model_folders_with_the_same_module_names_do_not_conflict(tmp_path: Path, doorbell: Path) -> None:
    other = doorbell.parent / "other"
    other.mkdir()
    (other / "__init__.py").write_text(INIT.replace("doorbell", "bell"))
    assert [find(str(path)).spec.name for path in (doorbell, other)] == ["doorbell", "bell"]
    with pytest.raises(BadModel, match=r"bell .*torch\.py"):
        find(str(other)).code("torch")
