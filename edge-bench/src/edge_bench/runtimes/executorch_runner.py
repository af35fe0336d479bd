"""ExecuTorch through edge-bench's C++ runner: the same kernels as `executorch`, without torch, for boards.

The runner (runner/runner.cpp) is a small library in a package named executorch_runner, with ExecuTorch's libraries.
Lastmile's pipeline/devices/_runner.py builds it for this machine and for boards. It is used only if `--runtime` names
it, never as a substitute for executorch.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from . import TensorInfo, _executorch

if TYPE_CHECKING:
    from . import Array, Session

SUFFIX = ".pte"
DEFAULT = False
IMPORT = "executorch_runner"
DISTRIBUTION = "executorch-runner"
EXTRA = ""
COPIES_INPUT = False


class _Tensor(ctypes.Structure):
    """RunnerTensor of runner.cpp."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * 16),
    )  # fmt: skip


_SIGNATURES = {
    "runner_error_text": (ctypes.c_char_p, [ctypes.c_int32]),
    "runner_set_threads": (ctypes.c_size_t, [ctypes.c_uint32]),
    "runner_load": (ctypes.c_int32, [ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)]),
    "runner_free": (None, [ctypes.c_void_p]),
    "runner_inputs": (ctypes.c_size_t, [ctypes.c_void_p]),
    "runner_outputs": (ctypes.c_size_t, [ctypes.c_void_p]),
    "runner_uses": (ctypes.c_bool, [ctypes.c_void_p, ctypes.c_char_p]),
    "runner_describe": (
        ctypes.c_int32,
        [ctypes.c_void_p, ctypes.c_bool, ctypes.c_size_t, ctypes.POINTER(_Tensor)],
    ),
    "runner_set": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(_Tensor)]),
    "runner_execute": (ctypes.c_int32, [ctypes.c_void_p]),
    "runner_get": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(_Tensor)]),
}


def library() -> Any:
    """Loads the runner with ctypes and declares the types of its functions."""
    loaded = ctypes.CDLL(str(importlib.import_module(IMPORT).LIBRARY))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def check(path: Path) -> None:
    """Nothing to check: a program with weights in a .ptd file does not load without it."""


def load(path: Path, threads: int) -> Session:
    runner = library()
    # XNNPACK takes the pool when a method is loaded, so set its size before.
    size = runner.runner_set_threads(threads)
    if size != threads:
        raise RuntimeError(f"the thread pool has {size} threads, not {threads}")
    handle = ctypes.c_void_p()
    _check(runner, runner.runner_load(bytes(path), ctypes.byref(handle)))
    return _Session(runner, handle)


class _Session:
    def __init__(self, runner: Any, handle: ctypes.c_void_p) -> None:
        self._runner, self._handle = runner, handle
        self.inputs = self._described("input", runner.runner_inputs(handle))
        self.outputs = self._described("output", runner.runner_outputs(handle))
        self.invoke = _invocation(runner, handle)

    def __del__(self) -> None:
        self._runner.runner_free(self._handle)

    @property
    def delegate(self) -> str:
        return "xnnpack" if self._runner.runner_uses(self._handle, b"XnnpackBackend") else "cpu"

    def set(self, arrays: Sequence[Array]) -> None:
        # Keep them alive: the runtime copies an input only if the program has planned memory for it.
        self._arrays = [np.require(array, requirements=["C", "W"]) for array in arrays]
        self._tensors = [_tensor(array) for array in self._arrays]
        self.refill()

    def refill(self) -> None:
        for index, tensor in enumerate(self._tensors):
            _check(self._runner, self._runner.runner_set(self._handle, index, ctypes.byref(tensor)))

    def get(self) -> list[Array]:
        return [self._output(index) for index in range(len(self.outputs))]

    def _output(self, index: int) -> Array:
        tensor = _Tensor()
        _check(self._runner, self._runner.runner_get(self._handle, index, ctypes.byref(tensor)))
        content = ctypes.string_at(tensor.data, tensor.bytes) if tensor.bytes else b""
        return np.frombuffer(content, _executorch.dtype(tensor.dtype)).reshape(_shape(tensor))

    def _described(self, kind: str, count: int) -> tuple[TensorInfo, ...]:
        """The format has no names and no scales."""
        described = []
        for index in range(count):
            tensor = _Tensor()
            code = self._runner.runner_describe(self._handle, kind == "output", index, ctypes.byref(tensor))
            _check(self._runner, code)
            described.append(TensorInfo(f"{kind}_{index}", _shape(tensor), _executorch.dtype(tensor.dtype)))
        return tuple(described)


def _invocation(runner: Any, handle: ctypes.c_void_p) -> Callable[[], object]:
    """The function that is timed: one call into the library, and a check of the error code."""
    execute = runner.runner_execute

    def invoke() -> None:
        code = execute(handle)
        if code:
            _check(runner, code)

    return invoke


def _tensor(array: Array) -> _Tensor:
    scalar_type = next(number for number, name in _executorch.DTYPES.items() if name == array.dtype.name)
    sizes = (ctypes.c_int32 * 16)(*array.shape)
    return _Tensor(array.ctypes.data, array.nbytes, scalar_type, array.ndim, sizes)


def _shape(tensor: _Tensor) -> tuple[int, ...]:
    return tuple(tensor.sizes[: tensor.rank])


def _check(runner: Any, code: int) -> None:
    """Raises RuntimeError if `code` is an error."""
    if code:
        raise RuntimeError(f"ExecuTorch error 0x{code:x}, {runner.runner_error_text(code).decode()}")
