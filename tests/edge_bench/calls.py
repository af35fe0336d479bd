"""A call of edge-bench, as a user makes it: a process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """A finished call."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line of a refused call."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("edge-bench: ")
        return lines[0].removeprefix("edge-bench: ")


@dataclass(frozen=True)
class Subject:
    """A runtime under test.

    Attributes:
        python: the Python that it is installed in.
        artifact: the net in the runtime's format.
        arguments: what runs the net on samples.npy with it.
        path: a folder that Python imports from too; None where the runtime is installed.
    """

    name: str
    python: str
    artifact: Path
    arguments: tuple[str, ...]
    path: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment that a process with the runtime gets."""
        return environment(self.path)


def environment(path: Path | None) -> dict[str, str]:
    """This process's environment, with one more folder that Python imports from."""
    own = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), own]))}


Call = Callable[..., Done]
