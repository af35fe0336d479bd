"""The constants of a static int8 graph are exactly the integers that runtimes store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.system.store import Store

pytestmark = pytest.mark.usefixtures("imported")


def graph(matrix: Store, name: str) -> Any:
    from pipeline.frameworks import _graphs

    return _graphs.load(matrix.graphs("tiny", "torch", "int8") / name).module()


def layers(module: Any) -> list[tuple[Any, Any, Any]]:
    """(input, weight, bias) of every convolution and linear layer."""
    import torch

    ops = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    return [node.args[:3] for node in module.graph.nodes if node.target in ops]


def tensor(module: Any, node: Any) -> Any:
    from pipeline.frameworks import _int8_constants

    return _int8_constants._attribute(module, node).detach().double()


@pytest.mark.parametrize("name", ["quantized.pt2", "unfolded.pt2"])
def test_every_bias_is_an_integer_multiple_of_the_accumulators_scale(name: str, matrix: Store) -> None:
    module = graph(matrix, name)
    largest = []
    for image, weight, bias in layers(module):
        stored = tensor(module, bias) / (image.args[1] * tensor(module, weight.args[1]))
        assert (stored - stored.round()).abs().max() < 0.01
        largest.append(float(stored.abs().max()))
    assert len(largest) >= 3
    assert max(largest) > 10


def test_the_float_weights_for_litert_torch_equal_the_int8_weights_of_the_other_targets(matrix: Store) -> None:
    folded, unfolded = graph(matrix, "quantized.pt2"), graph(matrix, "unfolded.pt2")
    for (_, ours, _), (_, theirs, _) in zip(layers(folded), layers(unfolded), strict=True):
        scale = tensor(folded, ours.args[1])
        shaped = scale.reshape(-1, *[1] * (tensor(folded, ours.args[0]).dim() - 1))
        stored = tensor(unfolded, theirs.args[0].args[0]) / shaped
        assert (stored - tensor(folded, ours.args[0])).abs().max() < 0.001


@pytest.mark.parametrize(("mean", "std"), [(127.5, 63.75), (127.5, 127.5), (128.0, 64.0), (0.0, 255.0)])
def test_normalised_pixels_stay_distinct_when_quantized(mean: float, std: float, tmp_path: Path) -> None:
    """With a mean of 127.5, a scale of exactly 1/std would put every pixel halfway between two int8 values."""
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from pipeline.core import Preprocessing
    from pipeline.frameworks import _int8_constants, _normalization

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = _normalization.normalization_layer(Preprocessing("L", 1, 1, (mean,), (std,)))
            self.last = torch.nn.Conv2d(1, 1, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.last(self.normalize(image))
            return output

    pixels = torch.arange(256.0).reshape(1, 1, 1, 256)
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(Net().eval(), (pixels,)).module(), quantizer)
    prepared(pixels)
    _int8_constants.pin_input_ranges(prepared, (0.0, 255.0))
    converted = convert_pt2e(prepared)
    (normalised, _) = [n for n in converted.graph.nodes if n.target is torch.ops.aten.conv2d.default]
    (quantize,) = normalised.users
    scale, zero = quantize.args[1:3]
    stored = torch.round((pixels - mean) / std / scale) + zero
    assert len(stored.unique()) >= 255
    assert stored.min() >= -128
    assert stored.max() <= 127
