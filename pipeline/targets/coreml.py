"""Core ML (.mlpackage, ML program, iOS 17; int4: iOS 18). coremltools converts on Linux; only Apple systems run it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, Recipe, Tensor
from pipeline.registry import extra
from pipeline.targets import Exported, Source, _coverage, _recipes, only_programs, ports
from pipeline.targets._coverage import Layer

SUFFIX = ".mlpackage"
RUNTIME: str | None = None
UNCHECKED: str | None = "not checked by Lastmile: Core ML runs on Apple systems only"
LAYOUT = "image"
TOOLS: tuple[str, ...] = ("coremltools", "torch", "torchao")
EXTRA = "coreml"
SUMMARY = "Core ML: iPhone, iPad, Mac"


_LEFT = "coremltools leaves this operator in float"
_NOTES = {"float16": ("float16 arithmetic",), "iOS18": ("needs iOS 18 or macOS 15",)}


def supports(recipe: Recipe, framework: str) -> str | None:
    """Every recipe except those with dynamic activations."""
    if recipe.activations == "int8_dynamic":
        weights = "int4" if recipe.weights == "int4" else "int8"
        return f"Core ML cannot quantize activations at run time; {weights}_weight_only stores the same weights"
    more = (("int4", "float32"), ("palette4", "float32"), ("palette6", "float32"))
    return only_programs(framework) or _recipes.unsupported(recipe, more, (None, recipe.block))


def export(source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
    """Converts and saves the .mlpackage folder; see `Target.export`."""
    # coremltools imports tensorflow if it is installed, which converting a torch program does not need. Preventing it
    # saves 4 s, and avoids importing triton after tensorflow, which crashes the process.
    if "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    with extra(EXTRA):
        import coremltools  # noqa: F401
    from pipeline.targets import _graph_layers

    given, outputs = _Input(spec.inputs[0], spec.image is not None), tuple(output.name for output in spec.outputs)
    precision = "FLOAT16" if recipe.weights == "float16" else "FLOAT32"
    packed = recipe.weights == "int4" and not recipe.static  # static graphs store all weights as int8
    system = "iOS18" if packed else "iOS17"
    model = _convert(source.quantized if recipe.static else source.program, given, outputs, precision, system)
    quantized_by, coverage = None, None
    if recipe.static:
        quantized_by, coverage = "graph", _graph_layers.coverage(source.quantized, source.program, recipe)
    elif recipe.quantized:
        left = [layer.name for layer in _graph_layers.placed(_layers(model), source.program, recipe)]
        model, quantized_by = _weights_only(model, recipe, left), "coremltools"
        coverage = _coverage.total(_graph_layers.named(_layers(model), source.program, recipe))
    model.user_defined_metadata.clear()  # contains the date, which would make equal exports differ
    model.save(str(out))
    (out / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # for a debugger; half of the package
    _fixed_order(out)
    _fixed_identifiers(out)
    return Exported(
        *ports(spec, LAYOUT, dtype="uint8"),
        quantized_by=quantized_by,
        notes=_NOTES.get("iOS18" if packed else recipe.weights, ()),
        coverage=coverage,
    )


@dataclass(frozen=True)
class _Input:
    """The input of a program."""

    tensor: Tensor
    image: bool

    def described(self) -> Any:
        """An image, or an array in the spec's shape and dtype."""
        import coremltools as ct
        import numpy as np

        if not self.image:
            dtype = np.dtype(self.tensor.dtype).type
            return ct.TensorType(name=self.tensor.name, shape=(1, *self.tensor.shape), dtype=dtype)
        height, width, channels = self.tensor.shape
        layout = {1: ct.colorlayout.GRAYSCALE, 3: ct.colorlayout.RGB}[channels]
        return ct.ImageType(name=self.tensor.name, shape=(1, channels, height, width), color_layout=layout)


@functools.lru_cache(maxsize=2)
def _convert(program: Any, given: _Input, outputs: tuple[str, ...], precision: str, system: str) -> Any:
    """Converts a torch program to an ML program. Cached, because two recipes start from it."""
    import coremltools as ct

    return ct.convert(
        _decomposed(program),
        inputs=[given.described()],
        outputs=[ct.TensorType(name=name) for name in outputs],
        minimum_deployment_target=getattr(ct.target, system),
        compute_precision=getattr(ct.precision, precision),
    )


