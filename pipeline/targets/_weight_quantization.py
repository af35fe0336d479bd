"""Int8 weights in a torch program, as a pt2e graph: for targets that lower such graphs but cannot make them."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.registry import extra


def quantize_weights(program: Any, dynamic: bool = False) -> tuple[Any, int]:
    """The program with its convolutions' and linear layers' weights as int8, symmetric, per output channel.

    Args:
        program: a torch.export.ExportedProgram in float with a static batch; it is left as it was.
        dynamic: quantize activations too, at run time, where XNNPACK can: not before convolutions with one input
            channel a group (depthwise ones, and those of a grey picture), whose weights then stay in float as well.

    Returns:
        The quantized ExportedProgram, and how many convolutions stayed in float.
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
        """ExecuTorch's XNNPACKQuantizer leaves every convolution after a depthwise one in float; this one does not."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            nonlocal left_in_float
            for node in model.graph.nodes:
                if node.target not in (ops.conv2d.default, ops.linear.default):
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
            """Nothing that could be wrong."""

    example = program.example_inputs[0]
    prepared = prepare_pt2e(copy.deepcopy(program).module(), WeightQuantizer())
    prepared(*example)  # observers want to have seen one input, weights' observers too
    return torch.export.export(convert_pt2e(prepared), example), left_in_float


def _one_input_channel(node: Any) -> bool:
    """Whether a convolution is one that XNNPACK calls depthwise."""
    shape = node.args[1].meta["val"].shape
    return len(shape) == 4 and shape[1] == 1
