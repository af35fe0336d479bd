"""The convert stage: a checkpoint of the same network in the other framework."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry
from pipeline.core import Checkpoint
from pipeline.errors import BadModel, BadOption
from pipeline.stages import train
from pipeline.stages.convert import convert
from pipeline.stages.plan import Job
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import inv
from tests.plans import changed, plan

pytestmark = pytest.mark.usefixtures("imported")


def convert_to(build: Store, job: Job, framework: str) -> Checkpoint:
    made = plan(frameworks=job.framework.name)
    return convert(build, made, registry.bind("frameworks", framework))


def outputs(build: Store, framework: str) -> np.ndarray:
    with np.load(build.checkpoint("tiny", framework) / "predictions.npz") as kept:
        outputs: np.ndarray = kept["output_0"]
        return outputs


def test_conversion_to_keras_and_back_preserves_outputs_and_weights(copied: Store, job: Job) -> None:
    converted = convert_to(copied, job, "keras")
    assert (converted.framework, converted.origin, converted.samples) == ("keras", "converted from torch", 504)
    np.testing.assert_allclose(outputs(copied, "keras"), outputs(copied, "torch"), atol=1e-4)
    before = (copied.checkpoint("tiny", "torch") / "model.safetensors").read_bytes()
    assert convert_to(copied, job, "keras") == converted, "an up-to-date checkpoint is not converted again"
    assert train.ready(copied, changed(job, framework="keras")) == converted
    back = convert_to(copied, changed(job, framework="keras"), "torch")
    assert back.origin == "converted from keras"
    from safetensors.numpy import load, load_file

    after, old = load_file(copied.checkpoint("tiny", "torch") / back.weights), load(before)
    assert all((after[name] == old[name]).all() for name in old if not name.endswith("num_batches_tracked"))
    kept = list(copied.home("tiny", "torch").glob("checkpoint-*"))
    assert len(kept) == 1 and store.read(Checkpoint, kept[0] / "checkpoint.json") is not None


def test_converting_to_the_same_framework_is_refused(copied: Store, job: Job) -> None:
    with pytest.raises(BadOption, match="both torch: name two of keras, torch"):
        convert_to(copied, job, "torch")


def test_a_model_that_lacks_the_other_framework_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lonely"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("keras.py", "__pycache__"))
    text = (folder / "__init__.py").read_text().replace('name="tiny"', 'name="lonely"')
    (folder / "__init__.py").write_text(text)
    error = inv(tmp_path / "build", "convert", "--model", folder, "--from", "torch", "--to", "keras").only
    assert error.startswith(f"model lonely has no keras.py in {folder}: ")
    for command in ("train", "export", "bench"):
        assert inv(tmp_path / "build", command, "--model", folder, "--framework", "keras").only == error
    assert not (tmp_path / "build").exists()


def test_a_model_whose_layers_differ_between_frameworks_is_refused_and_nothing_is_written(
    tiny: Path, tmp_path: Path
) -> None:
    folder, build = tmp_path / "uneven", Store(tmp_path / "build")
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (("__init__.py", '"tiny"', '"uneven"'), ("keras.py", '"features_3"', '"another"')):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    with pytest.raises(BadModel, match=r"uneven.*another\.weight, features_3\.weight"):
        convert(build, plan(model=folder, epochs=1), registry.bind("frameworks", "keras"))
    assert not list(build.home("uneven", "keras").rglob("*.*"))
