"""A call of `inv`, as a user makes it: a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INV = (sys.executable, "-m", "invoke")


@dataclass(frozen=True)
class Done:
    """A finished call."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What a call that went well printed."""
        assert self.code == 0, self.err
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads("\n".join(self.lines))

    @property
    def complaint(self) -> str:
        """The one line that ends a refused call; progress may stand before it, a traceback may not."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err + self.out
        *before, last = self.err.splitlines()
        assert last.startswith("error: "), self.err
        assert not [line for line in before if line.startswith("error")], self.err
        return last.removeprefix("error: ")

    @property
    def only(self) -> str:
        """The complaint of a call that said nothing else."""
        assert self.complaint and len(self.err.splitlines()) == 1 and self.out == "", (self.out, self.err)
        return self.complaint


def environment(build: Path, **more: str) -> dict[str, str]:
    """This process's variables with a build folder and others; one thread is fastest for networks as small as ours."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "LASTMILE_BUILD": str(build), **more}


def inv(build: Path, *words: object, **more: str) -> Done:
    """Runs `inv WORDS` to its end; `more` are environment variables."""
    command = [*INV, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(build, **more), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a build folder with its content; not who held its lock last."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def unfinished(build: Path) -> list[str]:
    """Temporary names below a build folder."""
    return [str(path) for path in build.rglob(".tmp-*")]
