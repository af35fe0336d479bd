"""The tree of all errors that a user can cause or must know about.

    PipelineError                 printed as one line on stderr; exit code 2
    ├── UnknownName               a model, target, recipe, device … that does not exist; lists the known ones
    ├── BadPlugIn                 a plug-in that cannot be used, or whose name is taken; names its package
    ├── BadOption                 an invalid value of an option
    ├── BadModel                  an unusable model folder
    ├── BadRecipe                 an unusable recipe file, or a recipe that does not fit the model
    ├── BadData                   a missing, empty or unreadable dataset; names the file
    ├── BadWeights                weights that do not fit the model, or a weights file that could run code
    ├── Unsupported               a combination that a target does not support, with the reason
    ├── MissingExtra              a package that is not installed; names the command that installs it
    ├── NeedsTool                 a missing program or system facility
    ├── Broken                    a file in build/ that does not match its manifest
    ├── StageFailed               a failed converter, runtime or measurement; names the log
    │   ├── ParityFailed          an export whose outputs differ too much from the model's
    │   ├── ExportsFailed         some of a plan's exports; the others are made
    │   └── Unreachable           an unreachable device, or a lost connection
    └── DiskFull                  no space left on the disk; no partial file remains

A message is one sentence: what is wrong, and what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TENSORFLOWS = ("Graph execution error:", "in user code:")
"""First lines of TensorFlow's messages: places in Python code follow, and then the reason."""

KERAS = "Exception encountered when calling"
"""How Keras begins the message of an exception in a layer."""

ESCAPES = re.compile(r"(\x1b|\\x1b)\[[0-9;]*m")
"""Colours in a message, and as repr() writes them."""

MODEL_PACKAGE = "_lastmile_model_"
"""How the names of packages begin under which model folders are imported."""


class PipelineError(Exception):
    """The base class. The command line prints its message as one line."""


class UnknownName(PipelineError):
    """An unknown name. The message suggests the nearest known name; it is never substituted."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        from difflib import get_close_matches

        self.kind, self.name, self.known = kind, name, sorted(known)
        near = get_close_matches(name, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {', '.join(self.known) or 'none'})")


class BadPlugIn(PipelineError):
    """A plug-in that cannot be imported, lacks a function, or has the name of another plug-in."""


class BadOption(PipelineError):
    """An invalid value of an option."""


class BadModel(PipelineError):
    """An unusable model folder."""


class BadRecipe(PipelineError):
    """An unusable recipe file, or a recipe whose exceptions do not fit the model."""


class BadData(PipelineError):
    """A missing, empty or unreadable dataset."""


class BadWeights(PipelineError):
    """Weights that do not fit the model, or a file that contains more than weights."""


class Unsupported(PipelineError):
    """An unsupported combination of model, recipe and target."""


class MissingExtra(PipelineError):
    """A missing package of an extra: of pyproject.toml, or of another package ("acme-lastmile[npu]")."""

    def __init__(self, package: str, extra: str) -> None:
        line = f"uv pip install '{extra}'"
        if "[" not in extra:
            line = f"add {extra} to LASTMILE_EXTRAS, or run: uv pip install '.[{extra}]'"
        super().__init__(f"{package} is not installed; install it: {line}")


class NeedsTool(PipelineError):
    """A missing program or system facility."""


class Broken(PipelineError):
    """A file that does not match its manifest."""


class StageFailed(PipelineError):
    """A failed converter, runtime or other external tool. The message names the log."""


class ParityFailed(StageFailed):
    """An exported file whose outputs differ too much from the model's."""


class ExportsFailed(StageFailed):
    """Some exports of a plan failed; the others are made."""


class Unreachable(StageFailed):
    """A device that cannot be reached, refuses the login, or was disconnected."""


class DiskFull(PipelineError):
    """No space left on the disk with the build folder."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that gives a reason, or the error's type if it has no message."""
    text = ESCAPES.sub("", str(error))
    if text.startswith(TENSORFLOWS):
        text = text.replace("\\n", "\n")  # the quoted message of a KeyError
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first = 0
    if lines[0] in TENSORFLOWS:
        named = [i for i, line in enumerate(lines) if re.match(r"[A-Z]\w+(Error|Exception|Warning)\b", line)]
        other = [i for i, line in enumerate(lines) if not line.startswith(("[[", "File "))]
        first = (named or other)[-1]
    called = KERAS in lines[first] and first + 1 < len(lines)  # the reason follows in a paragraph of its own
    line = f"{lines[first]} {lines[first + 1]}" if called else lines[first]
    return line.removeprefix(f"{type(error).__name__}: ")


def described(error: BaseException) -> str:
    """An unexpected error in one line: its type, the first line of its message, and where it was raised."""
    return f"{type(error).__name__}: {first_line(error)}{origin(error)}"


def origin(error: BaseException) -> str:
    """The layer and the line of the user's code in which an error was raised, as " (…)"; empty if neither is known."""
    layers, line, trace = list[Any](), "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        file = frame.f_code.co_filename
        if str(frame.f_globals.get("__name__", "")).startswith(MODEL_PACKAGE) and "__autograph" not in file:
            line = f"{Path(file).name}:{trace.tb_lineno}"
        layer = frame.f_locals.get("self")
        if callable(getattr(type(layer), "named_modules", None)):  # a torch.nn.Module
            layers.append(layer)
        trace = trace.tb_next
    names = [name for name, layer in layers[0].named_modules() if layer is layers[-1]] if layers else []
    name = names[0].partition("net.")[2] if names else ""
    found = [f"layer {name}, {type(layers[-1]).__name__}"] if name else []
    found += [line] if line else []
    return f" ({'; '.join(found)})" if found else ""


def reason(error: BaseException) -> str:
    """An error as one line: a message of this project as it is, any other as `described`, at most 300 characters."""
    return first_line(error) if isinstance(error, PipelineError) else described(error)[:300]


def again(kind: str, says: str) -> PipelineError | None:
    """Restores an error that another process raised, from its class name and message; None for other classes."""
    found = globals().get(kind)
    if not (isinstance(found, type) and issubclass(found, PipelineError)):
        return None
    raised = PipelineError.__new__(found)  # the constructor of UnknownName takes other arguments
    raised.args = (says,)
    return raised
