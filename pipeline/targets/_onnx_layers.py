"""The layers of an ONNX model that onnxruntime's quantizers made, for its coverage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

from pipeline.targets._coverage import TWO_ACTIVATIONS, Layer

FLOAT = ("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN")
QUANTIZED = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM")
LEFT = "onnxruntime's quantizer leaves this operator in float"


def layers(model: Any) -> Iterator[Layer]:
    """The layers in the order of the graph."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants = set(shapes)
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    for node in graph.node:
        if node.op_type not in FLOAT + QUANTIZED:
            continue
        value, factor = (shapes.get(name, [0]) for name in node.input[:2])
        constant = node.input[1] in constants
        recurrent = node.op_type.endswith(("GRU", "LSTM", "RNN"))
        weights = prod(factor) * constant + (prod(shapes[node.input[2]]) if recurrent else 0)
        yield Layer(
            node.name or node.output[0],
            node.op_type,
            weights,
            weights * value[0] if recurrent else _multiply_adds(node.op_type, value, factor, shapes[node.output[0]]),
            None if node.op_type in QUANTIZED else LEFT if constant else TWO_ACTIVATIONS,
        )


def with_packed(layers: Iterable[Layer], model: Any) -> Iterator[Layer]:
    """The layers of a float model, after onnxruntime's 4-bit quantizer replaced some by nodes of almost the same name.

    ONNX cannot tell the shapes of the new nodes, which are onnxruntime's own.
    """
    packed = {node.name.removesuffix("_Q4") for node in model.graph.node if node.op_type == "MatMulNBits"}
    for layer in layers:
        yield replace(layer, reason=None) if layer.name in packed else layer


def _multiply_adds(operator: str, value: list[int], factor: list[int], output: list[int]) -> int:
    if operator == "ConvTranspose":
        return prod(value) * prod(factor[1:])
    return prod(output) * (prod(factor[1:]) if operator.startswith("Conv") else value[-1])
