"""The interpreter that litert and tflite_runtime share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import TensorInfo, _free

if TYPE_CHECKING:
    from . import Array


class Session:
    """A .tflite model in an interpreter, which uses XNNPACK by default."""

    def __init__(self, interpreter: Any) -> None:
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._interpreter = interpreter
        self._input_ids = [details["index"] for details in inputs]
        self._output_ids = [details["index"] for details in outputs]
        self.inputs = tuple(_info(details) for details in inputs)
        self.outputs = tuple(_info(details) for details in outputs)
        self.invoke = interpreter.invoke

    @property
    def delegate(self) -> str:
        # The interpreter adds XNNPACK if it can, without reporting it; its list of operations shows whether it did.
        used = any(operation["op_name"] == "DELEGATE" for operation in self._interpreter._get_ops_details())
        return "xnnpack" if used else "cpu"

    def set(self, arrays: Sequence[Array]) -> None:
        self._arrays = arrays
        self.refill()

    def refill(self) -> None:
        for index, array in zip(self._input_ids, self._arrays):
            self._interpreter.set_tensor(index, array)

    def get(self) -> list[Array]:
        return [self._interpreter.get_tensor(index) for index in self._output_ids]


def load(module: Any, path: Path, threads: int) -> Session:
    """Loads the model in `path` into the Interpreter of `module`."""
    interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
    for details in interpreter.get_input_details():
        _free.check(details["name"], details["shape_signature"])
    return Session(interpreter)


def _info(details: Any) -> TensorInfo:
    """Source: the interpreter's tensor details. A single scale means per-tensor quantization, the only kind that inputs
    and outputs have."""
    quantization = details["quantization_parameters"]
    quantized = len(quantization["scales"]) == 1
    return TensorInfo(
        name=details["name"],
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
        scale=float(quantization["scales"][0]) if quantized else None,
        zero_point=int(quantization["zero_points"][0]) if quantized else None,
    )
