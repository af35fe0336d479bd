"""Quantizes the weights of a torch program to int8 with pt2e, for targets whose converters cannot do it themselves."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.registry import extra


def quantize_weights(program: Any, dynamic: bool = False) -> tuple[Any, int]:
    """Quantizes the weights of convolutions and linear layers to int8, symmetric, per output channel.

    Args:
        program: a float torch.export.ExportedProgram with a static batch size; it is not changed.
        dynamic: also quantize activations at run time. XNNPACK cannot do that for convolutions with one input channel
            per group (depthwise ones, and the first one for grey images); these stay float, with their weights.

    Returns:
        The quantized ExportedProgram, and the number of convolutions that stay float.
    """
    import torch

    with extra("executorch"):
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    ops = torch.ops.aten
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    left_in_float = 0

    class WeightQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
        """Replaces ExecuTorch's XNNPACKQuantizer, which does not quantize convolutions after a depthwise one."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            nonlocal left_in_float
            for node in model.graph.nodes:
                if node.target not in (ops.conv1d.default, ops.conv2d.default, ops.linear.default):
                    continue
                inputs = {node.args[1]: config.weight}
                if dynamic and _one_input_channel(node):
                    left_in_float += 1
                    continue
                if dynamic:
                    inputs[node.args[0]] = config.input_activation
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            """Accepts every model."""

    example = program.example_inputs[0]
    prepared = prepare_pt2e(copy.deepcopy(program).module(), WeightQuantizer())
    prepared(*example)  # all observers need one input, even those of weights
    return torch.export.export(convert_pt2e(prepared), example), left_in_float


def _one_input_channel(node: Any) -> bool:
    """Whether a convolution is depthwise in XNNPACK's terms: one input channel per group."""
    shape = node.args[1].meta["val"].shape
    return len(shape) > 2 and shape[1] == 1
