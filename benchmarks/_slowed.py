"""edge-bench with a slowed runtime: `python benchmarks/_slowed.py NS ARGS…` spins NS nanoseconds in every tenth run."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from edge_bench import cli, model

EVERY = 10


class Slowed:
    """A session whose every tenth run takes longer."""

    def __init__(self, session: Any, ns: int) -> None:
        self._session, self._ns, self._runs = session, ns, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def invoke(self) -> None:
        self._session.invoke()
        self._runs += 1
        if self._ns and self._runs % EVERY == 0:
            clock = time.perf_counter_ns
            end = clock() + self._ns
            while clock() < end:
                pass


if __name__ == "__main__":
    ns, load = int(sys.argv[1]), model.load
    model.load = lambda job: dataclasses.replace(found := load(job), session=Slowed(found.session, ns))  # type: ignore[assignment]
    sys.argv[1:] = sys.argv[2:]
    cli.entry()
