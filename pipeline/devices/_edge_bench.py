"""edge-bench for every kind of device but phones: its source files, and the packages that each runtime requires."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from pipeline import registry
from pipeline.devices import _runner
from pipeline.errors import StageFailed
from pipeline.system import store

HERE = Path(__file__).parent.parent.parent / "edge-bench"
NATIVE = ("executorch_runner",)
"""Runtimes that are not on a package index. pipeline/devices/_runner.py builds them, for this machine or a board."""


def sources() -> list[Path]:
    """edge-bench's files, below HERE / "src"."""
    return sorted(path for path in (HERE / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def outside(runtime: str) -> registry.Outside | None:
    """The installed package that provides a runtime; None for edge-bench's own runtimes."""
    return registry.outside(registry.RUNTIMES).get(runtime)


def requirements(runtime: str) -> list[str]:
    """A runtime's requirements, from edge-bench's pyproject.toml.

    Raises:
        StageFailed: edge-bench has no such runtime.
    """
    offer = outside(runtime)
    if offer:
        raise StageFailed(f"{runtime} is a runtime of {offer}; boards support only edge-bench's own runtimes")
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    extras = {**project["optional-dependencies"], **{name: [] for name in NATIVE}}
    if runtime not in extras:
        raise StageFailed(f"edge-bench has no runtime {runtime!r} (known: {', '.join(sorted(extras))})")
    return [*project["dependencies"], *extras[runtime]]


@cache
def apart(runtime: str) -> bool:
    """Whether a runtime needs a separate environment: its extra changes the version of a package of edge-bench."""
    if outside(runtime) or runtime in NATIVE:
        return False
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    wanted = map(_name, project["optional-dependencies"].get(runtime, ()))
    return not {*map(_name, project["dependencies"])}.isdisjoint(wanted)


def packages(runtime: str) -> tuple[str, ...]:
    """The names of the distributions that a runtime requires, without versions."""
    offer = outside(runtime)
    if offer:
        return offer.requires
    return tuple(dict.fromkeys(map(_name, requirements(runtime))))


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


@cache
def identity(runtime: str) -> str:
    """Hash of edge-bench and of what it requires for a runtime: versions, or the source of one that is built."""
    found = [(str(path.relative_to(HERE)), store.sha256(path)) for path in sources()]
    wanted = [] if outside(runtime) else requirements(runtime)
    built = [store.sha256(_runner.SOURCE), registry.versions(("executorch",))] if runtime in NATIVE else []
    return store.digest([found, wanted, built])
