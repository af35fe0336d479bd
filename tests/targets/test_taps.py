"""The layers of a program, their values, and where NaN begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.targets import _taps


class Scaled(torch.nn.Module):
    """A layer whose values are NaN where its input is negative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x)


def program(middle: torch.nn.Module) -> Any:
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    net.add_module("stem", torch.nn.Conv2d(1, 4, 3))
    net.add_module("norm", torch.nn.BatchNorm2d(4))
    net.add_module("act", torch.nn.ReLU())
    net.add_module("body", torch.nn.Conv2d(4, 4, 3))
    net.add_module("middle", middle)
    net.add_module("flat", torch.nn.Flatten())
    net.add_module("head", torch.nn.Linear(64, 3))
    image = (torch.rand(1, 1, 8, 8),)
    captured = torch.export.export(net.eval(), image)
    return torch.export.export(captured.module(), image)  # as a stored graph is opened


IMAGES = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 1), dtype=np.uint8)


def values(middle: torch.nn.Module) -> dict[str, Any]:
    made = program(middle)
    layers = _taps.taps(made)
    more, places = _taps.tapped(made, layers)
    outputs = _taps.run(more, IMAGES)
    return {layer.name: outputs[place] for layer, place in zip(layers, places, strict=True) if place is not None}


def test_a_layer_has_the_activation_and_normalisation_that_are_fused_into_it() -> None:
    layers = _taps.taps(program(torch.nn.ReLU6()))
    assert [(one.name, one.operators[0], len(one.operators)) for one in layers] == [
        ("stem", "conv2d", 3),
        ("body", "conv2d", 2),
        ("head", "linear", 1),
    ]


def test_nan_begins_in_the_layer_that_makes_it() -> None:
    found = values(Scaled())
    assert [name for name, array in found.items() if not np.isfinite(array).all()] == ["middle", "head"]


def test_every_layer_has_the_values_of_the_network() -> None:
    found = values(torch.nn.Hardswish())
    assert {name: array.shape for name, array in found.items()} == {
        "stem": (2, 4, 6, 6), "body": (2, 4, 4, 4), "middle": (2, 4, 4, 4), "head": (2, 3),
    }  # fmt: skip
    np.testing.assert_allclose(
        found["middle"], torch.nn.Hardswish()(torch.from_numpy(found["body"])).numpy(), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("first", "samples"),
    [
        (torch.nn.Embedding(8, 3), np.arange(10, dtype=np.int32).reshape(2, 5) % 8),
        (torch.nn.Linear(4, 3), np.ones((2, 5, 4), np.float32)),
    ],
)
def test_samples_that_are_no_images_keep_their_shape_and_dtype(first: torch.nn.Module, samples: Any) -> None:
    net = torch.nn.Sequential(first, torch.nn.Linear(3, 2)).eval()
    captured = torch.export.export(net, (torch.from_numpy(samples[:1]),))
    made = torch.export.export(captured.module(), captured.example_inputs[0])
    outputs = _taps.run(_taps.tapped(made, _taps.taps(made))[0], samples)
    with torch.no_grad():
        np.testing.assert_allclose(outputs[0], net(torch.from_numpy(samples)).numpy(), rtol=1e-5, atol=1e-6)
