"""The quantizer: which operators compute in int8, which tensors share a scale, and that runtimes agree on the result.

One network has every kind of operator as a branch, so that it is captured, quantized and lowered once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry, stats
from pipeline.core import PIXELS, ModelSpec, Preprocessing, Tensor, Training
from pipeline.stages._parity import predict
from pipeline.targets import Exported, Source

pytestmark = [
    pytest.mark.usefixtures("imported"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # importing ExecuTorch
]

INT8 = registry.load("recipes", "int8").RECIPE
SPEC = ModelSpec(
    name="kinds",
    task="image_classification",
    inputs=(Tensor("image", (16, 16, 3)),),
    outputs=(Tensor("logits", (5,)),),
    labels=(),
    preprocessing=Preprocessing("RGB", 16, 16, (127.5,) * 3, (63.0,) * 3),
    dataset="imagefolder",
    training=Training(1, 8, 1e-3),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)

KINDS = {
    "ReLU6": "F.relu6(4 * conv(x), inplace=True)",
    "hardtanh": "F.hardtanh(conv(x), -1, 1)",
    "hardtanh with other limits": "F.hardtanh(conv(x), -0.5, 0.75)",
    "clamp": "conv(x).clamp(0, 0.5)",
    "chained sums": "x + conv(x) + conv(x).relu() + 1",
    "sum in place": "conv(x).add_(x).relu_()",
    "difference and product": "(x - conv(x)) * x * 2",
    "concatenations": "torch.cat([x, torch.cat([conv(x).relu_(), F.max_pool2d(x, 3, 1, 1)], 1)], 1)",
    "squeeze and excite": "x * F.hardsigmoid(conv(F.adaptive_avg_pool2d(x, 1)))",
    "hard-swish": "F.hardswish(conv(x))",
    "gates": "torch.sigmoid(conv(x)) * x + F.silu(conv(x)) + torch.tanh(x) + F.leaky_relu(conv(x))",
    "pooling": "F.avg_pool2d(F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2), 2)",
    "upsampling": "F.interpolate(F.pixel_shuffle(conv(x), 2), scale_factor=2)",
    "channel shuffle": "x.view(x.size(0), 2, 4, 16, 16).transpose(1, 2).reshape(x.size(0), 8, 16, 16)",
}
"""Branches after the first convolution, as code: x has 8 channels of 16×16, and conv is another layer at every call."""

COMPUTING = (
    "add.Tensor", "sub.Tensor", "mul.Tensor", "mean.dim", "adaptive_avg_pool2d.default", "hardswish.default",
    "hardsigmoid.default", "sigmoid.default", "silu.default", "tanh.default", "leaky_relu.default", "conv2d.default",
    "linear.default",
)  # fmt: skip
MOVING = (
    "cat.default", "max_pool2d.default", "avg_pool2d.default", "pad.default", "upsample_nearest2d.vec",
    "pixel_shuffle.default", "transpose.int", "reshape.default", "flatten.using_ints",
)  # fmt: skip
CLAMPS = ("relu", "hardtanh", "relu6", "clamp")


def network(branches: Mapping[str, str]) -> Any:
    """An untrained network with these branches."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from pipeline.frameworks._normalization import WithNormalization

    class Branch(nn.Module):
        def __init__(self, code: str) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(code.count("conv(")))
            self.code = code

        def forward(self, x: Any) -> Any:
            convs: Iterator[nn.Module] = iter(self.convs)

            def conv(value: Any) -> Any:
                return next(convs)(value)

            y = eval(self.code, {"torch": torch, "F": F, "x": x, "conv": conv})
            return y.mean((2, 3), keepdim=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.branches = nn.ModuleList(map(Branch, branches.values()))
            self.last = nn.LazyLinear(5)

        def forward(self, x: Any) -> Any:
            x = self.first(x).relu()
            return self.last(torch.cat([branch(x) for branch in self.branches], 1).flatten(1))

    torch.manual_seed(0)
    whole = WithNormalization(Net(), SPEC).eval()
    with torch.no_grad():
        whole(torch.rand(2, 3, 16, 16))
    return whole


def captured(net: Any, folder: Path, recipe: Any = INT8) -> Any:
    """Captures and quantizes a network in a folder; returns what `quantize` returns."""
    from pipeline.frameworks import _graphs

    _graphs.save(_graphs.exported(net, SPEC), folder / _graphs.FLOAT)
    return _graphs.quantize(folder, PIXELS, IMAGES, folder / "int8", recipe)


def nodes(folder: Path) -> list[Any]:
    """The operators of the quantized graph."""
    from pipeline.frameworks import _graphs

    graph = _graphs.load(folder / "int8" / _graphs.FOLDED).graph
    return [node for node in graph.nodes if node.op == "call_function"]


def named(folder: Path, operator: str) -> list[Any]:
    return [node for node in nodes(folder) if str(node.target) == f"aten.{operator}"]


def scales(node: Any) -> tuple[list[Any], list[Any]]:
    """(scale, zero point) of a node's activations and of its result after clamps; None for a tensor in float."""
    after = node
    while len(after.users) == 1 and any(f"aten.{clamp}" in str(next(iter(after.users)).target) for clamp in CLAMPS):
        after = next(iter(after.users))
    tensors = [
        each for each in node.all_input_nodes if each.op == "call_function" and hasattr(each.meta["val"], "dtype")
    ]
    before = [each for each in tensors if "dequantize_per_channel" not in str(each.target)]
    quantize, dequantize = "quantized_decomposed.quantize_per_tensor", "quantized_decomposed.dequantize_per_tensor"
    return (
        [each.args[1:3] if dequantize in str(each.target) else None for each in before],
        [each.args[1:3] if quantize in str(each.target) else None for each in after.users],
    )


@pytest.fixture(scope="module")
def kinds(imported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    captured(network(KINDS), folder)
    return folder


@pytest.mark.parametrize("operator", COMPUTING)
def test_this_operator_computes_in_int8(operator: str, kinds: Path) -> None:
    found = named(kinds, operator)
    assert found
    for node in found:
        before, after = scales(node)
        assert before and after and None not in (*before, *after), node


@pytest.mark.parametrize("operator", MOVING)
def test_this_operator_has_one_scale_on_all_sides(operator: str, kinds: Path) -> None:
    found = named(kinds, operator)
    assert found
    for node in found:
        before, after = scales(node)
        assert len({*before, *after}) == 1 and None not in before, node


def test_a_clamp_is_part_of_the_layer_or_sum_before_it(kinds: Path) -> None:
    """A range that is taken before the clamp wastes most of its values."""
    found = [node for node in nodes(kinds) if any(f"aten.{clamp}" in str(node.target) for clamp in CLAMPS)]
    assert len(found) >= 5
    assert all("quantize" not in str(node.args[0].target) for node in found)


@pytest.fixture(scope="module")
def lowered(kinds: Path) -> dict[str, tuple[Exported, Path, np.ndarray]]:
    from pipeline.frameworks import _graphs

    source, made = Source("torch", partial(_graphs.program, kinds, kinds / "int8")), {}
    for name in ("tflite", "executorch", "onnx"):
        target = registry.load("targets", name)
        file = kinds / f"model{target.SUFFIX}"
        exported = target.export(source, SPEC, INT8, file)
        made[name] = exported, file, predict(file, target, IMAGES)[0]
    return made


@pytest.mark.parametrize("target", ["tflite", "executorch", "onnx"])
def test_a_runtime_is_nearer_to_the_graph_than_the_graph_to_the_float_model(
    target: str, kinds: Path, lowered: dict[str, tuple[Exported, Path, np.ndarray]]
) -> None:
    from pipeline.frameworks import _graphs

    (reference,), (graph,) = (_graphs.evaluate(folder, IMAGES) for folder in (kinds, kinds / "int8"))
    quantized = stats.parity("float model", [reference], [graph], [None])
    assert quantized.snr_db > 25
    assert stats.parity("graph", [graph], [lowered[target][2]], [None]).snr_db > min(quantized.snr_db, 35)
    coverage = lowered[target][0].coverage
    assert coverage is not None and coverage.multiply_adds == 1


def test_tflite_computes_hard_swish_without_its_own_kernel(
    lowered: dict[str, tuple[Exported, Path, np.ndarray]],
) -> None:
    """LiteRT's int8 kernel runs outside XNNPACK and rounds otherwise."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(lowered["tflite"][1].read_bytes(), 0)
    used = {max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes}
    assert schema.BuiltinOperator.CONV_2D in used and schema.BuiltinOperator.HARD_SWISH not in used


def test_squeeze_and_excite_stays_inside_xnnpack(lowered: dict[str, tuple[Exported, Path, np.ndarray]]) -> None:
    note = lowered["executorch"][0].notes[0]
    assert not any(name in note for name in ("add", "div", "mul", "mean", "relu", "_to_dim_order_copy")), note


def test_layers_that_a_recipe_excepts_stay_in_float(tmp_path: Path) -> None:
    recipe = replace(INT8, exceptions=(("branches.0", "float32"), ("las?", "float32")))
    captured(network({"one": "conv(x).relu()", "other": "x + conv(x)"}), tmp_path, recipe)
    left = [None in scales(node)[0] or None in scales(node)[1] for node in named(tmp_path, "conv2d.default")]
    assert left == [False, False, True, False]  # the normalisation, the first layer, one, other
    (last,) = named(tmp_path, "linear.default")
    assert "dequantize" not in str(last.args[1].target)


def test_a_network_with_attention_computes_only_its_layers_in_int8(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from pipeline.frameworks._normalization import WithNormalization

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm, self.last = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 5)
            self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            y = self.norm(x)
            x = x + (y @ self.key(y).mT).softmax(-1) @ self.value(y)
            return self.last(x.mean(1))

    torch.manual_seed(0)
    captured(WithNormalization(Net(), SPEC).eval(), tmp_path)
    for node in named(tmp_path, "linear.default"):
        assert None not in (*scales(node)[0], *scales(node)[1])
    for operator in ("add.Tensor", "mean.dim", "matmul.default"):
        assert all(None in scales(node)[0] for node in named(tmp_path, operator))


def test_small_weights_have_small_scales(tmp_path: Path) -> None:
    """With a floor of 2**-12, the largest weight here would be stored as 4."""
    import torch

    net = network({"one": "conv(x)"})
    with torch.no_grad():
        net.net.branches[0].convs[0].weight.mul_(0.001 / net.net.branches[0].convs[0].weight.abs().max())
    captured(net, tmp_path)
    from pipeline.frameworks import _graphs

    module = _graphs.load(tmp_path / "int8" / _graphs.FOLDED).module()
    weights = [value for name, value in module.named_buffers() if value.dtype == torch.int8 and value.dim() == 4]
    assert min(int(weight.abs().max()) for weight in weights) > 50


def prepared(tmp_path: Path) -> Any:
    """A calibrated graph whose first layer loses the upper half of its weights' range."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from pipeline.frameworks import _graphs, _normalization, _quantizer

    program = _graphs.exported(network({"one": "conv(x).relu()"}), SPEC)
    graph = prepare_pt2e(program.module(), _quantizer.GraphQuantizer())
    graph(_normalization.network_inputs(torch.from_numpy(IMAGES)))
    layer = [node for node in graph.graph.nodes if str(node.target) == "aten.conv2d.default"][1]
    observer = graph.get_submodule(str(layer.args[1].target))
    observer.min_val, observer.max_val = observer.min_val / 2, observer.max_val / 2
    return graph


def biases(graph: Any) -> np.ndarray:
    return np.concatenate([value.detach() for name, value in graph.named_parameters() if name.endswith("bias")])


@pytest.mark.parametrize(("extreme", "kept"), [(1, False), (2, False), (3, True), (16, True)])
def test_the_range_of_a_tensor_leaves_out_images_with_extreme_values_if_they_are_rare(extreme: int, kept: bool) -> None:
    import torch

    from pipeline.frameworks._quantizer import ACTIVATION

    images = torch.linspace(-1, 1, 32 * 8 * 4 * 4)[torch.randperm(4096, generator=torch.Generator().manual_seed(0))]
    images = images.reshape(32, 8, 4, 4).clone()
    images[:extreme] *= 100
    observer = ACTIVATION.observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127)
    assert torch.equal(observer(images), images)
    scale = float(observer.calculate_qparams()[0])
    assert (scale > 10 / 255) == kept and scale >= 1.9 / 255


def test_a_tensor_that_is_zero_for_most_images_has_the_range_of_the_others() -> None:
    import torch

    from pipeline.frameworks._quantizer import usual

    values = torch.zeros(64, 3)
    values[5] = 2
    assert usual(values).all()
    assert usual(torch.tensor([[1.0], [100.0]])).all(), "two images have no outlier"


def test_biases_take_back_what_int8_adds_to_a_layers_mean(tmp_path: Path) -> None:
    from pipeline.frameworks import _bias_correction

    graph = prepared(tmp_path)
    before = biases(graph)
    correction = _bias_correction.correct(graph, IMAGES)
    assert correction is not None and correction.used
    assert correction.with_snr_db > correction.without_snr_db + 3
    assert np.abs(biases(graph) - before).max() > 0.01


def test_biases_stay_as_they_are_where_a_correction_does_not_help(tmp_path: Path) -> None:
    """Images that the correction is computed from are unlike those that it is judged by."""
    from pipeline.frameworks import _bias_correction

    images = IMAGES.copy()
    images[0::2], images[1::2] = 0, 255
    graph = prepared(tmp_path)
    before = biases(graph)
    correction = _bias_correction.correct(graph, images)
    assert correction is not None and not correction.used
    assert correction.with_snr_db < correction.without_snr_db
    assert (biases(graph) == before).all()


def test_a_recipe_can_force_the_correction_or_switch_it_off(tmp_path: Path) -> None:
    net = network({"one": "conv(x)"})
    forced = captured(net, tmp_path, replace(INT8, bias_correction="on"))
    assert forced is not None and forced.used
    assert captured(net, tmp_path, replace(INT8, bias_correction="off")) is None
