"""A model folder: `__init__.py` with SPEC, and a module with build(spec) for each framework."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from pipeline import tasks
from pipeline.core import (
    PIXELS,
    Audio,
    ModelSpec,
    Preprocessing,
    Standardization,
    Tensor,
    Tokens,
    from_json,
    safe_file_name,
    to_json,
)
from pipeline.errors import MODEL_PACKAGE, BadModel, Broken, PipelineError, UnknownName
from pipeline.system.progress import say
from pipeline.system.store import digest, sha256


def load(folder: Path) -> ModelSpec:
    """SPEC of a model folder.

    Raises:
        BadModel: the folder has no valid SPEC.
    """
    if not (folder / "__init__.py").is_file():
        raise BadModel(f"{folder} is not a model folder: it has no __init__.py with SPEC")
    spec = getattr(module(folder), "SPEC", None)
    if not isinstance(spec, ModelSpec):
        raise BadModel(f"{folder}/__init__.py has no SPEC of type pipeline.core.ModelSpec")
    try:
        spec = from_json(ModelSpec, to_json(spec), f"{folder}/__init__.py: SPEC")  # as a manifest returns it
    except Broken as error:
        raise BadModel(str(error)) from error
    if spec.tokens:
        spec = replace(spec, preprocessing=_with_tokenizer(folder, spec.tokens))
    _check(folder, spec)
    return spec


def _check(folder: Path, spec: ModelSpec) -> None:
    """Checks what later stages rely on."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", spec.name):
        raise BadModel(f"{folder}: SPEC.name {spec.name!r} may contain only letters, digits, _ and -")
    try:
        task = tasks.of(spec)
    except UnknownName as error:
        raise BadModel(f"{folder}: SPEC.task: {error}") from error
    if len(spec.inputs) != 1:
        raise BadModel(f"{folder}: a model has one input, not {len(spec.inputs)}")
    problem = task.check(spec)
    if problem:
        raise BadModel(f"{folder}: {problem}")
    if isinstance(spec.preprocessing, Preprocessing):
        _check_image(folder, spec, spec.preprocessing)
    elif isinstance(spec.preprocessing, Tokens):
        _check_tokens(folder, spec.inputs[0], spec.preprocessing, spec.training.augment)
    else:
        _check_numbers(folder, spec.inputs[0], spec.preprocessing, spec.training.augment)


def _with_tokenizer(folder: Path, tokens: Tokens) -> Tokens:
    """The preprocessing with the hash of the tokenizer's file.

    Raises:
        BadModel: the folder has no such file, or SPEC has the hash of another one.
    """
    try:
        found = sha256(folder / safe_file_name(tokens.tokenizer))
    except Broken as error:
        raise BadModel(f"{folder}: preprocessing.tokenizer: {error}") from error
    except OSError as error:
        raise BadModel(f"{folder / tokens.tokenizer}: {error.strerror}; it is preprocessing.tokenizer") from error
    if tokens.sha256 not in ("", found):
        raise BadModel(f"{folder / tokens.tokenizer} has the sha256 {found}, not that of preprocessing.sha256")
    return replace(tokens, sha256=found)


def _check_tokens(folder: Path, tensor: Tensor, tokens: Tokens, augment: Sequence[str]) -> None:
    """Checks the input of a model that takes a text."""
    if tensor.dtype != "int32" or tensor.shape != (tokens.length,) or tokens.length < 1:
        raise BadModel(
            f"{folder}: inputs[0] is {tensor.dtype} {tensor.shape}; with Tokens it must be int32 ({tokens.length},)"
        )
    low, high = tensor.value_range or (0, -1)
    if low != 0 or high < 1 or int(high) != high or not 0 <= tokens.padding <= high:
        raise BadModel(
            f"{folder}: inputs[0].value_range is {tensor.value_range} and preprocessing.padding {tokens.padding}; "
            "token ids need the range 0 to the largest id, and the padding is one of them"
        )
    if augment:
        raise BadModel(f"{folder}: training.augment has {', '.join(augment)}, which are for images")


def _check_numbers(folder: Path, tensor: Tensor, preparation: Audio | Standardization, augment: Sequence[str]) -> None:
    """Checks the input of a model that takes no image."""
    if len(tensor.shape) not in (1, 2) or tensor.dtype != "float32" or min(tensor.shape) < 1:
        raise BadModel(
            f"{folder}: inputs[0] is {tensor.dtype} {tensor.shape}; with a Standardization it must be float32 "
            "(values,) or (time, channels); an image needs a Preprocessing, and token ids Tokens"
        )
    if isinstance(preparation, Audio) and (tensor.shape != (preparation.samples,) or preparation.rate < 1):
        raise BadModel(
            f"{folder}: preprocessing.samples is {preparation.samples} and inputs[0] {tensor.shape}; they must be the "
            "same, and rate above 0"
        )
    for name, values in (("mean", preparation.mean), ("std", preparation.std)):
        if len(values) not in (1, tensor.shape[-1]):
            raise BadModel(
                f"{folder}: preprocessing.{name} has {len(values)} values; it needs {tensor.shape[-1]}, or one for all"
            )
    _check_finite(folder, preparation)
    if augment:
        raise BadModel(f"{folder}: training.augment has {', '.join(augment)}, which are for images")
    if tensor.value_range and not tensor.value_range[0] < tensor.value_range[1]:
        raise BadModel(f"{folder}: inputs[0].value_range {tensor.value_range} must rise")


