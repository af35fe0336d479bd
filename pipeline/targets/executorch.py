"""ExecuTorch (.pte), lowered to XNNPACK. Other operators run in portable kernels and are listed in the notes."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, Recipe
from pipeline.registry import extra
from pipeline.targets import Exported, Source, _recipes, only_programs, ports
from pipeline.targets._weight_quantization import quantize_linear_layers, quantize_weights

SUFFIX = ".pte"
RUNTIME: str | None = "executorch"
UNCHECKED: str | None = None
LAYOUT = "NCHW"
TOOLS: tuple[str, ...] = ("executorch", "torch", "torchao")
EXTRA = "executorch"
SUMMARY = "ExecuTorch with XNNPACK: phones and boards, from PyTorch"

_SLOW_WEIGHTS = (
    "XNNPACK has no convolution with int8 weights and float activations: ExecuTorch's portable kernels unpack the "
    "weights at every inference (small, but slow)"
)
_HALF = (
    "a float input and the outputs are float32; everything in between is half precision",
    "ExecuTorch's XNNPACK backend stores convolution weights as float32 anyway: the file is not smaller",
)
_DEPTHWISE = "XNNPACK cannot quantize activations at run time for convolutions with one input channel per group"


def supports(recipe: Recipe, framework: str) -> str | None:
    """Every recipe except those with palettes; int4 weights with dynamic activations only."""
    if (recipe.weights, recipe.activations) == ("int4", "float32"):
        return "XNNPACK has int4 weights with activations quantized at run time only: int4_dynamic"
    if (recipe.weights, recipe.activations) == ("int4", "int8_dynamic") and recipe.block and recipe.block % 32:
        return f"XNNPACK's blocks of int4 weights are multiples of 32, not {recipe.block}"
    return only_programs(framework) or _recipes.unsupported(recipe, (("int4", "int8_dynamic"),), (recipe.block or 32,))


def export(source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
    """Lowers the program for XNNPACK and writes the .pte file; see `Target.export`."""
    with extra(EXTRA):
        import executorch.kernels.quantized  # noqa: F401  # kernels of quantized_decomposed, for operators outside XNNPACK
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from pipeline.targets import _graph_layers

    program, notes = _program(source, recipe)
    edge = to_edge_transform_and_lower(
        _without_hard_sigmoid(program),
        partitioner=[XnnpackPartitioner()],
        # The verifier does not support quantized_decomposed's per-channel operators.
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    outside = _outside(edge.exported_program())
    lowered = edge.to_executorch()
    with out.open("wb") as file:
        lowered.write_to_file(file)
    delegated = f"outside XNNPACK: {', '.join(outside)}" if outside else "runs entirely in XNNPACK"
    return Exported(
        *ports(spec, LAYOUT),
        quantized_by=_quantized_by(recipe),
        notes=(delegated, *notes),
        coverage=_graph_layers.coverage(program, source.program, recipe, _DEPTHWISE) if recipe.quantized else None,
    )


def _without_hard_sigmoid(program: Any) -> Any:
    """The program with relu6(x + 3) / 6 for hard-sigmoid.

    ExecuTorch makes the same of it, with two copies from float32 to float32, which XNNPACK cannot take: a network with
    nine squeeze-and-excite blocks would be in 19 pieces. 3 and 6 are tensors, because XNNPACK takes no numbers.
    """
    import torch

    ops = torch.ops.aten
    forms = (ops.hardsigmoid.default, ops.hardsigmoid_.default)
    if all(node.target not in forms for node in program.graph.nodes):
        return program
    module = program.module()
    graph = module.graph
    for name, value in (("three", 3.0), ("six", 6.0)):
        module.register_buffer(f"hard_sigmoid_{name}", torch.tensor([value]))
    for node in list(graph.nodes):
        if node.target in forms:
            with graph.inserting_before(node):
                three, six = (graph.get_attr(f"hard_sigmoid_{name}") for name in ("three", "six"))
                raised = graph.call_function(ops.add.Tensor, (node.args[0], three))
                limited = graph.call_function(ops.relu6.default, (raised,))
                result = graph.call_function(ops.div.Tensor, (limited, six))
            node.replace_all_uses_with(result)
            graph.erase_node(node)
    module.recompile()
    return torch.export.export(module, program.example_inputs[0])


def _quantized_by(recipe: Recipe) -> str | None:
    if recipe.static:
        return "graph"
    if recipe.weights == "int4":
        return "torchao"
    return "executorch" if recipe.weights == "int8" else None


def _program(source: Source, recipe: Recipe) -> tuple[Any, tuple[str, ...]]:
    """The program to lower, and notes for the user."""
    from pipeline.targets import _graph_layers

    if recipe.static:
        return source.quantized, ()
    if recipe.weights == "float16":
        return _half(source.separate), _HALF
    if recipe.weights == "int4":
        assert recipe.block is not None  # `supports` requires one
        return quantize_linear_layers(source.program, _graph_layers.left(source.program, recipe), recipe.block), ()
    if recipe.weights == "int8":
        dynamic = recipe.activations == "int8_dynamic"
        left = _graph_layers.left(source.separate, recipe)
        program, depthwise = quantize_weights(source.separate, left, dynamic)
        if not dynamic:
            return program, (_SLOW_WEIGHTS,)
        return program, (f"{_DEPTHWISE}: {depthwise} stay float",) if depthwise else ()
    return source.separate, ()


def _half(program: Any) -> Any:
    """The program in half precision. A float input and the outputs are float32."""
    import torch

    class Half(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: torch.Tensor) -> Any:
            return torch.utils._pytree.tree_map(
                torch.Tensor.float, self.inner(image.half() if image.is_floating_point() else image)
            )

    # .half() changes parameters in place, and other exports share the program's parameters.
    inner = copy.deepcopy(program).module().half()
    for node in inner.graph.nodes:  # a cast to float32, such as that of a mask
        node.args, node.kwargs = (torch.fx.node.map_aggregate(part, _narrowed) for part in (node.args, node.kwargs))
    inner.recompile()
    return torch.export.export(Half(inner), program.example_inputs[0])


def _narrowed(value: Any) -> Any:
    import torch

    return torch.float16 if value is torch.float32 else value


def _outside(program: Any) -> list[str]:
    """Operators that were not delegated, with their number: ["aten.mean.dim ×1"]."""
    names = Counter(
        node.target._schema.name.replace("::", ".")
        for node in program.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "_schema") and "delegate" not in str(node.target)
    )
    return [f"{name} ×{count}" for name, count in sorted(names.items())]
