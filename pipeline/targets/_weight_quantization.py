"""Quantizes the weights of a torch program to int8 with pt2e, for targets whose converters cannot do it themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pipeline.registry import extra


def quantize_weights(program: Any, left: Mapping[str, str], dynamic: bool = False) -> tuple[Any, int]:
    """Quantizes the weights of convolutions and linear layers to int8, symmetric, per output channel.

    Args:
        program: a float torch.export.ExportedProgram with a static batch size; it is not changed.
        left: names of the nodes that the recipe leaves in float.
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

    from pipeline.targets._graph_layers import KNOWN

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    left_in_float = 0

    class WeightQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
        """Replaces ExecuTorch's XNNPACKQuantizer, which does not quantize convolutions after a depthwise one."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            nonlocal left_in_float
            for node in model.graph.nodes:
                if node.target not in KNOWN or node.name in left:
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


def quantize_linear_layers(program: Any, left: Mapping[str, str], block: int) -> Any:
    """Quantizes the weights of linear layers to int4 in blocks, and their inputs to int8 at run time.

    Args:
        program: a float torch.export.ExportedProgram with a static batch size; it is not changed.
        left: names of the nodes that the recipe leaves in float.

    Returns:
        The quantized ExportedProgram.
    """
    import torch

    with extra("executorch"):
        from torchao.quantization import quantize_
        from torchao.quantization.granularity import PerGroup
        from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    module = copy.deepcopy(program).module()
    chosen = []
    for node in list(module.graph.nodes):
        if node.target != torch.ops.aten.linear.default or node.name in left or node.args[1].op != "get_attr":
            continue
        weight, bias = (_tensor(module, argument) for argument in [*node.args[1:], None][:2])
        assert weight is not None
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias is not None)  # torchao changes modules
        layer.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias.detach().clone(), requires_grad=False)
        name = f"quantized_{node.name}"
        module.add_submodule(name, layer)
        with module.graph.inserting_before(node):
            called = module.graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(called)
        module.graph.erase_node(node)
        chosen.append(name)
    module.graph.eliminate_dead_code()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in {*dict(module.named_parameters()), *dict(module.named_buffers())} - used:
        if name.partition(".")[0] not in chosen:  # otherwise the file would contain the float weights too
            path, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(path), leaf)
    module.recompile()
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, "int4"),  # noqa: B009  # torch's types lack it
        weight_granularity=PerGroup(block),
    )
    quantize_(module, config, filter_fn=lambda _, name: name in chosen)
    return torch.export.export(module, program.example_inputs[0])


def _tensor(module: Any, node: Any) -> Any:
    """The tensor behind a get_attr node; None without one."""
    if node is None:
        return None
    path, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(path), name)
