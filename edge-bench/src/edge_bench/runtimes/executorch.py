"""ExecuTorch through its Python bindings, with XNNPACK and the quantized kernels registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import files, runtimes
from . import TensorInfo, _executorch

if TYPE_CHECKING:
    from . import Array, Session

SUFFIX = ".pte"
DEFAULT = True
# The bindings themselves. The public modules (executorch.runtime, portable_lib) import the whole exporter first, which
# takes several seconds and 220 MB of resident memory. The measured peak would include that.
IMPORT = "executorch.extension.pybindings._C"
DISTRIBUTION = "executorch"
EXTRA = "executorch"
COPIES_INPUT = False


def library() -> Any:
    if runtimes.own_process:
        # Functions for tensors without data, which nothing here uses: a quarter of the time that importing torch takes.
        sys.modules.setdefault("torch._meta_registrations", ModuleType("torch._meta_registrations"))
    importlib.import_module("torch")  # the bindings are linked against torch's libraries but do not load them
    module = importlib.import_module(IMPORT)
    importlib.import_module("executorch.kernels.quantized")  # registers quantized operators for use outside XNNPACK
    return module


def check(path: Path) -> None:
    """Nothing to check: a program with weights in a .ptd file does not load without it."""


def load(path: Path, threads: int) -> Session:
    module = library()
    # The pool starts with one thread per core. XNNPACK takes it when a method is loaded, so set its size before.
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
        self._program = program  # keeps it alive: the method runs in the program's memory
        self._from_numpy = importlib.import_module("torch").from_numpy
        self.inputs = tuple(_info(f"input_{index}", tensor) for index, tensor in enumerate(inputs))
        self.outputs = tuple(_info(f"output_{index}", tensor) for index, tensor in enumerate(outputs))
        self.invoke = method.execute

    @property
    def delegate(self) -> str:
        # The bindings do not report which backends a program calls, but the program contains their names.
        return "xnnpack" if files.contains(self._path, b"XnnpackBackend") else "cpu"

    def set(self, arrays: Sequence[Array]) -> None:
        # Keep them alive: the runtime copies an input only if the program has planned memory for it.
        self._tensors = [self._from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays]
        self.refill()

    def refill(self) -> None:
        self._method.set_inputs(self._tensors)

    def get(self) -> list[Array]:
        return [tensor.numpy() for tensor in self._method.get_outputs(clone_outputs=True)]


def _info(name: str, tensor: Any) -> TensorInfo:
    """The format has no scales for inputs and outputs, so a quantized one is a plain int8 tensor."""
    return TensorInfo(name, tuple(tensor.sizes()), _executorch.dtype(tensor.dtype()))
