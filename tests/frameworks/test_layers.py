"""Layers as models write them: which of them the quantizers quantize, and why the others stay in float.

One network has all of them as branches, so that it is captured and quantized once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry, stats
from pipeline.core import PIXELS, Coverage, ModelSpec, Preprocessing, Tensor, Training
from pipeline.stages._parity import predict
from pipeline.targets import Source

pytestmark = [
    pytest.mark.usefixtures("imported"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # importing ExecuTorch
]

INT8 = registry.load("recipes", "int8").RECIPE
SPEC = ModelSpec(
    name="layers",
    task="image_classification",
    inputs=(Tensor("image", (16, 16, 3)),),
    outputs=(Tensor("logits", (5,)),),
    labels=(),
    preprocessing=Preprocessing("RGB", 16, 16, (127.5,) * 3, (63.0,) * 3),
    dataset="imagefolder",
    training=Training(1, 8, 1e-3),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)

QUANTIZED = {
    "conv2d": "nn.Conv2d(8, 8, 3, padding=1)",
    "conv2d same": "nn.Conv2d(8, 8, 3, padding='same')",
    "conv2d valid": "nn.Conv2d(8, 8, 3, padding='valid', stride=2)",
    "conv2d same, even kernel": "nn.Conv2d(8, 8, 4, padding='same')",
    "conv2d same, even and odd": "nn.Conv2d(8, 8, (2, 3), padding='same')",
    "conv2d same, dilated": "nn.Conv2d(8, 8, (3, 2), padding='same', dilation=(2, 3))",
    "conv2d same, grouped": "nn.Conv2d(8, 8, 3, padding='same', groups=2)",
    "conv2d same, depthwise": "nn.Conv2d(8, 8, 3, padding='same', groups=8, bias=False)",
    "conv2d same, reflected edge": "nn.Conv2d(8, 8, 3, padding='same', padding_mode='reflect')",
    "conv2d after an uneven padding": "nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2))",
    "conv2d with weight_norm": "parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))",
    "conv2d with spectral_norm": "parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))",
    "conv2d used twice": "Twice(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.BatchNorm2d(8))",
    "conv2d and norm used three times": "Loop(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()))",
    "one weight under two names": "tied(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1))",
    "functional conv2d": "Own((8, 8, 3, 3), lambda x, w, b: F.conv2d(x, w * 2, b, padding='same'))",
    "conv1d": "Flat(nn.Conv1d(8, 8, 3, padding=1))",
    "conv1d same": "Flat(nn.Conv1d(8, 8, 4, padding='same'))",
    "conv_transpose2d": "nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)",
    "linear without bias": "Own((8, 8), lambda x, w, b: F.linear(x.mean((2, 3)), w))",
    "linear on three axes": "Own((8, 8), lambda x, w, b: F.linear(x.flatten(2).transpose(1, 2), w, b).transpose(1, 2))",
    "linear on four axes": "Own((8, 8), lambda x, w, b: F.linear(x.permute(0, 2, 3, 1), w, b).permute(0, 3, 1, 2))",
    "matmul": "Own((8, 8), lambda x, w, b: x.mean((2, 3)) @ w + b)",
    "matmul with a transposed weight": "Own((8, 8), lambda x, w, b: x.mean((2, 3)) @ w.t())",
    "mm": "Own((8, 8), lambda x, w, b: torch.mm(x.mean((2, 3)), w))",
    "addmm": "Own((8, 8), lambda x, w, b: torch.addmm(b, x.mean((2, 3)), w))",
    "einsum": "Own((8, 8), lambda x, w, b: torch.einsum('bi,oi->bo', x.mean((2, 3)), w))",
    "einsum, transposed": "Own((8, 8), lambda x, w, b: torch.einsum('bi, io -> bo', x.mean((2, 3)), w))",
    "a scalar that is a whole number": "Own((8, 8), lambda x, w, b: 1 + 2 * x)",
    "a concatenation": "Own((8, 8), lambda x, w, b: torch.cat([F.max_pool2d(x, 2), x[..., :8, :8]], 1)[:, :8])",
}
"""Layers that are quantized, as code. Each gets 8 channels of 16×16."""

FLOAT = {
    "conv3d": ("Volume(nn.Conv3d(8, 8, (1, 3, 3), padding='same'))", "aten.conv3d", "no rule"),
    "conv_transpose1d": ("Flat(nn.ConvTranspose1d(8, 8, 2, 2))", "aten.conv_transpose1d", "no rule"),
    "bmm": ("Own((8, 8), lambda x, w, b: torch.bmm(x.flatten(2), x.flatten(2).mT))", "aten.bmm", "both factors"),
    "bmm with a constant": (
        "Own((8, 8), lambda x, w, b: torch.bmm(x.flatten(2).mT, w.expand(x.shape[0], 8, 8)).mT)", "aten.bmm", "no rule"
    ),
    "einsum over other axes": (
        "Own((8, 8), lambda x, w, b: torch.einsum('bchw,oc->bohw', x, w))", "aten.einsum", "no rule"
    ),
    "bilinear": (
        "Own((8, 8, 8), lambda x, w, b: F.bilinear(x.mean((2, 3)), x.amax((2, 3)), w))", "aten.bilinear", "no rule"
    ),
    "a kernel computed from the input": (
        "Own((8, 8, 3, 3), lambda x, w, b: F.conv2d(x, w * x.mean(), None, 1, 1))", "aten.conv2d", "computed"
    ),
    "attention": ("Attention()", "aten.scaled_dot_product_attention", "both factors"),
}  # fmt: skip
"""Layers that stay in float: the code, the operator and a part of the reason."""


def network(layers: Mapping[str, str]) -> Any:
    """An untrained network with these layers, with the statistics of IMAGES in its batch normalisation."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils import parametrizations

    from pipeline.frameworks._normalization import WithNormalization

    class Own(nn.Module):
        def __init__(self, shape: tuple[int, ...], run: Callable[..., Any]) -> None:
            super().__init__()
            self.run = run
            self.weight, self.bias = nn.Parameter(torch.randn(*shape) * 0.3), nn.Parameter(torch.randn(8))

        def forward(self, x: Any) -> Any:
            return self.run(x, self.weight, self.bias)

    class Wrapped(nn.Module):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

    class Flat(Wrapped):
        def forward(self, x: Any) -> Any:
            return self.layers[0](x.flatten(2))

    class Volume(Wrapped):
        def forward(self, x: Any) -> Any:
            return self.layers[0](x.unsqueeze(2)).squeeze(2)

    class Rows(Wrapped):
        def forward(self, x: Any) -> Any:
            return self.layers[0](x.flatten(2).transpose(1, 2))[0][:, -1]

    class Twice(Wrapped):
        def forward(self, x: Any) -> Any:
            see, near, far = self.layers
            return torch.cat([near(see(x)).relu(), far(see(3 * x)).relu()], 2)

    class Loop(Wrapped):
        def forward(self, x: Any) -> Any:
            for _ in range(3):
                x = x + self.layers[0](x)
            return x

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            x = x.flatten(2).transpose(1, 2)
            return self.attend(x, x, x, need_weights=False)[0].transpose(1, 2)

    def tied(first: Any, norm: Any, second: Any) -> Any:
        second.weight = first.weight
        return nn.Sequential(first, norm, nn.ReLU(), second)

    class Net(nn.Module):
        """Each layer is a branch after the first convolution; the last layer gets the sum of their channels' means."""

        def __init__(self, layers: Mapping[str, nn.Module]) -> None:
            super().__init__()
            self.first, self.layers, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.ModuleDict(layers), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            x = self.first(x).relu()
            branches = [layer(x).relu() for layer in self.layers.values()]
            return self.last(sum(y.mean(tuple(range(2, y.dim()))) if y.dim() > 2 else y for y in branches))

    torch.manual_seed(0)
    names = {"torch": torch, "nn": nn, "F": F, "parametrizations": parametrizations, "tied": tied}
    names |= {each.__name__: each for each in (Own, Flat, Volume, Rows, Twice, Loop, Attention)}
    net = Net({key: eval(code, names) for key, code in layers.items()})
    whole = WithNormalization(net, SPEC)
    with torch.no_grad():
        for _ in range(10):
            whole.train()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float().contiguous())
    return whole.eval()


