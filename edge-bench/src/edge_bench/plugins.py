"""A folder is a registry: the file's name is the name. Installed packages add plug-ins by entry points.

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
    """A plug-in that an installed package offers: its module, and the distribution's name and version."""

    module: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


def names(package: ModuleType) -> list[str]:
    """The plug-ins of a package and those that others offer, sorted; files that begin with an underscore are helpers.

    Raises:
        BadPlugIn: a name is taken twice.
    """
    return sorted([*_own(package), *outside(package)])


def load(package: ModuleType, name: str, protocol: type) -> ModuleType:
    """The plug-in of that name.

    Args:
        protocol: what a plug-in must have.

    Raises:
        UnknownName: there is none; the message lists the known ones and the nearest.
        BadPlugIn: a name is taken twice; or the plug-in cannot be imported, or lacks a part of the protocol.
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
    """What other installed packages offer for a package, by name.

    Raises:
        BadPlugIn: a name is taken twice.
    """
    found: dict[str, Outside] = {}
    seen = set()
    own = _own(package)
    for distribution in importlib.metadata.distributions():
        points = [point for point in distribution.entry_points if point.group == package.__name__]
        metadata: Any = distribution.metadata if points else {"Name": ""}
        title = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
        if not points or title in seen:  # of two installations of a package, the first on the path counts
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
    except (Exception, SystemExit) as error:  # the code of others may raise anything
        raise BadPlugIn(
            f"the {kind} {name!r} of {offer} cannot be imported: {type(error).__name__}: {first_line(error)}; "
            f"update or uninstall {offer.package}"
        ) from error


def _lacks(protocol: type, module: ModuleType) -> list[str]:
    """What a Protocol declares and a module has not."""
    attributes = [name for name in protocol.__annotations__ if not hasattr(module, name)]
    verbs = [name for name, value in vars(protocol).items() if isinstance(value, FunctionType) and name[0] != "_"]
    return attributes + [f"{name}()" for name in verbs if not callable(getattr(module, name, None))]


def _kind(package: ModuleType) -> str:
    """What one plug-in of a package is called: "runtime"."""
    return package.__name__.rsplit(".", 1)[-1].rstrip("s")
