"""Graphs: the torch.export programs that all targets convert; static int8 by pt2e quantization."""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchao.quantization.pt2e.quantize_pt2e as pt2e  # also registers quantized_decomposed, which saved graphs need

from pipeline.core import BiasCorrection, ModelSpec, Operation, Recipe, Sensitivity
from pipeline.errors import BadModel, StageFailed, first_line, origin
from pipeline.frameworks import _bias_correction, _int8_constants, _layers, _normalization, _quantizer, _sensitivity
from pipeline.frameworks._normalization import network_inputs
from pipeline.targets import _graph_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs

FLOAT, FOLDED, UNFOLDED = "float.pt2", "quantized.pt2", "unfolded.pt2"
"""Files in a graphs folder. A quantized graph is stored twice: with int8 weights, and with float weights that the graph
quantizes, as litert-torch requires."""


def exported(net: torch.nn.Module, spec: ModelSpec) -> Any:
    """Exports a module as one torch.export program with a dynamic batch size, for all targets.

    Args:
        net: a `WithNormalization`, or a module with the same input and output.

    Raises:
        BadModel: torch.export cannot export the model's code.
    """
    for module in net.modules():
        module._non_persistent_buffers_set.clear()  # ExecuTorch refuses programs with such buffers
    program = traced(net, spec)
    try:
        rewritten = _layers.simplified(program)
    except Exception as error:  # a rewrite meets graphs that its author did not
        raise BadModel(f"the graph of {spec.name} cannot be simplified: {first_line(error)}{origin(error)}") from error
    return program if rewritten is None else traced(rewritten, spec)


def traced(net: torch.nn.Module, spec: ModelSpec) -> Any:
    """What torch.export makes of a module; the program shares the module's weights.

    Raises:
        BadModel: torch.export cannot export the model's code.
    """
    # Random instead of zeros, because some networks check values. Two samples, because torch.export specialises on 1.
    given = _normalization.example(spec, 2)
    try:
        return torch.export.export(net, (given,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    except Exception as error:  # torch.export raises whatever the model's code raises
        raise BadModel(f"torch.export cannot export {spec.name}: {first_line(error)}{origin(error)}") from error


def quantize(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], folder: Path, recipe: Recipe
) -> BiasCorrection | None:
    """See `Framework.quantize`: pt2e with our own quantizer, whose graphs all targets can lower."""
    prepared, correction = calibrated(captured, value_range, images, recipe), None
    if recipe.bias_correction != "off":
        correction = _bias_correction.correct(prepared, images, always=recipe.bias_correction == "on")
    convert(prepared, images, folder)
    return correction


def calibrated(captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], recipe: Recipe) -> Any:
    """The float graph with pt2e's observers, which have seen the calibration set.

    Raises:
        StageFailed: the quantizer cannot quantize the graph.
    """
    program = load(captured / FLOAT)
    left = _graph_layers.left(program, recipe)
    try:
        module = _layers.with_own_weights(program.module())
        prepared = pt2e.prepare_pt2e(
            module, _quantizer.GraphQuantizer(lambda node: node.name in left or _standardizes(node))
        )
    except Exception as error:  # a quantizer meets graphs that its authors did not
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise StageFailed(f"the quantizer cannot quantize the graph{_node_of(error)}: {reason}") from error
    if recipe.weights == "int4":
        dtypes = _graph_layers.excepted(program, recipe)
        _int8_constants.narrow_weights(prepared, lambda node: dtypes.get(node.name) == "int8")
    with torch.no_grad():
        for start in range(0, len(images), 32):
            outputs = prepared(network_inputs(torch.from_numpy(images[start : start + 32])))
            if not all(torch.isfinite(each).all() for each in _normalization.tensors(outputs)):
                last = min(start + 32, len(images)) - 1
                raise StageFailed(f"calibration images {start} to {last} give NaN or infinity")
    if value_range is not None:
        _int8_constants.pin_input_ranges(prepared, value_range)
    return prepared


def _standardizes(node: Any) -> bool:
    """Whether a node is of the normalisation of an input that is no image, which stays in float."""
    arithmetic = node.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor)
    return arithmetic and any(str(getattr(each, "target", "")).startswith("normalize.") for each in node.args)


def convert(prepared: Any, images: NDArray[Any], folder: Path) -> None:
    """Writes the quantized graph of a module with calibrated observers, or fake quantizers, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    example = network_inputs(torch.from_numpy(images[:2]))
    for name, fold in ((FOLDED, True), (UNFOLDED, False)):
        converted = pt2e.convert_pt2e(copy.deepcopy(prepared), fold_quantize=fold)
        _int8_constants.round_constants(converted)
        _int8_constants.drop_clamps(converted)
        graph = torch.export.export(converted, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        save(graph, folder / name)


def sensitivity(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], recipe: Recipe
) -> Sensitivity:
    """See `Framework.sensitivity`."""
    names = {node.name: operation.name for node, operation in _graph_layers.operations(load(captured / FLOAT))}
    return _sensitivity.measure(calibrated(captured, value_range, images, recipe), names, images)


def operations(captured: Path) -> tuple[Operation, ...]:
    """See `Framework.operations`."""
    return tuple(operation for _, operation in _graph_layers.operations(load(captured / FLOAT)))


def evaluate(folder: Path, images: NDArray[Any]) -> Outputs:
    """See `Framework.evaluate`."""
    module = load(_graph_file(folder)).module()
    with torch.no_grad():
        batches = [torch.from_numpy(images[start : start + 64]) for start in range(0, len(images), 64)]
        return _normalization.joined(module(network_inputs(batch)) for batch in batches)


def steps(folder: Path) -> tuple[float | None, ...]:
    """See `Framework.steps`: the scales of the last dequantize operations."""
    outputs = load(_graph_file(folder)).graph.output_node().args[0]
    return tuple(float(output.args[1]) if "dequantize_per_tensor" in str(output.target) else None for output in outputs)


def program(captured: Path, quantized: Path | None, name: str) -> Any:
    """One of the programs of a `Source`, with a batch size of 1; None if the folders have none of that name."""
    if name == "separate":
        return _with_batch_of_one(captured / FLOAT, _layers.with_own_weights)
    paths = {"program": captured / FLOAT}
    if quantized is not None:
        paths |= {"quantized": quantized / FOLDED, "unfolded": quantized / UNFOLDED}
    return _with_batch_of_one(paths[name]) if name in paths else None


def save(program: Any, path: Path) -> None:
    """Saves a program. Serializes it in memory first, because torch's writer aborts the process if the disk is full."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def load(path: Path) -> Any:
    """Loads a saved program."""
    return torch.export.load(path)


def _node_of(error: BaseException) -> str:
    """The operator that the quantizer was working on, from the local variables of the innermost call that has one."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, torch.fx.Node) and value.op == "call_function":
                found = f" at {value.target} ({value.name})"
    return found


def _graph_file(folder: Path) -> Path:
    return folder / FOLDED if (folder / FOLDED).is_file() else folder / FLOAT


def _with_batch_of_one(path: Path, rewrite: Callable[[Any], Any] = lambda module: module) -> Any:
    """The program in `path` with its dynamic batch size fixed at 1, as devices run it."""
    program = load(path)
    (image,) = program.example_inputs[0]
    return torch.export.export(rewrite(program.module()), (image[:1].clone(),))
