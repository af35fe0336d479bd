"""The training step before training: the memory format, auxiliary outputs, and networks that cannot be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import sources
from pipeline.core import Checkpoint
from pipeline.errors import BadModel
from pipeline.frameworks import Settings
from pipeline.frameworks import torch as framework
from pipeline.sources import Model
from pipeline.stages import train
from pipeline.system.store import Store
from tests import own_models, plans
from tests.cli import inv
from tests.datasets.synthetic import as_folder, class_files
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")

VIEW = """
x = self.convolution(x)
return self.last(x.view(x.size(0), -1))
"""
STRIDED = """
x = self.convolution(x)
return self.last(x.as_strided((x.size(0), 144), (144, 1)))
"""
FLAT = "return self.last(self.convolution(x).flatten(1))"
AUXILIARY = "self.convolution, self.last, self.more = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), nn.Linear(144, 10)"


def trained(model: Model, home: Path, batch_size: int = 16, images: int = 40) -> dict[str, object]:
    data = {"train": synthetic.split(model.spec, images), "validation": synthetic.split(model.spec, 20, seed=1)}
    return framework.train(model, data, Settings(2, batch_size, 1e-2, 0, "cpu"), home, "key")


def format_of(model: Model) -> object:
    """The memory format in which a network is trained."""
    import torch

    from pipeline.frameworks import _torch_trial

    network = framework.network(model)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    trial = _torch_trial.attempt(
        network, images, torch.tensor([1, 2]), torch.nn.CrossEntropyLoss(), lambda: torch.autocast("cpu", enabled=False)
    )
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training
    return trial.memory_format


@pytest.mark.parametrize("forward", [VIEW, STRIDED])
def test_a_network_that_needs_contiguous_tensors_passes_through_every_function(forward: str, tmp_path: Path) -> None:
    import torch

    model = own_models.model(tmp_path / "model", own_models.network(forward))
    assert format_of(model) is torch.contiguous_format
    facts = trained(model, tmp_path)
    assert facts["epoch"] == 2
    weights, split = tmp_path / "training" / framework.WEIGHTS, synthetic.split(model.spec, 70)
    (outputs,), images = framework.predict(model, weights, split, "cpu"), split.inputs(range(70))
    assert outputs.shape == (70, 10)
    assert framework.features(model, weights, images).shape == (70, 144)
    assert framework.graph(model, weights)
    if forward == VIEW:
        framework.capture(model, weights, tmp_path / "graphs")
        np.testing.assert_allclose(framework.evaluate(tmp_path / "graphs", images)[0], outputs, atol=1e-4)


def test_other_networks_train_in_channels_last() -> None:
    import torch

    assert format_of(sources.find(str(plans.TINY))) is torch.channels_last


@pytest.mark.parametrize(
    "outputs",
    [
        "(main, more)",
        "[main, more]",
        '{"aux": more, "out": main}',
        '__import__("collections").namedtuple("Outputs", "aux logits")(more, main)',
    ],
)
def test_only_the_main_output_is_trained_where_training_has_more_of_them(
    outputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = f"""
x = self.convolution(x).flatten(1)
main, more = self.last(x), self.more(x)
return {outputs} if self.training else main
"""
    model = own_models.model(tmp_path / "model", own_models.network(forward, AUXILIARY))
    alone = own_models.model(tmp_path / "alone", own_models.network(forward.replace(outputs, "main"), AUXILIARY))
    assert trained(model, tmp_path)["losses"] == trained(alone, tmp_path / "other")["losses"]
    assert "several outputs in training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("forward", "complaint"),
    [
        ("if self.training: raise KeyError('gone')\n" + FLAT, "KeyError"),
        ("if self.training: raise SystemExit(0)\n" + FLAT, "SystemExit"),
        ("if self.training: return x\n" + FLAT, r"\(2, 1, 8, 8\) in training and \(2, 10\)"),
        ("if self.training: return None\n" + FLAT, "NoneType"),
        ("return self.last(self.convolution(x).flatten(1)).detach()", "grad"),
    ],
)
def test_a_network_that_fails_only_in_training_is_refused_before_training(
    forward: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_models.model(tmp_path / "model", own_models.network(forward))
    with pytest.raises(BadModel, match=complaint) as caught:
        trained(model, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "model" / "torch.py"))
    assert "\n" not in str(caught.value) and "epoch" not in capsys.readouterr().err


NORMALISED = """
self.convolution, self.more = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)
self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 10)
"""
POOLED = """
x = self.convolution(x)
x = self.norm(x.view(x.size(0), 4, -1).mean(2))
return (self.last(x), self.more(x)) if self.training else self.last(x)
"""


def test_a_last_batch_of_one_image_and_two_processes_train_as_one_process_does(tmp_path: Path) -> None:
    """In the larger last batch, and with batch normalisation, view and a layer without gradients."""
    spec = {'"digits"': '"imagefolder"', "(10,)": "(3,)", 'tuple("0123456789")': "()"}
    code = own_models.network(POOLED, NORMALISED.replace("10", "3"))
    folder = own_models.write(tmp_path / "model", code, spec=spec)
    classes = dict.fromkeys("abc", 11)
    files = {}
    for seed, split in enumerate(("train", "validation", "test")):
        files |= class_files(f"{split}/", classes, seed * 100)
    data = as_folder(tmp_path / "images", files)
    job = plans.job(model=folder, data=data, epochs=1, batch_size=16)
    alone = train.ensure(Store(tmp_path / "alone"), job)
    assert alone.facts["steps"] == 2, "of 16 and 17 images"
    options = ("--epochs", "1", "--batch-size", "16", "--accelerator", "cpu", "--devices", "2")
    done = inv(tmp_path / "two", "train", "--model", folder, "--data", data, *options)
    assert done.code == 0, done.err
    found = train.ready(Store(tmp_path / "two"), job)
    assert isinstance(found, Checkpoint) and found.key == alone.key
    assert found.facts["losses"] == pytest.approx(alone.facts["losses"], rel=1e-5)


def test_a_batch_size_of_one_is_refused_where_batch_normalisation_needs_two(tmp_path: Path) -> None:
    model = own_models.model(tmp_path / "model", own_models.network(POOLED, NORMALISED))
    with pytest.raises(BadModel, match=r"batch of one sample.*more than 1 value per channel"):
        trained(model, tmp_path, batch_size=1)
