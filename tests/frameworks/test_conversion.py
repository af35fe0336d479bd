"""A model written in two frameworks is the same network in both, and takes the same weights."""

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
NAMES = [*sources.names(), str(TINY)]


@pytest.fixture(params=NAMES, ids=lambda name: Path(name).name)
def model(request: pytest.FixtureRequest) -> Model:
    return find(request.param)


@pytest.fixture
def weights(model: Model, tmp_path: Path) -> Path:
    """A PyTorch checkpoint without default values: batch normalisation has statistics."""
    import torch

    from pipeline.frameworks import _torch_weights

    torch.manual_seed(1)
    state = in_torch.network(model).get_submodule("net").state_dict()
    for name, value in state.items():
        if name.endswith(("running_var", "running_mean")) or (value.dim() == 1 and value.is_floating_point()):
            state[name] = torch.rand(value.shape) * 0.5 + (0.5 if name.endswith(("var", "weight")) else -0.25)
    _torch_weights.save(state, tmp_path / in_torch.WEIGHTS)
    return tmp_path / in_torch.WEIGHTS


def test_every_model_is_written_in_both_frameworks() -> None:
    assert [find(name).frameworks for name in NAMES] == [["keras", "torch"]] * len(NAMES)


def test_both_have_the_same_number_of_parameters(model: Model) -> None:
    from pipeline.frameworks import _keras

    state = in_torch.network(model).get_submodule("net").state_dict()
    net = _keras.network(model)
    assert net.count_params() == sum(v.numel() for name, v in state.items() if not name.endswith(in_torch.COUNTER))
    trainable = sum(p.numel() for p in in_torch.network(model).get_submodule("net").parameters())
    assert sum(int(np.prod(v.shape)) for v in net.trainable_variables) == trainable


def test_converted_weights_give_the_same_outputs(model: Model, weights: Path, tmp_path: Path) -> None:
    converted = tmp_path / in_keras.WEIGHTS
    in_keras.pack(model, in_torch.unpack(model, weights), converted)
    split = synthetic.split(model.spec, 8)
    expected, outputs = (
        framework.predict(model, path, split, "cpu") for framework, path in ((in_torch, weights), (in_keras, converted))
    )
    assert stats.parity("PyTorch", expected, outputs, [None] * len(outputs), classes=False).snr_db >= 60


def test_converting_back_and_forth_changes_no_bit(model: Model, weights: Path, tmp_path: Path) -> None:
    converted, back = tmp_path / in_keras.WEIGHTS, tmp_path / "back.safetensors"
    in_keras.pack(model, in_torch.unpack(model, weights), converted)
    in_torch.pack(model, in_keras.unpack(model, converted), back)
    first, again = in_torch.unpack(model, weights), in_torch.unpack(model, back)
    assert first.keys() == again.keys()
    assert all((first[name] == again[name]).all() for name in first)
