"""ONNX for onnxruntime, with PyTorch's exporter; static int8 as QDQ from the shared quantized graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, Recipe
from pipeline.registry import extra
from pipeline.targets import Exported, Source, _coverage, _onnx_layers, _recipes, only_programs, ports
from pipeline.targets._same_operators import Place
from pipeline.targets._weight_quantization import quantize_weights

SUFFIX = ".onnx"
RUNTIME: str | None = "onnxruntime"
UNCHECKED: str | None = None
LAYOUT = "NCHW"
TOOLS: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime", "torch")
EXTRA = "onnx"
BLOCKS = (16, 32, 64, 128, 256)
"""Blocks of int4 weights that onnxruntime's MatMulNBits has."""
SUMMARY = "ONNX for onnxruntime: servers, desktops, phones, boards"


def supports(recipe: Recipe, framework: str) -> str | None:
    """Every recipe except those with palettes; int4 weights in blocks only."""
    more = (("int4", "float32"), ("int4", "int8_dynamic"))
    return only_programs(framework) or _recipes.unsupported(recipe, more, BLOCKS)


def export(source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
    """Exports and writes the .onnx file; see `Target.export`."""
    with extra(EXTRA):
        import onnx
    from pipeline.targets import _graph_layers

    notes: tuple[str, ...] = ()
    quantized_by, coverage = None, None
    if recipe.static:
        model, quantized_by = _convert(source.quantized, spec), "graph"
        coverage = _graph_layers.coverage(source.quantized, source.program, recipe)
    elif recipe.weights == "float32":
        model = _convert(source.program, spec)
    elif recipe.weights == "float16":
        model = _half(_convert(source.program, spec))
        notes = (
            "a float input and the outputs are float32; onnxruntime's CPU kernels compute most operators in float32",
        )
    elif recipe.weights == "int4" or recipe.activations == "int8_dynamic":
        model = _with_products(_convert(source.program, spec))
        layers = list(_onnx_layers.layers(model))
        left = [layer.name for layer in _graph_layers.placed(layers, source.program, recipe)]
        if recipe.weights == "int4":
            model = _int4(model, recipe, left)
            layers = list(_onnx_layers.with_packed(layers, model))
        else:
            model = _dynamic(model, out, left)
            layers = list(_onnx_layers.layers(model))
        coverage, quantized_by = _coverage.total(_graph_layers.named(layers, source.program, recipe)), "onnxruntime"
    else:
        program, _ = quantize_weights(source.separate, _graph_layers.left(source.separate, recipe))
        model, quantized_by = _convert(program, spec), "torchao"
        coverage = _graph_layers.coverage(program, source.program, recipe)
        notes = ("onnxruntime unpacks the weights at every inference",)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
    return Exported(
        *ports(spec, LAYOUT),
        quantized_by=quantized_by,
        notes=notes,
        coverage=coverage,
    )


def with_outputs(file: Path, other: Path, outputs: Sequence[int], out: Path) -> list[Place | None]:
    """See `Target`."""
    from pipeline.targets import _onnx_outputs

    return _onnx_outputs.with_outputs(file, other, outputs, out)


def _convert(program: Any, spec: ModelSpec) -> Any:
    """Converts a torch program to an ONNX model with the spec's names."""
    import torch

    converted = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        input_names=[tensor.name for tensor in spec.inputs],
        output_names=[tensor.name for tensor in spec.outputs],
    )
    assert converted is not None  # without a file name, the exporter returns the program
    return _without_metadata(converted.model_proto)


def _without_metadata(model: Any) -> Any:
    """Removes the metadata on each node's origin in the Python source, 20 kB for a model of 5 kB."""
    graph = model.graph
    del model.metadata_props[:], graph.value_info[:]
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def _half(model: Any) -> Any:
    """Converts with onnxruntime's converter, and sorts the nodes, which it returns unsorted."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    sorted_model = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    sorted_model.topological_sort()
    return sorted_model.model


def _with_products(model: Any) -> Any:
    """Replaces each Gemm of a linear layer by MatMul and Add.

    MatMulNBits replaces a MatMul only. The dynamic quantizer makes one of each Gemm, under its own name that cannot be
    excluded.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = given.get("alpha", 1) == given.get("beta", 1) == 1 and not given.get("transA")
        if node.op_type != "Gemm" or node.input[1] not in constants or not plain:
            nodes.append(node)
            continue
        matrix = numpy_helper.to_array(constants[node.input[1]])
        matrix = np.ascontiguousarray(matrix.T if given.get("transB") else matrix)
        weight, product = f"{node.name}_matrix", f"{node.name}_product"
        model.graph.initializer.append(numpy_helper.from_array(matrix, weight))
        last = len(node.input) < 3
        result = node.output[0] if last else product
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [result], name=product))
        if not last:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _int4(model: Any, recipe: Recipe, left: list[str]) -> Any:
    """Quantizes constant matrices to int4 in blocks, except in the nodes `left`."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    integer, real = 4, 1  # MatMulNBits's accuracy levels: its arithmetic
    config = DefaultWeightOnlyQuantConfig(
        block_size=recipe.block,
        is_symmetric=True,
        accuracy_level=integer if recipe.activations == "int8_dynamic" else real,
    )
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=left, algo_config=config)
    quantizer.process()
    return quantizer.model.model


def _dynamic(model: Any, out: Path, left: list[str]) -> Any:
    """Quantizes with onnxruntime's dynamic quantizer, which reads and writes files, except in the nodes `left`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    float_file = out.with_name(f"{out.name}.float")
    try:
        onnx.save(model, float_file)
        quantize_dynamic(float_file, out, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=left)
    finally:
        float_file.unlink(missing_ok=True)
    return onnx.load(out)
