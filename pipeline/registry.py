"""A folder is a registry: the file's name is the plug-in's name.

Looking up names imports nothing, so listing them costs nothing. Importing a plug-in imports no framework either:
heavy packages are imported inside the plug-ins' functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from pipeline.errors import MissingExtra, UnknownName

HERE = Path(__file__).parent


def names(folder: str) -> list[str]:
    """Names of the plug-ins in pipeline/<folder>/, sorted."""
    return sorted(p.stem for p in _place(folder).glob("*.py") if not p.stem.startswith("_"))


def load(folder: str, name: str) -> ModuleType:
    """The plug-in module pipeline/<folder>/<name>.py.

    Raises:
        UnknownName: there is no such file; the known names are listed.
    """
    known = names(folder)
    if name not in known:
        raise UnknownName(folder.rpartition(".")[2].removesuffix("s"), name, known)
    return importlib.import_module(f"pipeline.{folder}.{name}")


def _place(folder: str) -> Path:
    """The folder of a registry: "targets", or "framework_comparison.parts"."""
    return HERE.joinpath(*folder.split("."))


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turns a failed import inside the block into the line that installs the extra `name`.

    Raises:
        MissingExtra: a package that the extra brings is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a package", name) from error


def require(extras: Mapping[str, str]) -> None:
    """
    Args:
        extras: packages, and the extras that bring them.

    Raises:
        MissingExtra: one is not installed. It is looked for, not imported.
    """
    from importlib.util import find_spec

    for package, name in extras.items():
        if find_spec(package) is None:
            raise MissingExtra(package, name)


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution name; "none" where one is not installed."""
    return {name: _version(name) for name in distributions}


@cache
def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def source_hash(folder: str, name: str) -> str:
    """Hash of a plug-in's source and of its folder's helpers': a file made by other code is out of date."""
    import hashlib

    files = [_place(folder) / f"{name}.py", *sorted(_place(folder).glob("_[!_]*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def import_order() -> None:
    """Imports triton before anything can import tensorflow: the other way round ends the process by a signal."""
    from importlib.util import find_spec

    if find_spec("triton"):
        import triton  # noqa: F401
