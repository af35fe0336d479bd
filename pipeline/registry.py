"""A folder is a registry: the file's name is the plug-in's name. Installed packages add plug-ins by entry points.

A package that declares an entry point in the group `lastmile.<folder>` ("lastmile.targets") adds a plug-in to that
folder; docs/plug-ins.md shows how. Looking up names imports nothing, so listing them costs nothing. Importing a plug-in
imports no framework either: heavy packages are imported inside the plug-ins' functions.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Generic, TypeVar, cast

from pipeline.errors import BadPlugIn, MissingExtra, UnknownName, first_line

HERE = Path(__file__).parent
PROTOCOLS = {
    "recipes": "RecipeModule",
    "targets": "Target",
    "datasets": "Dataset",
    "tasks": "Task",
    "devices": "DeviceKind",
    "frameworks": "Framework",
    "packages": "Package",
    "framework_comparison.parts": "Comparison",
}
"""The registries, and the Protocol in each folder's __init__.py that its plug-ins have."""

NEUTRAL = (
    "pipeline.core", "pipeline.errors", "pipeline.registry", "pipeline.formatting", "pipeline.system.",
    "pipeline.results.", "pipeline.report.", "pipeline.devices.", "pipeline.stages.plan", "pipeline.stages.train",
    "pipeline.stages.export",
)  # fmt: skip
"""Modules and folders whose code decides no content of an exported file: see `code_hash`. Packages' own files, which
have Protocols and nouns, do not count either."""

RUNTIMES = "edge_bench.runtimes"
"""The group of edge-bench's runtimes, which edge-bench itself loads."""


@dataclass(frozen=True)
class Outside:
    """A plug-in that an installed package offers through an entry point.

    Attributes:
        value: the entry point's: the module, "acme.npu".
        package, version: the distribution.
        requires: names of the distributions that it requires, those of its extras included.
    """

    name: str
    value: str
    package: str
    version: str
    requires: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    def files(self) -> list[Path]:
        """The Python files of the package that the module is in, or the module alone where it is in none."""
        from importlib.util import find_spec

        parts = self.value.partition(":")[0].strip().split(".")
        for length in range(1, len(parts) + 1):
            try:
                spec = find_spec(".".join(parts[:length]))
            except (ImportError, AttributeError, ValueError):
                break
            if spec is not None and spec.origin is not None:  # None: a namespace, which several packages may share
                folders = spec.submodule_search_locations
                return sorted(p for f in folders for p in Path(f).rglob("*.py")) if folders else [Path(spec.origin)]
        raise BadPlugIn(f"{self}: there is no module {self.value!r}, which its plug-in {self.name!r} names")


T = TypeVar("T")


@dataclass(frozen=True)
class Plugin(Generic[T]):
    """A plug-in bound to its name: commands resolve a name once and pass this on.

    Attributes:
        folder: the registry, for example "targets".
        module: the module with the verbs of the folder's Protocol.
    """

    folder: str
    name: str
    module: T

    @property
    def source_hash(self) -> str:
        """See the function `source_hash`."""
        return source_hash(self.folder, self.name)


def bind(folder: str, name: str) -> Plugin[Any]:
    """The plug-in with its name.

    Raises:
        UnknownName: as `load`.
    """
    return Plugin(folder, name, load(folder, name))


def names(folder: str) -> list[str]:
    """Names of the plug-ins of a folder, sorted: the files of pipeline/<folder>/, and what other packages offer.

    Raises:
        BadPlugIn: a name is taken twice.
    """
    return sorted([*_own(folder), *_outside(folder)])


def load(folder: str, name: str) -> ModuleType:
    """The plug-in module of that name.

    Raises:
        UnknownName: there is none; the known names are listed.
        BadPlugIn: a name is taken twice; or the plug-in cannot be imported, or lacks a part of the folder's Protocol.
    """
    known = names(folder)
    if name not in known:
        raise UnknownName(_kind(folder), name, known)
    return _loaded(folder, name, _outside(folder).get(name))


