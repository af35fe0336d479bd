"""Converts samples of a file to a model's inputs, and a model's outputs to real numbers."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadSamples, first_line
from .runtimes import TensorInfo

if TYPE_CHECKING:
    from .runtimes import Array

NPY_MAGIC = b"\x93NUMPY"
RANDOM_SEED = 0
REAL = "fiub"


class Samples:
    """A file of samples for a model with one input.

    Attributes:
        array: (N, …), any numeric dtype, mapped from the file and not read into memory.
    """

    def __init__(self, path: Path, layout: str | None) -> None:
        """Args: layout: "NCHW" if the model takes channels first; the samples themselves are (N, H, W, C)."""
        self.path = path
        self.array = _open(path)
        self._to_nchw = layout == "NCHW"
        if self._to_nchw and self.array.ndim != 4:
            raise BadSamples(
                f"{path} has shape {self.array.shape}; --layout NCHW requires samples of shape (N, H, W, C)"
            )

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def check(self, inputs: tuple[TensorInfo, ...]) -> TensorInfo:
        """Checks that the samples fit the model. Returns the model's only input.

        Raises:
            BadSamples: the model has several inputs, another batch size than 1, or an input of another shape.
        """
        if len(inputs) != 1:
            names = ", ".join(info.name for info in inputs)
            raise BadSamples(
                f"the model has {len(inputs)} inputs ({names}); samples are supported for models with one input"
            )
        info = inputs[0]
        if info.shape[:1] != (1,):
            raise BadSamples(f"input {info.name} has shape {info.shape}; export the model for a batch of 1")
        sample = self._shape()
        if sample != info.shape[1:]:
            raise BadSamples(self._mismatch(sample, info))
        return info

    def get(self, index: int, info: TensorInfo) -> Array:
        """Sample `index` in the layout, shape and dtype of the input, quantized if the input has a scale."""
        sample: Array = self.array[index]
        if self._to_nchw:
            sample = sample.transpose(2, 0, 1)
        try:
            return to_model(sample, info)[np.newaxis]
        except BadSamples as error:
            raise BadSamples(f"{self.path}: sample {index} {error}") from error

    def release(self) -> None:
        """Returns the mapped pages to the system, so that they do not count as this process's memory."""
        mapping = self.array.base
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    def _shape(self) -> tuple[int, ...]:
        shape = self.array.shape[1:]
        return (shape[2], shape[0], shape[1]) if self._to_nchw else shape

    def _mismatch(self, sample: tuple[int, ...], info: TensorInfo) -> str:
        hint = ""
        if len(sample) == 3 and not self._to_nchw and (sample[2], sample[0], sample[1]) == info.shape[1:]:
            hint = "; the model takes channels first: add --layout NCHW"
        elif self._to_nchw and self.array.shape[1:] == info.shape[1:]:
            hint = "; the samples already have the model's layout: omit --layout NCHW"
        return f"{self.path} has samples of shape {sample}; input {info.name} requires {info.shape[1:]}{hint}"


def to_model(sample: Array, info: TensorInfo) -> Array:
    """Converts a sample to the input's dtype. If the input has a scale, the sample is quantized, as
    round(x / scale) + zero_point (half to even), and clipped; otherwise it is cast.

    Raises:
        BadSamples: the sample contains NaN, or values that an integer input without a scale cannot represent.
    """
    dtype = _dtype(info)
    if dtype.kind in "iu" and info.scale is not None and info.zero_point is not None:
        limits = np.iinfo(dtype)
        steps = np.rint(sample.astype(np.float32) / np.float32(info.scale)) + np.float32(info.zero_point)
        if np.isnan(steps).any():
            raise BadSamples(f"contains NaN, which {dtype.name} cannot represent")
        quantized: Array = np.clip(steps, limits.min, limits.max).astype(dtype)
        return quantized
    with np.errstate(invalid="ignore"):  # what does not fit is reported below
        cast: Array = np.ascontiguousarray(sample, dtype)
    if dtype.kind in "iub" and not np.array_equal(cast, sample):
        raise BadSamples(
            f"contains values that {dtype.name} cannot represent, and input {info.name} has no scale for quantization"
        )
    return cast


def to_real(output: Array, info: TensorInfo) -> NDArray[np.float32]:
    """Converts an output to float32: float32(q - zero_point) * float32(scale) if it has a scale, otherwise cast."""
    if output.dtype.kind in "iu" and info.scale is not None and info.zero_point is not None:
        steps = (output.astype(np.int64) - info.zero_point).astype(np.float32)
        return np.asarray(steps * np.float32(info.scale), np.float32)
    return np.asarray(output, np.float32)


def pseudo_random(info: TensorInfo) -> Array:
    """A fixed input for timing: floats in [0, 1), 8-bit integers over their full range, other integers 0 or 1 (valid as
    indices)."""
    generator, dtype = np.random.default_rng(RANDOM_SEED), _dtype(info)
    if dtype.kind == "f":
        return generator.random(info.shape, dtype=np.float32).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, info.shape, endpoint=True, dtype=np.int16).astype(dtype)
    return generator.integers(0, 1, info.shape, endpoint=True).astype(dtype)


def _dtype(info: TensorInfo) -> np.dtype[Any]:
    try:
        dtype = np.dtype(info.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in REAL:
        raise BadSamples(f"input {info.name} takes {info.dtype}; edge-bench supports numpy's real number types only")
    return dtype


def _open(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            if file.read(len(NPY_MAGIC)) != NPY_MAGIC:  # numpy would take it for a pickle and explain how to load one
                raise BadSamples(f"{path} is not a .npy file; write the samples with numpy.save")
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BadSamples(f"{path}: {error.strerror or error}; give the samples as a .npy file") from error
    except (ValueError, EOFError) as error:
        raise BadSamples(f"{path} cannot be read as a .npy file ({first_line(error)})") from error
    if array.dtype.kind not in REAL:
        raise BadSamples(f"{path} contains {array.dtype}; samples must be real numbers")
    if array.ndim == 0 or array.shape[0] == 0:
        raise BadSamples(f"{path} has shape {array.shape}; it contains no samples")
    return array
