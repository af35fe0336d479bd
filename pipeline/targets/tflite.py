"""TFLite (LiteRT) through litert-torch; all quantization except static int8 by ai-edge-quantizer on the float file."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core import Coverage, ModelSpec, Port, Recipe
from pipeline.registry import extra
from pipeline.targets import Exported, Source, _coverage, _recipes, _tflite_layers, only_programs
from pipeline.targets._same_operators import Place

SUFFIX = ".tflite"
RUNTIME: str | None = "litert"
UNCHECKED: str | None = None
LAYOUT = "NHWC"
TOOLS: tuple[str, ...] = ("litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert", "torch")
EXTRA = "tflite"
BLOCKS = (32, 64, 128, 256)
"""Blocks of int4 weights that the file format has."""
SUMMARY = "LiteRT (TensorFlow Lite): Android, boards, microcontroller-class CPUs"


def supports(recipe: Recipe, framework: str) -> str | None:
    """Every recipe except those with palettes; blocks of int4 weights with dynamic activations only."""
    if (recipe.weights, recipe.activations) == ("int4", "float32") and recipe.block is not None:
        return "LiteRT unpacks blocks of int4 weights to wrong values; int4_dynamic has blocks"
    blocks = (None, *BLOCKS) if recipe.activations == "int8_dynamic" else (None,)
    more = (("int4", "float32"), ("int4", "int8_dynamic"))
    return only_programs(framework) or _recipes.unsupported(recipe, more, blocks)


def export(source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
    """Converts and writes the .tflite file; see `Target.export`."""
    with extra(EXTRA):
        import ai_edge_quantizer
        import litert_torch  # noqa: F401
    if recipe.static:
        out.write_bytes(_convert(source.unfolded, static=True))
        quantized_by: str | None = "graph"
    elif recipe.weights == "float32":
        out.write_bytes(_convert(source.program))
        quantized_by = None
    else:
        from pipeline.targets import _graph_layers

        content = _convert(source.program)
        quantizer = ai_edge_quantizer.Quantizer(content)
        _configure(quantizer, recipe)
        for layer in _graph_layers.placed(_tflite_layers.layers(content), source.program, recipe):
            _leave(quantizer, layer.place)
        out.write_bytes(quantizer.quantize().quantized_model)
        quantized_by = "ai-edge-quantizer"
    inputs, outputs = _ports(out, spec)
    coverage = _coverage_of(source, recipe, out) if recipe.quantized else None
    return Exported(inputs, outputs, quantized_by, _notes(recipe), coverage)


def with_outputs(file: Path, other: Path, outputs: Sequence[int], out: Path) -> list[Place | None]:
    """See `Target`."""
    from pipeline.targets import _tflite_outputs

    return _tflite_outputs.with_outputs(file, other, outputs, out)


def _coverage_of(source: Source, recipe: Recipe, file: Path) -> Coverage:
    """Counted in the graph if the file was made from a quantized one, and in the file otherwise."""
    from pipeline.targets import _graph_layers

    if recipe.static:
        return _graph_layers.coverage(source.quantized, source.program, recipe)
    layers = _tflite_layers.layers(file.read_bytes())
    return _coverage.total(_graph_layers.named(layers, source.program, recipe))


@functools.lru_cache(maxsize=2)
def _convert(program: Any, static: bool = False) -> bytes:
    """Converts a program to a TFLite file; images become NHWC. Cached: three recipes start from the float file."""
    import litert_torch
    import torch

    config = None
    if static:
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        config = QuantConfig(pt2e_quantizer=quantizer)
    (image,) = program.example_inputs[0]
    graph = program.module()
    for node in list(graph.graph.nodes):
        # The strides of an NHWC image run through the network, and a view of such a tensor fails.
        if node.target == torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        if static and node.target in (torch.ops.aten.hardswish.default, torch.ops.aten.hardswish_.default):
            _use_products(node)
    graph.recompile()
    module, sample = graph, image
    if image.dim() == 4:  # an image
        module, sample = litert_torch.to_channel_last_io(graph, args=[0]), image.permute(0, 2, 3, 1).contiguous()
    return bytes(litert_torch.convert(module, (sample,), quant_config=config).model_content())


def _use_products(hardswish: Any) -> None:
    """Replaces a hard-swish by relu6(x + 3) * (x / 6), which stays in float between two int8 tensors.

    LiteRT's int8 HARD_SWISH runs outside XNNPACK and rounds otherwise than other runtimes. The converter makes a
    HARD_SWISH of x * hardsigmoid(x) as well, but not of this form.
    """
    import torch

    ops, graph, (x,) = torch.ops.aten, hardswish.graph, hardswish.args
    with graph.inserting_before(hardswish):
        gate = graph.call_function(ops.relu6.default, (graph.call_function(ops.add.Scalar, (x, 3.0)),))
        product = graph.call_function(ops.mul.Tensor, (gate, graph.call_function(ops.mul.Scalar, (x, 1 / 6))))
    hardswish.replace_all_uses_with(product)
    graph.erase_node(hardswish)


def _configure(quantizer: Any, recipe: Recipe) -> None:
    """Configures ai-edge-quantizer for the recipe."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer import recipe as recipes

    if recipe.weights == "float16":
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        operations = qtyping.TFLOperationName.ALL_SUPPORTED
        quantizer.update_quantization_recipe(".*", operations, config, algorithm_key="float_casting")
    elif recipe.weights == "int4":
        dynamic = recipe.activations == "int8_dynamic"
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(
                num_bits=4,
                granularity=qtyping.QuantGranularity(f"BLOCKWISE_{recipe.block}" if recipe.block else "CHANNELWISE"),
            ),
            compute_precision=qtyping.ComputePrecision.INTEGER if dynamic else qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=not dynamic,
        )
        # OCTAV clips the largest weights where that makes the mean error smaller.
        linear = qtyping.TFLOperationName.FULLY_CONNECTED
        quantizer.update_quantization_recipe(".*", linear, config, algorithm_key="OCTAV")
    elif recipe.activations == "int8_dynamic":
        quantizer.load_quantization_recipe(recipes.dynamic_wi8_afp32())
    else:
        quantizer.load_quantization_recipe(recipes.weight_only_wi8_afp32())


def _leave(quantizer: Any, place: str) -> None:
    """Leaves one layer in float. Args: place: names of its outputs, each with a semicolon."""
    from ai_edge_quantizer import qtyping

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    quantizer.update_quantization_recipe(f"^{re.escape(place)}$", every, algorithm_key="no_quantize")


def _notes(recipe: Recipe) -> tuple[str, ...]:
    if recipe.weights != "float32" and recipe.activations in ("float16", "float32"):
        return ("weights are unpacked to float32 when the model is loaded",)
    return ()


def _ports(path: Path, spec: ModelSpec) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The file's inputs and outputs with the spec's names, in the spec's order."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))

    def port(name: str, detail: dict[str, Any], layout: str | None) -> Port:
        scale, zero = detail["quantization"]
        shape = tuple(int(n) for n in detail["shape"])
        if scale == 0:
            return Port(name, shape, detail["dtype"].__name__, layout)
        return Port(name, shape, detail["dtype"].__name__, layout, float(scale), int(zero))

    inputs = zip(spec.inputs, interpreter.get_input_details(), strict=True)
    outputs = zip(spec.outputs, interpreter.get_output_details(), strict=True)
    return (
        tuple(port(tensor.name, detail, LAYOUT if spec.image else None) for tensor, detail in inputs),
        tuple(port(tensor.name, detail, None) for tensor, detail in outputs),
    )
