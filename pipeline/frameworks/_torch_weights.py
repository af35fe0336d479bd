"""Weights files for PyTorch: safetensors, and .pt files, which are read without running any code in them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from pipeline.errors import BadWeights, first_line
from pipeline.system import store
from pipeline.system.progress import say

STATES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Names under which training scripts store a network's state in a checkpoint."""

AVERAGES = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema")
"""Names under which they store a moving average of the weights."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema_model.")
"""Prefixes of tensor names: of DataParallel and DistributedDataParallel, of torch.compile, and of classes that contain
the network, such as Lightning's."""

COUNT_OF_AVERAGES = "n_averaged"
"""The tensor that torch.optim.swa_utils.AveragedModel adds to the model's."""

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
"""Endings of files that torch.save writes; .pth.tar is usual too."""


def save(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors as a safetensors file."""
    with store.atomic(path) as temporary:
        # Written by Python, because safetensors does not raise an OSError when the disk is full.
        temporary.write_bytes(
            to_bytes({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
        )


def read(path: Path, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Reads the tensors of a safetensors or .pt file by the names of a model's state; runs no code in the file.

    A checkpoint of a training script is searched for the network's state, and prefixes of tensor names are removed.
    Prints which state was used and which prefix was removed.

    Raises:
        BadWeights: the file is missing, truncated, of another type, or contains more than weights.
    """
    if not path.is_file():
        raise BadWeights(f"no weights file at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            return _without_prefix(path, dict(load_file(path)), wanted)
        except (SafetensorError, OSError) as error:
            raise BadWeights(f"{path} is truncated or not a safetensors file: {first_line(error)}") from error
    if suffix == ".keras":
        raise BadWeights(
            f"{path} has Keras weights: import them with --framework keras, then run "
            f"inv convert --from keras --to torch"
        )
    if suffix not in SUFFIXES:
        raise BadWeights(
            f"{path} is not a weights file: expected .safetensors, or a .pt, .pth, .bin, .ckpt or .pth.tar file with a "
            "state_dict saved by torch.save"
        )
    return _without_prefix(path, _state(path, _loaded(path)), wanted)


def _loaded(path: Path) -> Any:
    """What a file of torch.save contains, if it contains no code."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numbers()):
            warnings.simplefilter("ignore", UserWarning)  # of a TorchScript file, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        requested = _requested_global(error)
        if requested is None:
            raise BadWeights(f"{path} is truncated or not a .pt file: torch.save did not write its content") from error
        raise _more_than_weights(path, requested) from error
    except Exception as error:  # a damaged file may make the reader raise anything
        if "TorchScript" in str(error):
            raise _more_than_weights(path, "TorchScript") from error
        raise BadWeights(f"{path} is truncated or not a .pt file: {first_line(error)}") from error


def _numbers() -> list[Any]:
    """NumPy's scalars, which training scripts store beside the weights, such as the best accuracy. They run no code."""
    import numpy as np

    scalar: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]  # NumPy has no public name for it
    dtypes = [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool)]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *dtypes]


def _more_than_weights(path: Path, requested: str) -> BadWeights:
    """The error for a file that refers to a class or a function, which only unpickling would run."""
    if requested == "TorchScript":
        what = "is a TorchScript model, which contains code,"
    elif requested.startswith(("argparse.", "omegaconf.", "yacs.", "pathlib.", "types.")):
        what = f"also contains the settings of its training ({requested})"
    else:
        what = f"contains more than weights (it refers to {requested}, as a whole pickled model does)"
    return BadWeights(
        f"{path} {what} and was not loaded; load it in the code that wrote it and save model.state_dict(), preferably "
        "as safetensors"
    )


def _state(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """The network's state in a checkpoint.

    Raises:
        BadWeights: there is none, or several could be meant.
    """
    if _is_state(content):
        return dict(content)
    if not isinstance(content, Mapping):
        raise BadWeights(f"{path} contains a {type(content).__name__} and no state_dict: save model.state_dict()")
    states, averages = dict(_states(content, STATES)), dict(_states(content, AVERAGES))
    found = states or averages
    if not found:
        has = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise BadWeights(f"{path} contains no state_dict under a usual name (it has: {has}): save model.state_dict()")
    if len(found) > 1:
        raise BadWeights(f"{path} contains several states ({', '.join(found)}): save one of them as a file of its own")
    ((name, state),) = found.items()
    other = f", not {', '.join(averages)}, its moving average" if states and averages else ""
    say(f"{path}: using {name}{'' if states else ', a moving average: there are no other weights'}{other}")
    return state


def _states(content: Mapping[Any, Any], names: Iterable[str]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The states under these names, also those of a checkpoint within a checkpoint."""
    for name in names:
        value = content.get(name)
        if isinstance(value, Mapping) and _is_state(value):
            yield name, dict(value)
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", state) for inner, state in _states(value, (*STATES, *AVERAGES)))


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())


def _without_prefix(
    path: Path, state: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The state with the model's tensor names, where the file's have a prefix of `PREFIXES` in front, or several."""
    if wanted.keys() & state.keys():
        return state
    prefixes: Counter[str] = Counter()
    for name in state:
        prefix = ""
        while part := next((one for one in PREFIXES if name.startswith(one, len(prefix))), None):
            prefix += part
            prefixes[prefix] += name[len(prefix) :] in wanted
    ((prefix, count),) = prefixes.most_common(1) or [("", 0)]
    if count == 0:
        return state
    say(f"{path}: removed {prefix} from its tensor names")
    state.pop(COUNT_OF_AVERAGES, None)
    return {name.removeprefix(prefix): value for name, value in state.items()}


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
