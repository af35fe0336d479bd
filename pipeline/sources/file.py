"""A ready file: an artifact of any converter, which is pushed and measured as it is, with no export before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import registry
from pipeline.errors import BadOption
from pipeline.registry import Plugin
from pipeline.system import store

if TYPE_CHECKING:
    from pipeline.targets import Target


@dataclass(frozen=True)
class ReadyFile:
    """A file of one of the targets' formats."""

    path: Path
    target: Plugin[Target]
    sha256: str

    @property
    def name(self) -> str:
        """Its folder in build/files/: the content tells two files of one name apart."""
        return f"{self.path.stem}-{self.sha256[:12]}"


def suffixes() -> dict[str, str]:
    """Suffix → target of the formats that a file may have."""
    return {module.SUFFIX: name for name, module in registry.load_all("targets")[0].items()}


def is_file(word: str) -> bool:
    """Whether a value of `--model` is a ready file instead of a model, by its suffix."""
    return Path(word).suffix in suffixes()


def find(path: Path) -> ReadyFile:
    """The ready file at a path.

    Raises:
        BadOption: there is none, it has no format of a target, or it is empty.
    """
    known = suffixes()
    if path.suffix not in known:
        raise BadOption(f"{path}: not a file of a known format ({', '.join(sorted(known))})")
    if not path.exists():
        raise BadOption(f"{path}: no such file")
    if store.size(path) == 0:
        raise BadOption(f"{path} is empty")
    return ReadyFile(path, registry.bind("targets", known[path.suffix]), store.sha256(path))
