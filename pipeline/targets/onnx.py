"""ONNX for onnxruntime, with PyTorch's exporter; static int8 as QDQ from the shared quantized graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, Port, Recipe
from pipeline.registry import extra
from pipeline.targets import Exported, Source, _coverage, _onnx_layers, _recipes, only_programs
from pipeline.targets._same_operators import Place
from pipeline.targets._weight_quantization import quantize_weights

SUFFIX = ".onnx"
RUNTIME: str | None = "onnxruntime"
UNCHECKED: str | None = None
LAYOUT = "NCHW"
TOOLS: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime", "torch")
EXTRA = "onnx"
SUMMARY = "ONNX for onnxruntime: servers, desktops, phones, boards"


def supports(recipe: Recipe, framework: str) -> str | None:
    """Every recipe."""
    return only_programs(framework) or _recipes.unsupported(recipe)


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
        notes = ("takes and returns float32; onnxruntime's CPU kernels compute most operators in float32",)
    elif recipe.activations == "int8_dynamic":
        model, quantized_by = _dynamic(_convert(source.program, spec), out), "onnxruntime"
        coverage = _coverage.total(_graph_layers.named(_onnx_layers.layers(model), source.program))
    else:
        program, _ = quantize_weights(source.separate)
        model, quantized_by = _convert(program, spec), "torchao"
        coverage = _graph_layers.coverage(program, source.program, recipe)
        notes = ("onnxruntime unpacks the weights at every inference",)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)
    image = spec.inputs[0]
    height, width, channels = image.shape
    return Exported(
        inputs=(Port(image.name, (1, channels, height, width), "float32", LAYOUT),),
        outputs=tuple(Port(o.name, (1, *o.shape), "float32") for o in spec.outputs),
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


def _dynamic(model: Any, out: Path) -> Any:
    """Quantizes with onnxruntime's dynamic quantizer, which reads and writes files."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    float_file = out.with_name(f"{out.name}.float")
    try:
        onnx.save(model, float_file)
        quantize_dynamic(float_file, out, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        float_file.unlink(missing_ok=True)
    return onnx.load(out)
