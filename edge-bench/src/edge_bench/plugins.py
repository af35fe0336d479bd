"""A folder is a registry: the file's name is the name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from .errors import UnknownName


def names(package: ModuleType) -> list[str]:
    """The plug-ins of a package, sorted; files that begin with an underscore are helpers."""
    found = pkgutil.iter_modules(package.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: ModuleType, name: str) -> ModuleType:
    """The plug-in of that name.

    Raises:
        UnknownName: there is none; the message lists the known ones and the nearest.
    """
    known = names(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        kind = package.__name__.rsplit(".", 1)[-1].rstrip("s")
        raise UnknownName(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")
    return importlib.import_module(f"{package.__name__}.{name}")
