"""The runtimes: each file is one, with the file's name as its name, and implements `Runtime`.

To add a runtime, add a file, or a module of another package in the entry-point group `edge_bench.runtimes`. Nothing
heavy is imported before `library()` or `load()` is called.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from .. import plugins
from ..errors import BadArtifact, BadPlugIn, NotInstalled, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]


own_process = False
"""Whether nothing but edge-bench uses this process: then a runtime may import less of its library."""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: from the file, or input_0, output_0 if the format has no names.
        shape: with the batch axis; -1 for sizes that are known only after a run.
        dtype: numpy's name: "float32", "int8", …
        scale, zero_point: real = (q - zero_point) * scale; None if the file does not contain them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Session(Protocol):
    """A loaded model, ready to run."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The inputs in the file's order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs in the file's order."""

    @property
    def delegate(self) -> str:
        """What computes: "xnnpack", or "cpu" for the runtime's own kernels. It may read the file, so do not time it."""

    def set(self, arrays: Sequence[Array]) -> None:
        """Copies one array an input into the runtime's memory; shapes and dtypes are those of `inputs`."""

    def refill(self) -> None:
        """Copies the arrays last set once more, for a runtime that overwrites its inputs while it runs."""

    def invoke(self) -> object:
        """The bare runtime call and nothing else: this is what is timed."""

    def get(self) -> list[Array]:
        """A copy of every output of the last run, in the order of `outputs`."""


class Runtime(Protocol):
    """What every file in this folder holds."""

    SUFFIX: str
    """The suffix of its files, with the dot."""
    DEFAULT: bool
    """Whether it is the default for its suffix; at most one runtime per suffix is. The others are used by name only."""
    IMPORT: str
    """The module it needs."""
    DISTRIBUTION: str
    """What pip calls the package that has that module."""
    EXTRA: str
    """The extra of edge-bench that installs it; empty if it is not on a package index and Lastmile builds it. For a
    runtime of another package: what pip installs, such as "acme-runtime"."""
    COPIES_INPUT: bool
    """Whether `Session.invoke` copies the input into the runtime's memory. Otherwise `Session.set` does, or the runtime
    reads the caller's memory."""

    def library(self) -> Any:
        """Imports the runtime's module, and returns it."""

    def check(self, path: Path) -> None:
        """Raises ValueError if the file is not the whole model, because its size and hash would then be wrong."""

    def load(self, path: Path, threads: int) -> Session:
        """Loads a model file and allocates its memory, to run on `threads` threads."""


def names() -> list[str]:
    """The names of all runtimes, installed or not. Raises BadPlugIn if two have the same name."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Runtime:
    """The runtime of that name. Raises UnknownName, or BadPlugIn if its module cannot be used."""
    return cast(Runtime, plugins.load(sys.modules[__name__], name, Runtime))


def load_all() -> tuple[dict[str, Runtime], dict[str, str]]:
    """The runtimes that can be used, and for each of the others the reason why it cannot."""
    loaded, broken = {}, {}
    for name in names():
        try:
            loaded[name] = load(name)
        except BadPlugIn as error:
            broken[name] = str(error)
    return loaded, broken


def choose(path: Path, requested: str | None) -> str:
    """The name of the runtime for a file: the requested one, or the default of the file's suffix.

    Raises:
        UnknownName: there is no runtime with the requested name.
        BadArtifact: no runtime, or not the requested one, runs files of this suffix; or several are its default.
    """
    if requested is not None:
        suffix = load(requested).SUFFIX
        if path.suffix != suffix:
            raise BadArtifact(f"{path}: {requested} runs {suffix} files")
        return requested
    loaded, _ = load_all()
    defaults = [name for name, runtime in loaded.items() if runtime.DEFAULT and path.suffix == runtime.SUFFIX]
    if len(defaults) > 1:
        raise BadArtifact(f"{path}: {' and '.join(defaults)} both run {path.suffix} files: choose one with --runtime")
    if defaults:
        return defaults[0]
    known = ", ".join(f"{runtime.SUFFIX} ({name})" for name, runtime in loaded.items())
    raise BadArtifact(f"{path}: unknown suffix {path.suffix!r}; known: {known}")


def install_line(runtime: Runtime) -> str:
    """The command that installs the runtime."""
    module = getattr(runtime, "__name__", "")
    if module.rpartition(".")[0] != __name__:
        return f"pip install '{runtime.EXTRA or runtime.DISTRIBUTION}'"
    if not runtime.EXTRA:
        return "Lastmile builds it: inv devices.setup installs it on a board, inv bench on this machine"
    return f"pip install 'edge-bench[{runtime.EXTRA}]'"


def missing(runtime: Runtime) -> str | None:
    """Why the runtime is not available; None if its module is installed. Imports nothing heavy."""
    # Looks for the module, not the distribution, because a board's own build of a runtime may have another name.
    if importlib.util.find_spec(runtime.IMPORT.split(".")[0]) is None:
        return f"{runtime.DISTRIBUTION} is not installed"
    return None


def imported(name: str) -> Runtime:
    """The runtime of that name, with its library imported.

    Raises:
        NotInstalled: its package is missing, or cannot be imported.
    """
    runtime = load(name)
    reason = missing(runtime)
    if reason is not None:
        raise NotInstalled(f"{name}: {reason}; {install_line(runtime)}")
    gc.disable()  # it would search the thousands of objects of a large library again and again while these are made
    try:
        runtime.library()
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: built for another major version of numpy
        raise NotInstalled(
            f"{name}: {runtime.DISTRIBUTION} cannot be imported ({first_line(error)}); "
            f"install it in a separate virtual environment: {install_line(runtime)}"
        ) from error
    finally:
        gc.freeze()
        gc.enable()
    return runtime


def version(runtime: Runtime) -> str | None:
    """The version of the runtime's package; None if it is unknown."""
    try:
        return importlib.metadata.version(runtime.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        module: ModuleType | None = sys.modules.get(runtime.IMPORT.split(".")[0])
        return getattr(module, "__version__", None)
