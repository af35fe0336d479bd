"""Calls of edge-bench as a process, as a user makes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """A finished process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error message of a failed call. It has one line, and the exit code is 2."""
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
        python: the Python in which it is installed.
        artifact: the network in the runtime's format.
        arguments: the arguments that run the network on samples.npy.
        path: a further folder for the Python path; None if the runtime is installed.
    """

    name: str
    python: str
    artifact: Path
    arguments: tuple[str, ...]
    path: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        """Environment variables of a process with the runtime."""
        return environment(self.path)


def environment(path: Path | None) -> dict[str, str]:
    """This process's environment variables, with a further folder on the Python path."""
    own = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), own]))}


Call = Callable[..., Done]
