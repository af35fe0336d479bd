"""A call of edge-bench, as a user makes it: a process."""

from __future__ import annotations

import json
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
    """

    name: str
    python: str
    artifact: Path
    arguments: tuple[str, ...]


Call = Callable[..., Done]
