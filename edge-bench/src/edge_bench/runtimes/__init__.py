"""One file a runtime; the file's name is the runtime's name, and every file has the verbs of `Runtime`.

To add a runtime, add a file, or offer a module from another package: in the entry-point group `edge_bench.runtimes`.
Nothing heavy is imported before `library()` or `load()` is called.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: as the file calls it, or input_0, output_0 where the format has no names.
        shape: with the batch axis; -1 where only running tells.
        dtype: numpy's name: "float32", "int8", …
        scale, zero_point: real = (q - zero_point) * scale; None where the file does not say.
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
        """What computes: "xnnpack", or "cpu" for the runtime's own kernels. May read the file: not for timed code."""

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
    """Whether it takes files of its suffix by itself; at most one runtime a suffix. The others go by name only."""
    IMPORT: str
    """The module it needs."""
    DISTRIBUTION: str
    """What pip calls the package that has that module."""
    EXTRA: str
    """The extra of edge-bench that installs it; empty where no package index has it and Lastmile builds it. Of another
    package's runtime: what pip installs, "acme-runtime"."""

    def library(self) -> Any:
        """Imports the runtime's module, and returns it."""

    def check(self, path: Path) -> None:
        """Raises ValueError when the file, as one file, is not the whole model: its size and hash would be wrong."""

    def load(self, path: Path, threads: int) -> Session:
        """Loads a model file and allocates its memory, to run on `threads` threads."""


def names() -> list[str]:
    """Every runtime, installed or not. Raises BadPlugIn where a name is taken twice."""
    return plugins.names(sys.modules[__name__])


def load(name: str) -> Runtime:
    """The runtime of that name. Raises UnknownName, and BadPlugIn where its module cannot be used."""
    return cast(Runtime, plugins.load(sys.modules[__name__], name, Runtime))


def load_all() -> tuple[dict[str, Runtime], dict[str, str]]:
    """Every runtime that can be used, and for each of the others the reason why not."""
    loaded, broken = {}, {}
    for name in names():
        try:
            loaded[name] = load(name)
        except BadPlugIn as error:
            broken[name] = str(error)
    return loaded, broken


def choose(path: Path, asked: str | None) -> str:
    """The name of the runtime for a file: the one asked for, else the default of the file's suffix.

    Raises:
        UnknownName: no runtime has the name asked for.
        BadArtifact: no runtime, or not the one asked for, runs files of this suffix; or several do so by default.
    """
    if asked is not None:
        suffix = load(asked).SUFFIX
        if path.suffix != suffix:
            raise BadArtifact(f"{path}: {asked} runs {suffix} files")
        return asked
    loaded, _ = load_all()
    defaults = [name for name, runtime in loaded.items() if runtime.DEFAULT and path.suffix == runtime.SUFFIX]
    if len(defaults) > 1:
        raise BadArtifact(f"{path}: {' and '.join(defaults)} both run {path.suffix} files: choose one with --runtime")
    if defaults:
        return defaults[0]
    known = ", ".join(f"{runtime.SUFFIX} ({name})" for name, runtime in loaded.items())
    raise BadArtifact(f"{path}: unknown suffix {path.suffix!r}; known: {known}")


def install_line(runtime: Runtime) -> str:
    """What to type to get the runtime."""
    module = getattr(runtime, "__name__", "")
    if module.rpartition(".")[0] != __name__:
        return f"pip install '{runtime.EXTRA or runtime.DISTRIBUTION}'"
    if not runtime.EXTRA:
        return "Lastmile builds it: inv devices.setup brings it to a board, and inv bench to this machine"
    return f"pip install 'edge-bench[{runtime.EXTRA}]'"


def missing(runtime: Runtime) -> str | None:
    """None when the runtime's module is there, else the reason. Imports nothing heavy."""
    # Asked of the module, not of the distribution: a board's own build of a runtime may carry another name.
    if importlib.util.find_spec(runtime.IMPORT.split(".")[0]) is None:
        return f"{runtime.DISTRIBUTION} is not installed"
    return None


def imported(name: str) -> Runtime:
    """The runtime of that name, its library imported.

    Raises:
        NotInstalled: its package is missing, or cannot be imported here.
    """
    runtime = load(name)
    reason = missing(runtime)
    if reason is not None:
        raise NotInstalled(f"{name}: {reason}; {install_line(runtime)}")
    try:
        runtime.library()
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: built for another major version of numpy
        raise NotInstalled(
            f"{name}: {runtime.DISTRIBUTION} cannot be imported ({first_line(error)}); "
            f"in a virtual environment of its own: {install_line(runtime)}"
        ) from error
    return runtime


def version(runtime: Runtime) -> str | None:
    """The version of the runtime's package; None where nothing says it."""
    try:
        return importlib.metadata.version(runtime.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        module: ModuleType | None = sys.modules.get(runtime.IMPORT.split(".")[0])
        return getattr(module, "__version__", None)
