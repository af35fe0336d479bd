"""Plug-ins: each file of a folder is one, by its name. Installed packages add others through entry points.

The entry-point group is the folder's module name: `edge_bench.runtimes`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from .errors import BadPlugIn, UnknownName, first_line


@dataclass(frozen=True)
class Outside:
    """A plug-in of an installed package: its module, and the distribution's name and version."""

    module: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


def names(package: ModuleType) -> list[str]:
    """The names of a package's own plug-ins and those of other packages, sorted. Files with a leading underscore are
    helpers.

    Raises:
        BadPlugIn: two plug-ins have the same name.
    """
    return sorted([*_own(package), *outside(package)])


def load(package: ModuleType, name: str, protocol: type) -> ModuleType:
    """The plug-in of that name.

    Args:
        protocol: what a plug-in must have.

    Raises:
        UnknownName: there is none. The message lists the known ones and the closest match.
        BadPlugIn: two plug-ins have the same name; or the plug-in cannot be imported, or lacks a part of the protocol.
    """
    known, kind = names(package), _kind(package)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownName(f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}")
    offer = outside(package).get(name)
    module = _imported(kind, name, offer) if offer else importlib.import_module(f"{package.__name__}.{name}")
    lacks = _lacks(protocol, module)
    if lacks:
        origin = f"{protocol.__module__}.{protocol.__name__}"
        raise BadPlugIn(
            f"the {kind} {name!r} of {offer or 'edge-bench'} cannot be used: it lacks {', '.join(lacks)} of {origin}"
        )
    return module


@cache
def outside(package: ModuleType) -> dict[str, Outside]:
    """The plug-ins of other installed packages, by name.

    Raises:
        BadPlugIn: two plug-ins have the same name.
    """
    found: dict[str, Outside] = {}
    seen = set()
    own = _own(package)
    for distribution in importlib.metadata.distributions():
        points = [point for point in distribution.entry_points if point.group == package.__name__]
        metadata: Any = distribution.metadata if points else {"Name": ""}
        title = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
        if not points or title in seen:  # a package may be installed twice; the first on the path counts
            continue
        seen.add(title)
        for point in points:
            offer = Outside(point.value, metadata["Name"], distribution.version)
            if point.name in own or point.name in found:
                raise BadPlugIn(
                    f"the {_kind(package)} {point.name!r} is offered by both {found.get(point.name, 'edge-bench')} and "
                    f"{offer}: uninstall one (pip uninstall {offer.package}), or use a version with another name"
                )
            found[point.name] = offer
    return found


def _own(package: ModuleType) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]


def _imported(kind: str, name: str, offer: Outside) -> ModuleType:
    try:
        return importlib.import_module(offer.module)
    except (Exception, SystemExit) as error:  # other packages' code may raise anything
        raise BadPlugIn(
            f"the {kind} {name!r} of {offer} cannot be imported: {type(error).__name__}: {first_line(error)}; "
            f"update or uninstall {offer.package}"
        ) from error


def _lacks(protocol: type, module: ModuleType) -> list[str]:
    """The names that a Protocol declares and a module lacks."""
    attributes = [name for name in protocol.__annotations__ if not hasattr(module, name)]
    functions = [name for name, value in vars(protocol).items() if isinstance(value, FunctionType) and name[0] != "_"]
    return attributes + [f"{name}()" for name in functions if not callable(getattr(module, name, None))]


def _kind(package: ModuleType) -> str:
    """The name of one plug-in of a package, in messages: "runtime"."""
    return package.__name__.rsplit(".", 1)[-1].rstrip("s")
