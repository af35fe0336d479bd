"""Prints the content of exported files as JSON: `python -m tests.targets.inspect_files STORE FRAMEWORK`.

A separate process, because the readers import frameworks that conflict in one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.registry import import_order
from pipeline.system.store import Store


def graph(folder: Path) -> dict[str, Any]:
    """Scales of the activations in the quantized graph."""
    import torch
    import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401  # registers quantized_decomposed

    nodes = torch.export.load(folder / "quantized.pt2").graph.nodes
    scales = [float(node.args[1]) for node in nodes if str(node.target).endswith("quantize_per_tensor.default")]
    return {"scales": sorted(set(scales))}


def onnx(path: Path) -> dict[str, Any]:
    """Operators, scales of activations (scalars), input names, and the number of metadata entries."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return {
        "operators": [node.op_type for node in model.graph.node],
        "scales": sorted({float(values[node.input[1]]) for node in quantizers if values[node.input[1]].size == 1}),
        "inputs": [value.name for value in model.graph.input],
        "metadata": sum(len(node.metadata_props) for node in model.graph.node),
    }


def coreml(path: Path) -> dict[str, Any]:
    """Operators, and the scales of `quantize` operators.

    Reads only the program, because coremltools rewrites a package's manifest when it opens the package.
    """
    import coremltools

    program = coremltools.utils.load_spec(str(path / "Data/com.apple.CoreML/model.mlmodel")).mlProgram
    (block,) = program.functions["main"].block_specializations.values()
    constants = {o.outputs[0].name: o.attributes["val"] for o in block.operations if o.type == "const"}

    def scale(operation: Any) -> float:
        (argument,) = operation.inputs["scale"].arguments
        value = argument.value if argument.HasField("value") else constants[argument.name]
        return float(value.immediateValue.tensor.floats.values[0])

    return {
        "operators": [operation.type for operation in block.operations],
        "scales": sorted({scale(operation) for operation in block.operations if operation.type == "quantize"}),
    }


def main(root: Path, framework: str) -> None:
    """Inspects all ONNX and Core ML files of the tiny model."""
    import_order()
    build = Store(root)
    found: dict[str, Any] = {"graph": graph(build.graphs("tiny", framework, "int8"))}
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    for target, inspect in (("onnx", onnx), ("coreml", coreml)):
        for path in sorted(build.home("tiny", framework).glob(f"*/{target}/model.*")):
            found[f"{target} {path.parents[1].name}"] = inspect(path)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
