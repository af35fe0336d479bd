"""Weights files for PyTorch: safetensors, and .pt files, which are read without running any code in them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from pipeline.errors import BadWeights, first_line
from pipeline.system import store

WRAPPED = "module."
"""Prefix of tensor names in a model wrapped in DataParallel or DistributedDataParallel."""


def save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as a safetensors file."""
    with store.atomic(path) as temporary:
        # Written by Python, because safetensors does not raise an OSError when the disk is full.
        temporary.write_bytes(
            to_bytes({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
        )


def read(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a safetensors or .pt file by name; runs no code in the file.

    Raises:
        BadWeights: the file is missing, truncated, of another type, or contains more than weights.
    """
    if not path.is_file():
        raise BadWeights(f"no weights file at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise BadWeights(f"{path} is truncated or not a safetensors file: {first_line(error)}") from error
    if suffix == ".keras":
        raise BadWeights(
            f"{path} has Keras weights: import them with --framework keras, then run "
            f"inv convert --from keras --to torch"
        )
    if suffix not in (".pt", ".pth", ".bin"):
        raise BadWeights(
            f"{path} is not a weights file: expected .safetensors, or a .pt file with a state_dict saved by torch.save"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        requested = _requested_global(error)
        if requested is None:
            raise BadWeights(f"{path} is truncated or not a .pt file: torch.save did not write its content") from error
        raise BadWeights(
            f"{path} contains more than weights (it refers to {requested}) and was not loaded; "
            "save model.state_dict(), preferably as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise BadWeights(f"{path} is truncated or not a .pt file: {first_line(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadWeights(f"{path} contains no state_dict: save model.state_dict()")
    return state


def _requested_global(error: Exception) -> str | None:
    """The name that torch's weights-only reader refused; None if the file is corrupt."""
    if "TorchScript" in str(error):
        return "TorchScript"
    found = re.search(r"(?:GLOBAL|class|instantiate) ([A-Za-z_][\w.]*)", str(error))
    return found.group(1) if found else None


def check_fit(path: Path, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Checks a file's tensors against a model's.

    Raises:
        BadWeights: names or shapes differ (the message lists the first three), or a value is not finite.
    """
    if any(name.startswith(WRAPPED) for name in state) and not any(name.startswith(WRAPPED) for name in wanted):
        raise BadWeights(
            f"{path} does not fit the model: its tensor names have the prefix {WRAPPED} that DistributedDataParallel "
            f"adds; remove it, or save model.module.state_dict()"
        )
    wrong = [
        f"{name} is {'missing' if name not in state else f'{_shape(state[name])}, expected {_shape(tensor)}'}"
        for name, tensor in wanted.items()
        if name not in state or state[name].shape != tensor.shape
    ] + [f"{name} is not in the model" for name in state if name not in wanted]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadWeights(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")
    for name, tensor in state.items():
        if not tensor.float().isfinite().all():  # in float32, the model's precision
            raise BadWeights(f"{path}: {name} has NaN or infinite values; use an earlier checkpoint")


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a scalar"