def _decomposed(program: Any) -> Any:
    """The program in the operators that coremltools knows: no recurrent layers or pooling without a stride, and no
    operators that PyTorch makes of others, such as not_equal."""
    import torch
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    ops = torch.ops.aten
    known = torch.export.default_decompositions()
    recurrent = {operator for operator in known if str(operator).startswith(("aten.lstm", "aten.gru"))}
    used = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    unknown = {operator for operator in used if operator in known and not _TORCH_OPS_REGISTRY.get_func(str(operator))}
    found = program.run_decompositions({operator: known[operator] for operator in recurrent | unknown})
    for node in list(found.graph.nodes):
        if node.target == ops.max_pool2d.default and len(node.args) == 2:
            node.args = (*node.args, node.args[1])
        if node.target == ops.alias.default:
            node.replace_all_uses_with(node.args[0])
            found.graph.erase_node(node)
    found.graph_module.recompile()
    return found


def _weights_only(model: Any, recipe: Recipe, left: list[str]) -> Any:
    """Quantizes all weights whatever their size, or those of linear layers to int4, except in the operations `left`."""
    import coremltools.optimize.coreml as optimize

    linear, palettize = optimize.OpLinearQuantizerConfig, optimize.OpPalettizerConfig
    excepted = dict.fromkeys(left)
    if recipe.weights.startswith("palette"):
        bits = int(recipe.weights.removeprefix("palette"))
        palette = palettize(mode="kmeans", nbits=bits, weight_threshold=0)
        return optimize.palettize_weights(
            model, config=optimize.OptimizationConfig(global_config=palette, op_name_configs=excepted)
        )
    if recipe.weights == "int4":
        blocks = {"granularity": "per_block", "block_size": recipe.block} if recipe.block else {}
        int4 = linear(mode="linear_symmetric", dtype="int4", weight_threshold=0, **blocks)
        config = optimize.OptimizationConfig(op_type_configs={"linear": int4}, op_name_configs=excepted)
    else:
        int8 = linear(mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0)
        config = optimize.OptimizationConfig(global_config=int8, op_name_configs=excepted)
    return optimize.linear_quantize_weights(model, config=config)


def _layers(model: Any) -> Iterator[Layer]:
    """The program's layers with weights."""
    for operation in model._mil_program.functions["main"].operations:
        weight = operation.inputs.get("weight" if operation.op_type != "matmul" else "y")
        if operation.op_type not in ("conv", "conv_transpose", "linear", "matmul") or weight.op is None:
            continue
        size = prod(
            operation.inputs["x"].shape if operation.op_type == "conv_transpose" else operation.outputs[0].shape
        )
        each = weight.shape[-2] if operation.op_type == "matmul" else prod(weight.shape[1:])
        constant = weight.op.op_type.startswith("const")
        stored = weight.op.op_type.startswith("constexpr")
        reason = None if stored else _LEFT if constant else _coverage.TWO_ACTIVATIONS
        yield Layer(operation.name, operation.op_type, prod(weight.shape) * constant, int(size * each), reason)


def _fixed_order(package: Path) -> None:
    """Rewrites the program with its maps sorted by key, because protobuf's order differs between processes."""
    from coremltools.proto.Model_pb2 import Model

    file = package / "Data/com.apple.CoreML/model.mlmodel"
    program = Model()
    program.ParseFromString(file.read_bytes())
    file.write_bytes(program.SerializeToString(deterministic=True))


def _fixed_identifiers(package: Path) -> None:
    """Replaces the package's random item identifiers by hashes of the paths, so that equal exports are equal files."""
    import json
    import uuid

    manifest = package / "Manifest.json"
    value = json.loads(manifest.read_text())
    new = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in value["itemInfoEntries"].items()}
    value["itemInfoEntries"] = {new[old]: entry for old, entry in sorted(value["itemInfoEntries"].items(), key=_path)}
    value["rootModelIdentifier"] = new[value["rootModelIdentifier"]]
    manifest.write_text(json.dumps(value, indent=4) + "\n")


def _path(item: tuple[str, dict[str, str]]) -> str:
    return item[1]["path"]
