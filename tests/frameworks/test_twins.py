"""Twins: a model written in two frameworks is one network, with one set of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import sources, stats
from pipeline.frameworks import keras as in_keras
from pipeline.frameworks import torch as in_torch
from pipeline.sources import Model
from tests.frameworks import synthetic
from tests.test_models import find

pytestmark = pytest.mark.usefixtures("imported")
TINY = Path(__file__).parents[1] / "models" / "tiny"
TWINS = [*sources.names(), str(TINY)]


@pytest.fixture(params=TWINS, ids=lambda name: Path(name).name)
def model(request: pytest.FixtureRequest) -> Model:
    return find(request.param)


@pytest.fixture
def weights(model: Model, tmp_path: Path) -> Path:
    """A PyTorch checkpoint in which no tensor is as it was made: batch normalisation has statistics."""
    import torch

    from pipeline.frameworks import _torch_weights

    torch.manual_seed(1)
    state = in_torch.network(model).get_submodule("net").state_dict()
    for name, value in state.items():
        if name.endswith(("running_var", "running_mean")) or (value.dim() == 1 and value.is_floating_point()):
            state[name] = torch.rand(value.shape) * 0.5 + (0.5 if name.endswith(("var", "weight")) else -0.25)
    _torch_weights.save(state, tmp_path / in_torch.WEIGHTS)
    return tmp_path / in_torch.WEIGHTS


def test_every_model_is_written_in_both() -> None:
    assert [find(name).frameworks for name in TWINS] == [["keras", "torch"]] * len(TWINS)


def test_they_have_as_many_parameters(model: Model) -> None:
    from pipeline.frameworks import _keras

    theirs = in_torch.network(model).get_submodule("net").state_dict()
    ours = _keras.network(model)
    assert ours.count_params() == sum(v.numel() for name, v in theirs.items() if not name.endswith(in_torch.COUNTER))
    trained = sum(p.numel() for p in in_torch.network(model).get_submodule("net").parameters())
    assert sum(int(np.prod(v.shape)) for v in ours.trainable_variables) == trained


def test_the_weights_of_one_give_the_same_outputs_in_the_other(model: Model, weights: Path, tmp_path: Path) -> None:
    carried = tmp_path / in_keras.WEIGHTS
    in_keras.pack(model, in_torch.unpack(model, weights), carried)
    pictures = synthetic.split(model.spec, 8)
    expected, answers = (
        framework.predict(model, path, pictures, "cpu")
        for framework, path in ((in_torch, weights), (in_keras, carried))
    )
    assert stats.parity("the twin", [expected], [answers], [None]).snr_db >= 60


def test_there_and_back_nothing_has_changed(model: Model, weights: Path, tmp_path: Path) -> None:
    carried, back = tmp_path / in_keras.WEIGHTS, tmp_path / "back.safetensors"
    in_keras.pack(model, in_torch.unpack(model, weights), carried)
    in_torch.pack(model, in_keras.unpack(model, carried), back)
    first, again = in_torch.unpack(model, weights), in_torch.unpack(model, back)
    assert first.keys() == again.keys()
    assert all((first[name] == again[name]).all() for name in first)
