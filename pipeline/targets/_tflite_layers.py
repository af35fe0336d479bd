"""The layers of a .tflite file, for its coverage."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from pipeline.targets._coverage import TWO_ACTIVATIONS, Layer

WEIGHTS = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1, "BATCH_MATMUL": 1,
}  # fmt: skip
"""Operators that multiply and add → the place of the weight among the inputs."""
LEFT = "the converter's quantizer leaves this layer in float"


def layers(content: bytes) -> Iterator[Layer]:
    """The layers in the order of the file. A weight counts as quantized if the file stores it in 8 bits or fewer."""
    from ai_edge_litert import schema_py_generated as schema

    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    narrow = {schema.TensorType.INT8, schema.TensorType.INT4, schema.TensorType.UINT8}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        unpacked = {}  # a dequantized tensor → the stored one
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            kind = operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if kind == "DEQUANTIZE":
                unpacked[operation.outputs[0]] = operation.inputs[0]
            if kind not in WEIGHTS:
                continue
            place = operation.inputs[WEIGHTS[kind]]
            weight = graph.tensors[unpacked.get(place, place)]
            buffer = model.buffers[weight.buffer]
            constant = buffer.data is not None or buffer.size > 0  # a large one is stored outside the table
            output = graph.tensors[operation.outputs[0]]
            sizes = [graph.tensors[i].shape.tolist() for i in operation.inputs if i >= 0]
            reason = None if weight.type in narrow else LEFT if constant else TWO_ACTIVATIONS
            yield Layer(
                output.name.decode(errors="replace").split(";")[0],
                kind,
                prod(weight.shape.tolist()) if constant else 0,
                _multiply_adds(kind, sizes, weight.shape.tolist(), output.shape.tolist()),
                reason,
                ";".join(graph.tensors[i].name.decode(errors="replace") for i in operation.outputs) + ";",
            )


def _multiply_adds(kind: str, inputs: list[Any], weight: list[int], output: list[int]) -> int:
    if kind == "TRANSPOSE_CONV":
        return int(prod(inputs[2]) * prod(weight[:3]))
    if kind == "BATCH_MATMUL":
        return int(prod(output) * inputs[0][-1])
    if kind == "DEPTHWISE_CONV_2D":
        return prod(output) * prod(weight[1:3])
    return prod(output) * (prod(weight[:-1]) if kind == "CONV_3D" else prod(weight[1:]))
