"""ExecuTorch through its Python bindings, with XNNPACK and the quantized kernels registered."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files
from . import TensorInfo, _executorch

if TYPE_CHECKING:
    from . import Array, Session

SUFFIX = ".pte"
DEFAULT = True
# The bindings themselves. The public names (executorch.runtime, portable_lib) re-export them after importing all of
# the exporter: 220 MB of resident memory and several seconds that a device has no use for, and that a measured peak
# would count.
IMPORT = "executorch.extension.pybindings._C"
DISTRIBUTION = "executorch"
EXTRA = "executorch"


def library() -> Any:
    importlib.import_module("torch")  # the bindings link against torch's libraries and do not load them themselves
    module = importlib.import_module(IMPORT)
    importlib.import_module("executorch.kernels.quantized")  # registers the quantized operators outside XNNPACK
    return module


def check(path: Path) -> None:
    """A program that keeps weights in a .ptd file does not load without it, so nothing is left to check."""


def load(path: Path, threads: int) -> Session:
    module = library()
    # The pool starts with a thread a core. XNNPACK takes it when a method is loaded, so it is set before that.
    module._unsafe_reset_threadpool(threads)
    if module._threadpool_get_thread_count() != threads:
        raise RuntimeError(f"the thread pool has {module._threadpool_get_thread_count()} threads, not {threads}")
    program = module._load_program(str(path))
    return _Session(path, program, program.load_method("forward"))


class _Session:
    def __init__(self, path: Path, program: Any, method: Any) -> None:
        meta = method.method_meta()
        inputs = [meta.input_tensor_meta(index) for index in range(meta.num_inputs())]
        outputs = [meta.output_tensor_meta(index) for index in range(meta.num_outputs())]
        self._path, self._method = path, method
        self._program = program  # kept: the method runs in the program's memory
        self._from_numpy = importlib.import_module("torch").from_numpy
        self.inputs = tuple(_info(f"input_{index}", tensor) for index, tensor in enumerate(inputs))
        self.outputs = tuple(_info(f"output_{index}", tensor) for index, tensor in enumerate(outputs))
        self.invoke = method.execute

    @property
    def delegate(self) -> str:
        # The bindings do not tell which backends a program calls; the program names them.
        return "xnnpack" if files.contains(self._path, b"XnnpackBackend") else "cpu"

    def set(self, arrays: Sequence[Array]) -> None:
        # Kept: the runtime copies an input only where the program has planned memory for it.
        self._tensors = [self._from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays]
        self.refill()

    def refill(self) -> None:
        self._method.set_inputs(self._tensors)

    def get(self) -> list[Array]:
        return [tensor.numpy() for tensor in self._method.get_outputs(clone_outputs=True)]


def _info(name: str, tensor: Any) -> TensorInfo:
    """The format has no scale for an input or output, so a quantized one is a plain int8 tensor here."""
    return TensorInfo(name, tuple(tensor.sizes()), _executorch.dtype(tensor.dtype()))
