"""The quantizer of static int8 graphs: litert-torch's, with what it misses in graphs of today's torch.export."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.registry import extra

OPS = torch.ops.aten
LAYERS = (OPS.conv1d.default, OPS.conv2d.default, OPS.convolution.default, OPS.linear.default)
MOVING = (
    OPS.max_pool2d.default, OPS.pad.default, OPS.flatten.using_ints, OPS.view.default, OPS.reshape.default,
    OPS.permute.default, OPS.transpose.int, OPS.unsqueeze.default, OPS.squeeze.dim, OPS.squeeze.dims,
    OPS.slice.Tensor, OPS.upsample_nearest2d.vec, OPS.pixel_shuffle.default,
)  # fmt: skip
"""Operators that only move values: input and output have one scale. XNNPACK cannot load a file with two."""


def quantizer() -> Any:
    """litert-torch's quantizer, per channel.

    It finds concatenations and pooling by the names of source functions, which a graph of torch.export no longer has,
    and it fails on a GRU without an initial state and on `2 * x`, because no observer takes whole numbers.
    """
    with extra("tflite"):
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec

    per_tensor = get_symmetric_quantization_config(is_per_channel=False)

    class GraphQuantizer(PT2EQuantizer):  # type: ignore[misc]  # litert-torch has no types
        STATIC_OPS = tuple(operator for operator in PT2EQuantizer.STATIC_OPS if operator != "gru_io_only")

        def transform_for_annotation(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            for node in model.graph.nodes:
                if node.target in (OPS.add.Tensor, OPS.mul.Tensor) and node.meta["val"].is_floating_point():
                    node.args = tuple(float(each) if isinstance(each, int) else each for each in node.args)
            transformed: torch.fx.GraphModule = super().transform_for_annotation(model)
            return transformed

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            super().annotate(model)
            for node in model.graph.nodes:
                if node.op != "call_function":
                    continue
                if node.target in LAYERS and node.args[1].op != "get_attr" and _annotation(node):
                    del _annotation(node).input_qspec_map[
                        node.args[1]
                    ]  # computed from the input: it has no fixed scale
                if _annotation(node):
                    continue
                if node.target == OPS.conv_transpose2d.input and node.args[1].op == "get_attr":
                    config = self.global_config
                    inputs = {node.args[0]: config.input_activation, node.args[1]: per_tensor.weight}
                    node.meta[KEY] = QuantizationAnnotation(inputs, config.output_activation, _annotated=True)
                if node.target in MOVING and _quantized(node.args[0]) and _moves_only(node):
                    shared = SharedQuantizationSpec(node.args[0])
                    node.meta[KEY] = QuantizationAnnotation({node.args[0]: shared}, shared, _annotated=True)
                elif node.target == OPS.cat.default and all(map(_quantized, node.args[0])):
                    first, *others = dict.fromkeys(node.args[0])
                    shared = SharedQuantizationSpec((first, node))
                    inputs = {first: self.global_config.input_activation, **dict.fromkeys(others, shared)}
                    node.meta[KEY] = QuantizationAnnotation(inputs, shared, _annotated=True)
            return model

    return GraphQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


KEY = "quantization_annotation"


def _annotation(node: Any) -> Any:
    found = node.meta.get(KEY)
    return found if found is not None and found._annotated else None


def _quantized(node: Any) -> bool:
    """Whether a node's output is quantized."""
    found = _annotation(node)
    return found is not None and found.output_qspec is not None


def _moves_only(node: Any) -> bool:
    """Whether a padding adds zeros, which every scale has; other operators of MOVING add nothing."""
    if node.target != OPS.pad.default:
        return True
    given: list[Any] = [*node.args[2:], *["constant", None][len(node.args) - 2 :]]
    mode, value = given
    return mode == "constant" and not value