def captured(layers: Mapping[str, str], folder: Path) -> Path:
    """Captures and quantizes a network with these layers; returns the folder of the float graph."""
    from pipeline.frameworks import _graphs

    _graphs.save(_graphs.exported(network(layers), SPEC), folder / _graphs.FLOAT)
    _graphs.quantize(folder, PIXELS, IMAGES, folder / "int8", INT8)
    return folder


def source(folder: Path) -> Source:
    from pipeline.frameworks import _graphs

    return Source("torch", partial(_graphs.program, folder, folder / "int8"))


KEYS = {name: f"layer{place}" for place, name in enumerate((*QUANTIZED, *FLOAT))}
ALL = {KEYS[name]: code for name, code in {**QUANTIZED, **{name: code for name, (code, _, _) in FLOAT.items()}}.items()}


@pytest.fixture(scope="module")
def everything(imported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(ALL, tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def coverage(everything: Path) -> Coverage:
    from pipeline.targets import _graph_layers

    found = source(everything)
    return _graph_layers.coverage(found.quantized, found.program, INT8)


def float_layers(coverage: Coverage, name: str) -> list[str]:
    return [layer.name for layer in coverage.float_layers if layer.name.split(".")[:2] == ["layers", KEYS[name]]]


@pytest.mark.parametrize("name", QUANTIZED)
def test_this_layer_is_quantized(name: str, coverage: Coverage) -> None:
    assert float_layers(coverage, name) == []


@pytest.mark.parametrize("name", FLOAT)
def test_this_layer_stays_in_float_and_is_counted_with_the_reason(name: str, coverage: Coverage) -> None:
    _, operator, reason = FLOAT[name]
    found = [layer for layer in coverage.float_layers if layer.operator == operator and reason in layer.reason]
    assert found and all(layer.multiply_adds > 0 for layer in found)


@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_recurrent_layer_stays_in_float_and_the_rest_is_quantized(kind: str, tmp_path: Path) -> None:
    from pipeline.targets import _graph_layers

    found = source(captured({"layer": f"Rows(nn.{kind}(8, 8, batch_first=True))"}, tmp_path))
    (layer,) = _graph_layers.coverage(found.quantized, found.program, INT8).float_layers
    assert (layer.operator, layer.multiply_adds) == (f"aten.{kind.lower()}", {"GRU": 3, "LSTM": 4}[kind] * 8 * 16 * 256)
    assert layer.name == "layers.layer.layers.0"


def test_a_captured_graph_computes_the_same_as_the_network(everything: Path) -> None:
    import torch

    from pipeline.frameworks import _graphs

    with torch.no_grad():
        expected = network(ALL)(torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()).numpy()
    (outputs,) = _graphs.evaluate(everything, IMAGES)
    assert stats.parity("network", [expected], [outputs], [None]).snr_db > 100


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_weights_of_every_convolution_and_linear_layer_are_quantized(everything: Path, dynamic: bool) -> None:
    """ExecuTorch's int8_dynamic leaves convolutions with one input channel per group in float."""
    from pipeline.targets import _graph_layers
    from pipeline.targets._weight_quantization import quantize_weights

    found, recipe = (
        source(everything),
        registry.load("recipes", "int8_dynamic" if dynamic else "int8_weight_only").RECIPE,
    )
    program, _ = quantize_weights(found.separate, {}, dynamic)
    coverage = _graph_layers.coverage(program, found.program, recipe, "one input channel")
    expected = [(operator, reason) for _, operator, reason in FLOAT.values()] + [("aten.conv_transpose2d", "")]
    left = [
        layer
        for layer in coverage.float_layers
        if not any(layer.operator == operator and reason in layer.reason for operator, reason in expected)
    ]
    assert all(dynamic and layer.reason == "one input channel" for layer in left)
    assert len(left) == (2 if dynamic else 0)  # the normalisation and the depthwise convolution


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_a_view_of_a_convolution_is_exported_to_tflite(recipe: str, tmp_path: Path) -> None:
    """torch.export has the strides of an NCHW image, and TFLite's image is NHWC."""
    from pipeline.frameworks import _graphs

    layer = "Own((8, 2048), lambda x, w, b: F.linear(x.view(x.size(0), -1), w / 9, b))"
    folder = captured({"layer": layer}, tmp_path)
    (expected,) = _graphs.evaluate(folder / "int8" if recipe == "int8" else folder, IMAGES)
    target, file = registry.load("targets", "tflite"), tmp_path / "model.tflite"
    target.export(source(folder), SPEC, registry.load("recipes", recipe).RECIPE, file)
    assert stats.parity("graph", [expected], predict(file, target, IMAGES), [None]).snr_db > 25


SHARED = [name for name in QUANTIZED if "twice" in name or "three times" in name or "two names" in name]


@pytest.mark.parametrize("name", SHARED)
def test_a_weight_that_is_used_several_times_is_quantized_for_each_use(name: str, tmp_path: Path) -> None:
    """Without copies the graph is another network, and the float file of ExecuTorch too."""
    from pipeline.frameworks import _graphs

    folder = captured({"layer": QUANTIZED[name]}, tmp_path)
    (reference,), (outputs,) = (_graphs.evaluate(each, IMAGES) for each in (folder, folder / "int8"))
    parity = stats.parity("float model", [reference], [outputs], [None])
    assert parity.snr_db > 25 and parity.top1_agreement > 0.8
    target = registry.load("targets", "executorch")
    for recipe, expected, least in (("fp32", reference, 60.0), ("int8", outputs, 25.0)):
        file = tmp_path / f"{recipe}.pte"
        exported = target.export(source(folder), SPEC, registry.load("recipes", recipe).RECIPE, file)
        found = predict(file, target, IMAGES)
        assert stats.parity("graph", [expected], found, [None]).snr_db > least
        assert exported.coverage is None if recipe == "fp32" else exported.coverage.multiply_adds == 1.0
