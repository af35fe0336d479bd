"""The quantizer of static int8 graphs: which operators compute in int8, and which tensors share a scale.

pt2e asks a quantizer to annotate nodes. This one looks at a node's operator and at nothing else, in `RULES`. An
operator without a rule stays in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

from pipeline.targets._graph_layers import KNOWN

OPS = torch.ops.aten
KEY = "quantization_annotation"
SMALLEST_SCALE = 2**-16
"""No scale is smaller. The quantizers of litert-torch and ExecuTorch stop at 2**-12, where a channel whose largest
weight is 0.03 has fewer than 255 values. A channel of zeros needs some bound: biases are stored as multiples of the
input's scale times the weight's, in 32 bits."""

OUTLIER, RARE = 4.0, 16
"""An image is an outlier of a tensor if its largest value is more than OUTLIER times what all but one in RARE images
have. Fewer images have no outliers."""


def usual(values: torch.Tensor) -> torch.Tensor:
    """Which images (N, ...) are no outliers: bool (N,)."""
    largest = values.detach().abs().flatten(1).amax(1)
    count = len(largest)
    limit = OUTLIER * largest.kthvalue(count - count // RARE).values
    return (largest <= limit) | (limit == 0)


class RangeObserver(HistogramObserver):  # type: ignore[misc]  # torchao has no types
    """A histogram of an activation (N, ...) without the outliers among the images of each batch.

    A histogram's range has the least squared error over all images, and the largest values dominate squares: one
    image of 256 whose values were 20 times the others' made the scale 20 times coarser for all of them.
    """

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Observes a batch, and returns it."""
        if x_orig.dim() > 1 and x_orig.numel():
            super().forward(x_orig[usual(x_orig)])
        else:
            super().forward(x_orig)
        return x_orig


_EPS = {"eps": SMALLEST_SCALE}
ACTIVATION = QuantizationSpec(torch.int8, RangeObserver.with_args(**_EPS), -128, 127, torch.per_tensor_affine)
WEIGHT = QuantizationSpec(
    torch.int8, PerChannelMinMaxObserver.with_args(**_EPS), -127, 127, torch.per_channel_symmetric, ch_axis=0
)
WHOLE_WEIGHT = QuantizationSpec(torch.int8, MinMaxObserver.with_args(**_EPS), -127, 127, torch.per_tensor_symmetric)
PROBABILITY = FixedQParamsQuantizationSpec(torch.int8, 1 / 256, -128, -128, 127, torch.per_tensor_affine)

CLAMPS = (
    OPS.relu.default, OPS.relu6.default, OPS.hardtanh.default, OPS.clamp.default, OPS.clamp_min.default,
)  # fmt: skip
"""Operators that limit values. After a layer or a sum they are part of it, and only their result has a scale."""

STATISTICS = (
    OPS.layer_norm.default, OPS.native_layer_norm.default, OPS.rms_norm.default, OPS.group_norm.default,
    OPS.instance_norm.default, OPS.scaled_dot_product_attention.default, OPS.rsqrt.default,
)  # fmt: skip
"""Operators whose result depends on how values of one sample compare: normalisation at run time and attention."""

Predicate = Callable[[Any], bool]


class GraphQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
    """Annotates a graph of torch.export for pt2e.

    Args:
        in_float: whether a node must stay in float although its operator has a rule.
    """

    def __init__(self, in_float: Predicate = lambda node: False) -> None:
        super().__init__()
        self.in_float = in_float
        self.layers_only = False

    def transform_for_annotation(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Makes tensors of the numbers that are added and multiplied: pt2e can give only a tensor a scale."""
        for node in list(model.graph.nodes):
            if RULES.get(operator(node)) is not arithmetic or not node.meta["val"].is_floating_point():
                continue
            for place, number in enumerate(node.args[:2]):
                if isinstance(number, int | float):
                    name = f"number_{node.name}_{place}"
                    model.register_buffer(name, torch.tensor(float(number)))
                    with model.graph.inserting_before(node):
                        constant = model.graph.get_attr(name)
                    constant.meta["val"] = model.get_buffer(name)
                    node.update_arg(place, constant)
        model.recompile()
        return model

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Applies the rules in the order of the graph."""
        self.layers_only = layers_only(model)
        for node in model.graph.nodes:
            rule = RULES.get(operator(node))
            if rule is not None and not self.in_float(node) and KEY not in node.meta:
                rule(self, node)
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        """Accepts every graph."""

    def compute(self, node: Any, inputs: dict[Any, Any], output: Any = ACTIVATION) -> None:
        """Annotates a node that computes in int8. The result has a scale after the clamp that follows, if one does."""
        following = next(iter(node.users)) if len(node.users) == 1 else None
        if following is not None and operator(following) in CLAMPS and not self.in_float(following):
            _annotate(node, inputs, None)
            _annotate(following, {}, output)
        else:
            _annotate(node, inputs, output)


def layers_only(model: torch.fx.GraphModule) -> bool:
    """Whether only layers compute in int8: networks with attention or with normalisation at run time.

    Their sums carry a few large values from the first block to the last, and one int8 scale for all values of a tensor
    leaves the others no precision. Normalisation, softmax and attention are in float anyway, so int8 between them
    saves no time either.
    """
    return any(
        operator(node) in STATISTICS or (operator(node) == OPS.softmax.int and not _is_returned(node))
        for node in model.graph.nodes
    )


def operator(node: Any) -> Any:
    """A node's operator; for one that works in place, the operator that returns its result."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.endswith("__"):
        return node.target
    return getattr(getattr(OPS, name.removesuffix("_"), None), node.target._overloadname, node.target)


def limits(node: Any) -> tuple[float, float] | None:
    """What a clamp limits values to; None for another node."""
    kind, given = operator(node), [*node.args[1:], None, None]
    if kind not in CLAMPS:
        return None
    if kind == OPS.relu6.default:
        return 0.0, 6.0
    if kind == OPS.relu.default:
        return 0.0, math.inf
    low, high = given[:2] if node.args[1:] or kind != OPS.hardtanh.default else (-1, 1)
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


def layer(quantizer: GraphQuantizer, node: Any) -> None:
    """A convolution or linear layer, one weight scale per output channel. A computed weight has no fixed scale."""
    if node.args[1].op == "get_attr":
        quantizer.compute(node, {node.args[0]: ACTIVATION, node.args[1]: WEIGHT})


def transposed(quantizer: GraphQuantizer, node: Any) -> None:
    """A transposed convolution: one scale for the weight, whose first axis has the input's channels."""
    if node.args[1].op == "get_attr":
        quantizer.compute(node, {node.args[0]: ACTIVATION, node.args[1]: WHOLE_WEIGHT})


def arithmetic(quantizer: GraphQuantizer, node: Any) -> None:
    """A sum, difference or product of two tensors, one of which may be constant."""
    if not quantizer.layers_only and _is_real(node) and not node.kwargs:
        quantizer.compute(node, dict.fromkeys(_tensors(node.args[:2]), ACTIVATION))


def curve(quantizer: GraphQuantizer, node: Any) -> None:
    """A function of every value. Runtimes without an int8 kernel compute it in float between two int8 tensors."""
    if not quantizer.layers_only:
        _annotate(node, {node.args[0]: ACTIVATION}, ACTIVATION)


def probability(quantizer: GraphQuantizer, node: Any) -> None:
    """A sigmoid: TFLite's kernel has one fixed scale for the result."""
    if not quantizer.layers_only:
        _annotate(node, {node.args[0]: ACTIVATION}, PROBABILITY)


def mean(quantizer: GraphQuantizer, node: Any) -> None:
    """A mean has a smaller range than what it is the mean of."""
    if not quantizer.layers_only:
        _annotate(node, {node.args[0]: ACTIVATION}, ACTIVATION)


def pool(quantizer: GraphQuantizer, node: Any) -> None:
    """A pooling to one value is a mean; kernels of others have one scale for both sides."""
    sizes = node.args[1]
    if (sizes if isinstance(sizes, int) else set(sizes)) in (1, {1}):
        mean(quantizer, node)
    else:
        move(quantizer, node)


def move(_: GraphQuantizer, node: Any) -> None:
    """An operator that moves, selects or limits values: both sides have one scale, if the input has one.

    XNNPACK does not load a file with two.
    """
    if _has_scale(node.args[0]) and _adds_no_other_value(node):
        shared = SharedQuantizationSpec(node.args[0])
        _annotate(node, {node.args[0]: shared}, shared)


def concatenate(_: GraphQuantizer, node: Any) -> None:
    """A concatenation: one scale for all inputs and the result, if all inputs have one."""
    if all(map(_has_scale, node.args[0])):
        first, *others = dict.fromkeys(node.args[0])
        shared = SharedQuantizationSpec((first, node))
        _annotate(node, {first: ACTIVATION, **dict.fromkeys(others, shared)}, shared)


RULES: dict[Any, Callable[[GraphQuantizer, Any], None]] = {
    **dict.fromkeys((*KNOWN, OPS.convolution.default), layer),
    OPS.conv_transpose2d.input: transposed,
    **dict.fromkeys((OPS.add.Tensor, OPS.sub.Tensor, OPS.mul.Tensor), arithmetic),
    **dict.fromkeys(
        (
            OPS.hardswish.default, OPS.hardsigmoid.default, OPS.silu.default, OPS.gelu.default, OPS.tanh.default,
            OPS.leaky_relu.default, OPS.elu.default, OPS.prelu.default, OPS.mish.default,
        ),
        curve,
    ),
    OPS.sigmoid.default: probability,
    OPS.mean.dim: mean,
    OPS.adaptive_avg_pool2d.default: pool,
    OPS.cat.default: concatenate,
    **dict.fromkeys(
        (
            OPS.max_pool2d.default, OPS.avg_pool2d.default, OPS.pad.default, OPS.upsample_nearest2d.vec,
            OPS.upsample_bilinear2d.vec, OPS.pixel_shuffle.default, OPS.channel_shuffle.default,
            OPS.flatten.using_ints, OPS.view.default, OPS.reshape.default, OPS.permute.default, OPS.transpose.int,
            OPS.unsqueeze.default, OPS.squeeze.dim, OPS.squeeze.dims, OPS.slice.Tensor, OPS.select.int,
            OPS.expand.default, OPS.contiguous.default, OPS.clone.default, OPS.alias.default, OPS.dropout.default,
            *CLAMPS,
        ),
        move,
    ),
}  # fmt: skip
"""Operators → their rule. Left in float: products of two activations and attention (int8 loses more than it saves),
softmax, normalisation at run time, embeddings, GRU and LSTM (no runtime has an int8 kernel for the captured form)."""


def _annotate(node: Any, inputs: dict[Any, Any], output: Any) -> None:
    node.meta[KEY] = QuantizationAnnotation(inputs, output, _annotated=True)


def _has_scale(node: Any) -> bool:
    """Whether a node's output is quantized."""
    return KEY in node.meta and node.meta[KEY].output_qspec is not None


def _is_real(node: Any) -> bool:
    return bool(node.meta["val"].is_floating_point())


def _tensors(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, torch.fx.Node)]


def _is_returned(node: Any) -> bool:
    return all(user.op == "output" for user in node.users)


def _adds_no_other_value(node: Any) -> bool:
    """Whether a padding adds zeros, which every scale has; other operators add nothing."""
    if node.target != OPS.pad.default:
        return True
    given: list[Any] = [*node.args[2:], *["constant", None][len(node.args) - 2 :]]
    mode, value = given
    return mode == "constant" and not value
