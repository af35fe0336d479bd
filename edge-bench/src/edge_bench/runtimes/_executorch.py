"""The ExecuTorch format's codes of dtypes, shared by executorch and executorch_runner."""

from __future__ import annotations

# Source: executorch/runtime/core/portable_type/scalar_type.h
DTYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64",
          11: "bool"}  # fmt: skip


def dtype(scalar_type: int) -> str:
    """numpy's name of a scalar type."""
    return DTYPES.get(scalar_type, f"scalar type {scalar_type}")
