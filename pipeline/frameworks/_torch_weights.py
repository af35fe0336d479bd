"""Weights files for PyTorch: safetensors, or a .pt file read without running anything in it."""

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
"""How the names of a model's tensors begin while it is wrapped in DataParallel or DistributedDataParallel."""


def save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as a safetensors file."""
    with store.atomic(path) as temporary:
        # Written by Python: safetensors' own error for a full disk is no OSError.
        temporary.write_bytes(
            to_bytes({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
        )


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a safetensors or .pt file; nothing in the file is run.

    Raises:
        BadWeights: the file is missing, cut short, of another kind, or holds more than weights.
    """
    if not path.is_file():
        raise BadWeights(f"no weights file at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise BadWeights(f"{path} is not a whole safetensors file: {first_line(error)}") from error
    if suffix == ".keras":
        raise BadWeights(
            f"{path}: weights of Keras: adopt them with --framework keras, then inv convert --from keras --to torch"
        )
    if suffix not in (".pt", ".pth", ".bin"):
        raise BadWeights(
            f"{path}: weights are a .safetensors file, or a .pt file that torch.save wrote of a state_dict"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _requested_global(error)
        if asked is None:
            raise BadWeights(f"{path} is not a whole .pt file: torch.save did not write what is in it") from error
        raise BadWeights(
            f"{path} holds more than weights and was not loaded (it asks for {asked}); save model.state_dict(), best "
            "as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise BadWeights(f"{path} is not a whole .pt file: {first_line(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadWeights(f"{path} holds no state_dict: save model.state_dict()")
    return state


def _requested_global(error: Exception) -> str | None:
    """The name that torch's weights-only reader said no to; None where it is the file that is broken."""
    if "TorchScript" in str(error):
        return "TorchScript"
    found = re.search(r"(?:GLOBAL|class|instantiate) ([A-Za-z_][\w.]*)", str(error))
    return found.group(1) if found else None


def check_fit(path: Path, state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Compares a file's tensors with a model's.

    Raises:
        BadWeights: names or shapes differ, of which the first three are named; or a value is not finite.
    """
    if any(name.startswith(WRAPPED) for name in state) and not any(name.startswith(WRAPPED) for name in wanted):
        raise BadWeights(
            f"{path} does not fit the model: its names begin with {WRAPPED} as DistributedDataParallel writes them; "
            f"remove that, or save model.module.state_dict()"
        )
    wrong = [
        f"{name} is {'missing' if name not in state else f'{_shape(state[name])} where the model has {_shape(tensor)}'}"
        for name, tensor in wanted.items()
        if name not in state or state[name].shape != tensor.shape
    ] + [f"{name} is not the model's" for name in state if name not in wanted]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadWeights(f"{path} does not fit the model: {'; '.join(wrong[:3])}{more}")
    for name, tensor in state.items():
        if not tensor.float().isfinite().all():  # as float32, which the model computes in
            raise BadWeights(f"{path}: {name} has values that are NaN or infinite; save weights from before they were")


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "a scalar"
