"""A model file, loaded by one runtime, with what was seen while loading it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import facts, files, memory, runtimes, streams
from .errors import BadArtifact, first_line


@dataclass(frozen=True)
class Job:
    """What to load, and how.

    Attributes:
        path: the model file.
        runtime: its runtime's name; None for the default of the file's suffix.
        verbose: show what the runtime prints while it loads.
    """

    path: Path
    runtime: str | None = None
    threads: int = 1
    verbose: bool = False


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        artifact: its sha256 and size_bytes.
        runtime: name, version, threads, delegate.
        load_ns: building the session and allocating its memory, the file in the system's cache; the runtime's import
            is not in it.
        rss_before_load_bytes: resident memory with the runtime imported and the model not yet loaded.
    """

    session: runtimes.Session
    artifact: dict[str, Any]
    runtime: dict[str, Any]
    tools: dict[str, str | None]
    load_ns: int
    rss_before_load_bytes: int | None


def load(job: Job) -> Model:
    """Loads a model file.

    Raises:
        UnknownName, NotInstalled: see runtimes.
        BadArtifact: the file is missing, or the runtime refuses it.
    """
    path = job.path
    files.check_artifact(path)
    name = runtimes.choose(path, job.runtime)
    # Before loading: the file then is in the system's cache, for every runtime alike.
    artifact = {"artifact_sha256": files.sha256(path), "size_bytes": path.stat().st_size}
    with streams.held_back(job.verbose) as chatter:
        runtime = runtimes.imported(name)
        try:
            runtime.check(path)
            rss = memory.rss_bytes()
            begin = time.perf_counter_ns()
            session = runtime.load(path, job.threads)
            load_ns = time.perf_counter_ns() - begin
        except Exception as error:  # each runtime has errors of its own; all of them mean that it refuses the file
            said = "; ".join(filter(None, [first_line(error), chatter.last_complaint()]))
            raise BadArtifact(f"{path}: {name} refuses to load it ({said})") from error
    return Model(
        session=session,
        artifact=artifact,
        runtime={
            "name": name,
            "version": runtimes.version(runtime),
            "threads": job.threads,
            "delegate": session.delegate,
        },
        tools=facts.tools([runtime.DISTRIBUTION]),
        load_ns=load_ns,
        rss_before_load_bytes=rss,
    )