def _check_finite(folder: Path, preparation: Preprocessing | Audio | Standardization) -> None:
    if not all(map(math.isfinite, preparation.mean)) or not all(0 < value < math.inf for value in preparation.std):
        raise BadModel(f"{folder}: preprocessing.mean must be finite, and .std finite and above 0")


def _check_image(folder: Path, spec: ModelSpec, preparation: Preprocessing) -> None:
    """Checks the input of a model that takes an image."""
    if len(spec.inputs[0].shape) != 3:
        raise BadModel(f"{folder}: an image input is (height, width, channels), not {spec.inputs[0].shape}")
    if spec.inputs[0].value_range not in (None, PIXELS):
        raise BadModel(
            f"{folder}: inputs[0].value_range {spec.inputs[0].value_range} contradicts preprocessing: the graph takes "
            "pixels of 0 to 255 and normalises them itself by mean and std; omit value_range"
        )
    height, width, channels = spec.inputs[0].shape
    expected = {"L": 1, "RGB": 3}.get(preparation.color)
    if expected != channels:
        raise BadModel(
            f"{folder}: preprocessing.color {preparation.color!r} does not fit an input of {channels} channels"
        )
    if not len(preparation.mean) == len(preparation.std) == channels:
        raise BadModel(f"{folder}: preprocessing.mean and .std need {channels} values each, one per channel")
    _check_finite(folder, preparation)
    _warn_of_scale(folder, preparation)
    if not height == width == preparation.crop or preparation.resize < preparation.crop:
        raise BadModel(
            f"{folder}: preprocessing.crop must equal the input's height and width, and resize must be at least crop"
        )


def files(folder: Path) -> list[str]:
    """The Python files of a model folder and its sub-folders, without hidden ones, by relative path."""
    found = (path.relative_to(folder) for path in folder.rglob("*.py") if path.is_file())
    return sorted(str(path) for path in found if not any(p.startswith(".") or p == "__pycache__" for p in path.parts))


BEYOND = 20.0
"""No usual normalisation of pixels from 0 to 255 gives values this large."""


def _warn_of_scale(folder: Path, preparation: Preprocessing) -> None:
    """Prints a warning if mean or std look like those of pixels from 0 to 1, as they are usually published."""
    channels = list(zip(preparation.mean, preparation.std, strict=True))
    if max(abs(pixel - mean) / std for mean, std in channels for pixel in (0, 255)) <= BEYOND:
        return
    advice = [
        f"{name}=({', '.join(f'{255 * value:.6g}' for value in values)},)"
        for name, values, small in (
            ("mean", preparation.mean, any(preparation.mean) and all(0 <= value <= 1 for value in preparation.mean)),
            ("std", preparation.std, all(value < 1 for value in preparation.std)),
        )
        if small
    ]
    if advice:
        say(
            f"warning: {folder}: preprocessing.mean and .std look like those of pixels from 0 to 1, and pixels are "
            f"from 0 to 255: probably {' and '.join(advice)}"
        )


def module(folder: Path, name: str | None = None) -> ModuleType:
    """The folder imported as a package of its own, wherever it is; or the module `name` in it. Changed files are
    imported again.

    Raises:
        BadModel: importing it fails.
    """
    content = [(path, sha256(folder / path)) for path in files(folder)]
    package = f"{MODEL_PACKAGE}{digest([str(folder), content])[:12]}"
    full = f"{package}.{name}" if name else package
    if full in sys.modules:
        return sys.modules[full]
    path = folder / f"{name or '__init__'}.py"
    if name:
        module(folder)
    spec = importlib.util.spec_from_file_location(
        full, path, submodule_search_locations=None if name else [str(folder)]
    )
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[full] = loaded
    try:
        spec.loader.exec_module(loaded)
    except PipelineError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        del sys.modules[full]
        reason = f"{type(error).__name__}: {error}{_relative(folder, error)}"
        raise BadModel(f"{path} cannot be imported: {reason}") from error
    return loaded


def _relative(folder: Path, error: BaseException) -> str:
    """What to write instead, if an absolute import names a module of the folder; "" otherwise."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    found = [path for path in files(folder) if name and name in (Path(path).stem, *Path(path).parts[:-1])]
    if not found:
        return ""
    return f": {found[0]} is a file of the model's own package, so put a dot before the name (from .{name} import …)"
