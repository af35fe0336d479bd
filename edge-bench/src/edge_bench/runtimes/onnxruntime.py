"""ONNX Runtime on the CPU, with bound inputs and outputs, so that a run allocates no memory for them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from . import TensorInfo, _free

if TYPE_CHECKING:
    from . import Array, Session

SUFFIX = ".onnx"
DEFAULT = True
IMPORT = "onnxruntime"
DISTRIBUTION = "onnxruntime"
EXTRA = "onnxruntime"
COPIES_INPUT = False

DTYPES = {"float": "float32", "double": "float64"}  # the others have numpy's names: tensor(int8), tensor(float16), …
ERRORS_ONLY = 3
# Source: onnx.proto: a tensor's external_data is a list of StringStringEntryProto, one with the key "location". In
# protobuf's encoding, that is field 1, 8 bytes, the key, and then field 2, the file's name.
EXTERNAL_DATA = b"\x0a\x08location\x12"


def library() -> Any:
    module = importlib.import_module(IMPORT)
    module.disable_telemetry_events()
    module.set_default_logger_severity(ERRORS_ONLY)
    return module


def check(path: Path) -> None:
    if files.contains(path, EXTERNAL_DATA):
        raise ValueError("it keeps weights in a second file; export it as one (torch.onnx.export: external_data=False)")


def load(path: Path, threads: int) -> Session:
    module = library()
    options = module.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return _Session(module, module.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


class _Session:
    delegate = "cpu"

    def __init__(self, module: Any, session: Any) -> None:
        for node in session.get_inputs():
            _free.check(node.name, [size if isinstance(size, int) else -1 for size in node.shape])
        self.inputs = tuple(_info(node, unknown=1) for node in session.get_inputs())
        self.outputs = tuple(_info(node, unknown=-1) for node in session.get_outputs())
        self._session, self._binding = session, session.io_binding()
        self._values = []
        for info in self.inputs:
            value = module.OrtValue.ortvalue_from_numpy(np.zeros(info.shape, info.dtype))
            self._binding.bind_ortvalue_input(info.name, value)
            self._values.append(value)
        for info in self.outputs:
            if -1 in info.shape:  # unknown size: the runtime allocates this output in every run
                self._binding.bind_output(info.name)
            else:
                value = module.OrtValue.ortvalue_from_shape_and_type(info.shape, np.dtype(info.dtype).type)
                self._binding.bind_ortvalue_output(info.name, value)

    def set(self, arrays: Sequence[Array]) -> None:
        self._arrays = [np.ascontiguousarray(array) for array in arrays]
        self.refill()

    def refill(self) -> None:
        for value, array in zip(self._values, self._arrays):
            value.update_inplace(array)

    def invoke(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def get(self) -> list[Array]:
        return [np.array(value.numpy()) for value in self._binding.get_outputs()]


def _info(node: Any, unknown: int) -> TensorInfo:
    """Args: unknown: for sizes that the file leaves open: 1 for inputs (batch size 1), -1 for outputs."""
    kind = node.type.replace("tensor(", "").rstrip(")")
    shape = tuple(size if isinstance(size, int) else unknown for size in node.shape)
    return TensorInfo(name=node.name, shape=shape, dtype=DTYPES.get(kind, kind))
