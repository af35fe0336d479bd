"""Export targets: each module in this folder converts a model under a recipe to a file for one family of runtimes.

A target is a module with the functions of `Target`. Listing and planning import it as well, so it imports its converter
only inside `export`, which runs in a separate process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pipeline import registry
from pipeline.core import Coverage, ModelSpec, Port, Recipe

LAYOUTS = ("NHWC", "NCHW", "image")


@dataclass(frozen=True)
class Source:
    """The input of a target.

    Attributes:
        framework: the framework of the model.
        open: loads one of the programs below by name, or returns None if it does not exist. Loading one imports
            PyTorch, so only targets that need a program import it.
        saved_model: writes the float model as a TensorFlow SavedModel; None if the framework cannot.
    """

    framework: str
    open: Callable[[str], Any]
    saved_model: Callable[[Path], None] | None = None

    @cached_property
    def program(self) -> Any:
        """The float model, a torch.export.ExportedProgram with a batch size of 1; images are raw NCHW float32, other
        inputs raw float32 as in the spec."""
        return self.open("program")

    @cached_property
    def separate(self) -> Any:
        """As `program`, but no two layers share a weight: for converters that change weights in place."""
        return self.open("separate") or self.program

    @cached_property
    def quantized(self) -> Any:
        """The calibrated graph of a static recipe with int8 weights, in the same form as `program`."""
        return self.open("quantized")

    @cached_property
    def unfolded(self) -> Any:
        """As `quantized`, but with float weights that the graph quantizes, as litert-torch requires."""
        return self.open("unfolded")


@dataclass(frozen=True)
class Exported:
    """The description of an exported file.

    Attributes:
        quantized_by: "graph", the name of the converter that quantized it, or None.
        notes: remarks for the user.
        coverage: what is quantized; None for a float file, or if the target cannot tell.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized_by: str | None = None
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None


class Target(Protocol):
    """The interface of a module in this folder.

    If no edge-bench runtime runs the target's files, but the host can, the module also has predict(path, samples): the
    outputs for samples (N, height, width, channels), which are then compared like those of the other targets.

    If the format has room for more outputs in a finished file, the module also has with_outputs(file, other, outputs,
    out). It writes `file` to `out` with more outputs: the tensors that hold the values of these outputs of `other`, a
    file that `export` made from the same graph with more outputs. It returns for each the place among the outputs of
    `out` and the axes to transpose the values by (None: as they are), or None if `file` has no such tensor.

    Attributes:
        SUFFIX: suffix of the file, with the dot.
        RUNTIME: the default edge-bench runtime for the file; None if no runtime on Linux runs it.
        UNCHECKED: the reason why the file is not checked on the host; None if RUNTIME runs it.
        LAYOUT: layout of the image input: "NHWC", "NCHW" or "image".
        TOOLS: distributions whose versions affect the file.
        EXTRA: the extra in pyproject.toml that installs them.
        SUMMARY: one line for listings.
    """

    SUFFIX: str
    RUNTIME: str | None
    UNCHECKED: str | None
    LAYOUT: str
    TOOLS: tuple[str, ...]
    EXTRA: str
    SUMMARY: str

    def supports(self, recipe: Recipe, framework: str) -> str | None:
        """The reason why the target does not support the recipe for the framework's models; None if it does."""

    def export(self, source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
        """Exports a model to the file `out`.

        Raises:
            Unsupported: the converter does not support this model under this recipe.
            MissingExtra: the converter is not installed.
        """


def wrong(name: str, module: ModuleType) -> str | None:
    """The reason why a target's attributes are invalid; None if they are valid."""
    if not str(module.SUFFIX).startswith("."):
        return f"SUFFIX {module.SUFFIX!r} does not begin with a dot"
    if module.LAYOUT not in LAYOUTS:
        return f"LAYOUT {module.LAYOUT!r} is not one of {', '.join(LAYOUTS)}"
    if module.RUNTIME is None and module.UNCHECKED is None:
        return "RUNTIME and UNCHECKED are both None: UNCHECKED must give the reason"
    return None


def ports(spec: ModelSpec, layout: str, dtype: str = "float32") -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of a file that has the spec's names: an image in the target's layout, anything else as in the
    spec.

    Args:
        dtype: of an image.
    """
    (tensor,) = spec.inputs
    if spec.image is None:
        given = Port(tensor.name, (1, *tensor.shape), tensor.dtype)
    else:
        height, width, channels = tensor.shape
        shape = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
        given = Port(tensor.name, shape, dtype, layout)
    return (given,), tuple(Port(output.name, (1, *output.shape), "float32") for output in spec.outputs)


def frameworks(form: str) -> list[str]:
    """Frameworks whose models are available in a form; see `Framework.FORMS`."""
    return [name for name, module in registry.load_all("frameworks")[0].items() if form in module.FORMS]


def only_programs(framework: str) -> str | None:
    """The reason why a target that converts torch.export programs does not support a framework; None if it does."""
    known = frameworks("program")
    if framework in known:
        return None
    return f"it converts torch.export programs, which only {' and '.join(known)} models have, not {framework} models"
