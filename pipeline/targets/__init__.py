"""Export targets: each module here turns one model under one recipe into one file for one family of runtimes.

A target is a module with the verbs of `Target`. It is imported for listing and planning, so it imports converters
only inside `export`, which runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pipeline import registry
from pipeline.core import ModelSpec, Port, Recipe

LAYOUTS = ("NHWC", "NCHW", "image")


@dataclass(frozen=True)
class Source:
    """What a target converts, as its framework left it.

    Attributes:
        framework: whose program it is.
        open: reads one of the programs below by its name; None where there is none. Only a target that asks for one
            loads PyTorch, which holds them.
        saved_model: writes the float model as a TensorFlow SavedModel; None where the framework cannot.
    """

    framework: str
    open: Callable[[str], Any]
    saved_model: Callable[[Path], None] | None = None

    @cached_property
    def program(self) -> Any:
        """The float model with a static batch of 1, a torch.export.ExportedProgram: image inputs NCHW float32 with raw
        values."""
        return self.open("program")

    @cached_property
    def quantized(self) -> Any:
        """For a static recipe the calibrated graph of the same form, whose weights are stored as int8."""
        return self.open("quantized")

    @cached_property
    def unfolded(self) -> Any:
        """The same with float weights that the graph quantizes, which litert-torch wants."""
        return self.open("unfolded")


@dataclass(frozen=True)
class Exported:
    """What a target says of the file it made.

    Attributes:
        quantized_by: "graph", the converter's name, or None.
        notes: what a user should know.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized_by: str | None = None
    notes: tuple[str, ...] = ()


class Target(Protocol):
    """The verbs of a module in this folder.

    One whose files no edge-bench runtime runs, but this machine can, has one more: predict(path, samples), the outputs
    for samples (N, height, width, channels), which are then compared as the others' are.

    Attributes:
        SUFFIX: of the file, with the dot.
        RUNTIME: the edge-bench runtime that runs it here by default; None where nothing on Linux can.
        UNCHECKED: why the file is not checked here; None where RUNTIME runs it.
        LAYOUT: how its image input lies: "NHWC", "NCHW" or "image".
        TOOLS: distributions whose versions decide what the file becomes.
        EXTRA: the extra of pyproject.toml that brings them.
        SUMMARY: one line for people.
    """

    SUFFIX: str
    RUNTIME: str | None
    UNCHECKED: str | None
    LAYOUT: str
    TOOLS: tuple[str, ...]
    EXTRA: str
    SUMMARY: str

    def supports(self, recipe: Recipe, framework: str) -> str | None:
        """None, or the reason why this target cannot do that recipe from that framework."""

    def export(self, source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
        """Writes the file `out`.

        Raises:
            Unsupported: the converter cannot do this model under this recipe.
            MissingExtra: the converter is not installed.
        """


def wrong(name: str, module: ModuleType) -> str | None:
    """What is wrong with a target's attributes; None where nothing is."""
    if not str(module.SUFFIX).startswith("."):
        return f"SUFFIX {module.SUFFIX!r} does not begin with a dot"
    if module.LAYOUT not in LAYOUTS:
        return f"LAYOUT {module.LAYOUT!r} is not one of {', '.join(LAYOUTS)}"
    if module.RUNTIME is None and module.UNCHECKED is None:
        return "RUNTIME and UNCHECKED are both None: UNCHECKED must say why no runtime checks its files"
    return None


def frameworks(form: str) -> list[str]:
    """Frameworks whose models come in a form; see `Framework.FORMS`."""
    return [name for name, module in registry.load_all("frameworks")[0].items() if form in module.FORMS]


def only_programs(framework: str) -> str | None:
    """The reason why a target that converts torch programs cannot do this framework's models; None where it can."""
    known = frameworks("program")
    if framework in known:
        return None
    return f"it converts torch.export programs, which come from {' and '.join(known)} models, not from {framework} ones"
