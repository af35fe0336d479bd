"""edge-bench, as every device but a phone is given it: its source, and the packages that each runtime needs."""

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
"""Runtimes that no package index has: pipeline/devices/_runner.py builds them, for this machine or for a board."""


def sources() -> list[Path]:
    """Its files, below HERE / "src"."""
    return sorted(path for path in (HERE / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def outside(runtime: str) -> registry.Outside | None:
    """The installed package that offers a runtime; None of edge-bench's own."""
    return registry.outside(registry.RUNTIMES).get(runtime)


def requirements(runtime: str) -> list[str]:
    """What its own project file asks for.

    Raises:
        StageFailed: it has no such runtime.
    """
    offer = outside(runtime)
    if offer:
        raise StageFailed(f"{runtime} is a runtime of {offer}: only edge-bench's own can be brought to a board")
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    extras = {**project["optional-dependencies"], **{name: [] for name in NATIVE}}
    if runtime not in extras:
        raise StageFailed(f"edge-bench has no runtime {runtime!r} (known: {', '.join(sorted(extras))})")
    return [*project["dependencies"], *extras[runtime]]


@cache
def apart(runtime: str) -> bool:
    """Whether a runtime needs an environment of its own: its extra changes the version of a package of edge-bench."""
    if outside(runtime) or runtime in NATIVE:
        return False
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    wanted = map(_name, project["optional-dependencies"].get(runtime, ()))
    return not {*map(_name, project["dependencies"])}.isdisjoint(wanted)


def packages(runtime: str) -> tuple[str, ...]:
    """The distributions of a runtime, by name: of those that `requirements` asks for, whatever their versions."""
    offer = outside(runtime)
    if offer:
        return offer.requires
    return tuple(dict.fromkeys(map(_name, requirements(runtime))))


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


@cache
def identity() -> str:
    """Hash of edge-bench and of the versions that its runtimes are to have."""
    files = [*sources(), HERE / "pyproject.toml", _runner.SOURCE]
    return store.digest([[store.sha256(path) for path in files], registry.versions(("executorch",))])