def load_all(folder: str) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Every plug-in of a folder that loads, by name, and for each of the others the reason why it does not.

    Raises:
        BadPlugIn: a name is taken twice.
    """
    loaded, broken = {}, {}
    for name in names(folder):
        try:
            loaded[name] = load(folder, name)
        except BadPlugIn as error:
            broken[name] = str(error)
    return loaded, broken


def outside(group: str) -> Mapping[str, Outside]:
    """What installed packages offer in an entry-point group, by name.

    Raises:
        BadPlugIn: two packages offer one name, or a name cannot be one.
    """
    found: dict[str, Outside] = {}
    kind = _kind(group)
    for offer in _entry_points(tuple(sys.path)).get(group, ()):
        if not re.fullmatch(r"[A-Za-z0-9]\w*", offer.name, re.ASCII) or offer.name == "all":
            raise BadPlugIn(f"{offer}: {offer.name!r} cannot be the name of a {kind}: use letters, digits and _")
        if offer.name in found:
            raise _taken(kind, offer.name, str(found[offer.name]), offer)
        found[offer.name] = offer
    return found


@cache
def _own(folder: str) -> tuple[str, ...]:
    return tuple(p.stem for p in _place(folder).glob("*.py") if not p.stem.startswith("_"))


def _outside(folder: str) -> Mapping[str, Outside]:
    found = outside(f"lastmile.{folder}")
    for name in _own(folder) if found else ():
        if name in found:
            raise _taken(_kind(folder), name, "lastmile", found[name])
    return found


def _taken(kind: str, name: str, first: str, second: Outside) -> BadPlugIn:
    return BadPlugIn(
        f"the {kind} {name!r} is offered by both {first} and {second}: uninstall one (pip uninstall {second.package}), "
        "or use a version of it that has another name"
    )


@cache
def _loaded(folder: str, name: str, offer: Outside | None) -> ModuleType:
    module = _imported(folder, offer) if offer else importlib.import_module(f"pipeline.{folder}.{name}")
    package = importlib.import_module(f"pipeline.{folder}")
    lacks = _lacks(getattr(package, PROTOCOLS[folder]), module)
    wrong = f"it lacks {', '.join(lacks)} of pipeline.{folder}.{PROTOCOLS[folder]}" if lacks else None
    if wrong is None and hasattr(package, "wrong"):
        wrong = package.wrong(name, module)
    if wrong is not None:
        raise BadPlugIn(f"the {_kind(folder)} {name!r} of {offer or 'lastmile'} cannot be used: {wrong}")
    return module


def _imported(folder: str, offer: Outside) -> ModuleType:
    module, _, attribute = (part.strip() for part in offer.value.partition(":"))
    try:
        loaded = importlib.import_module(module)
        return cast(ModuleType, getattr(loaded, attribute)) if attribute else loaded
    except (Exception, SystemExit) as error:  # the code of others may raise anything
        raise BadPlugIn(
            f"the {_kind(folder)} {offer.name!r} of {offer} cannot be imported: "
            f"{type(error).__name__}: {first_line(error)}; update or uninstall {offer.package}"
        ) from error


def _lacks(protocol: type, module: ModuleType) -> list[str]:
    """What a Protocol declares and a module has not."""
    attributes = [name for name in protocol.__annotations__ if not hasattr(module, name)]
    verbs = [name for name, value in vars(protocol).items() if isinstance(value, FunctionType) and name[0] != "_"]
    return attributes + [f"{name}()" for name in verbs if not callable(getattr(module, name, None))]


def _kind(folder: str) -> str:
    """What one plug-in of a folder or group is called: "target"."""
    return folder.rpartition(".")[2].removesuffix("s")


def _place(folder: str) -> Path:
    """The folder of a registry: "targets", or "framework_comparison.parts"."""
    return HERE.joinpath(*folder.split("."))


# -- entry points ------------------------------------------------------------------------------------------------------


@cache
def _entry_points(path: tuple[str, ...]) -> Mapping[str, list[Outside]]:
    """Every entry point of our groups in the packages on `path` (sys.path), by group."""
    from importlib import metadata

    found: dict[str, list[Outside]] = {}
    seen = set()
    for package in metadata.distributions(path=list(path)):
        entries = [entry for entry in package.entry_points if entry.group.startswith(("lastmile.", RUNTIMES))]
        if not entries:
            continue  # before its metadata are parsed: there are hundreds of packages
        name = re.sub(r"[-_.]+", "-", package.name).lower()
        if name in seen:  # of two installations of a package, the first on the path counts
            continue
        seen.add(name)
        matches = (re.match(r"[\w.-]+", line) for line in package.requires or ())
        requires = tuple(dict.fromkeys(match[0] for match in matches if match))
        for entry in entries:
            value = entry.value.partition("[")[0].strip()
            offer = Outside(entry.name, value, package.name, package.version, requires)
            found.setdefault(entry.group, []).append(offer)
    return found


# -- what a plug-in needs ----------------------------------------------------------------------------------------------


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


def source_hash(folder: str, name: str) -> str:
    """Hash of a plug-in's source and of the helpers that it names: a file made by other code is out of date.

    Of a plug-in of another package: the hash of that package's Python files, its name and its version.
    """
    offer = _outside(folder).get(name)
    return outside_hash(offer) if offer else _own_hash(folder, name)


@cache
def outside_hash(offer: Outside) -> str:
    """Hash of a plug-in's files, as `Outside.files` gives them, and of its distribution's name and version."""
    import hashlib

    digest = hashlib.sha256(f"{offer.package} {offer.version} {offer.value}".encode())
    for path in offer.files():
        digest.update(f"\n{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _own_hash(folder: str, name: str) -> str:
    return code_hash(f"pipeline.{folder}.{name}")


@cache
def code_hash(*modules: str) -> str:
    """Hash of the source of modules of ours and of every module of ours that they name, imported or started as a
    process; those in NEUTRAL decide no content of a file."""
    import hashlib

    found: dict[str, bytes] = {}
    left = list(modules)
    while left:
        module = left.pop()
        path = HERE.parent.joinpath(*module.split(".")).with_suffix(".py")
        if module in found or module.startswith(NEUTRAL) or not path.is_file():
            continue
        found[module] = path.read_bytes()
        text = found[module].decode()
        left += re.findall(r"\bpipeline(?:\.\w+)+", text)
        for package, names in re.findall(r"\bfrom (pipeline[.\w]*) import (\([^)]*\)|[^\n]*)", text):
            left += [f"{package}.{name}" for name in re.findall(r"\w+", names)]
    return hashlib.sha256(b"".join(name.encode() + found[name] for name in sorted(found))).hexdigest()


def import_order() -> None:
    """Imports triton before anything can import tensorflow: the other way round ends the process by a signal."""
    from importlib.util import find_spec

    if find_spec("triton"):
        import triton  # noqa: F401
