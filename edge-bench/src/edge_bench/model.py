"""Loads a model file with a runtime, and measures the loading."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cpus, facts, files, memory, runtimes, streams
from .errors import BadArtifact, first_line


@dataclass(frozen=True)
class Job:
    """What to load, and how.

    Attributes:
        path: the model file.
        runtime: name of the runtime; None for the default of the file's suffix.
        verbose: show what the runtime prints while it loads.
        cpus: the CPUs that the process is pinned to; empty for all.
    """

    path: Path
    runtime: str | None = None
    threads: int = 1
    verbose: bool = False
    cpus: Sequence[int] = ()


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        artifact: its sha256 and size_bytes.
        runtime: name, version, threads, delegate, cpus.
        tools: versions; see `facts.tools`.
        copies_input: see `runtimes.Runtime.COPIES_INPUT`.
        load_ns: time to build the session and allocate its memory, with the file in the system's cache. It does not
            include the import of the runtime.
        rss_before_load_bytes: resident memory with the runtime imported, before the model is loaded.
    """

    session: runtimes.Session
    artifact: dict[str, Any]
    runtime: dict[str, Any]
    tools: dict[str, str | None]
    copies_input: bool
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
    # Hashing before loading puts the file into the system's cache, for all runtimes alike.
    artifact = {"artifact_sha256": files.sha256(path), "size_bytes": path.stat().st_size}
    with streams.captured(job.verbose) as output:
        runtime = runtimes.imported(name)
        try:
            runtime.check(path)
            rss = memory.rss_bytes()
            begin = time.perf_counter_ns()
            session = runtime.load(path, job.threads)
            load_ns = time.perf_counter_ns() - begin
        except Exception as error:  # runtimes have different exceptions, which all mean that they refuse the file
            reason = "; ".join(filter(None, [first_line(error), output.last_error()]))
            raise BadArtifact(f"{path}: {name} refuses to load it ({reason})") from error
    return Model(
        session=session,
        artifact=artifact,
        runtime={
            "name": name,
            "version": runtimes.version(runtime),
            "threads": job.threads,
            "delegate": session.delegate,
            "cpus": cpus.text(job.cpus) or None,
        },
        tools=facts.tools([runtime.DISTRIBUTION]),
        copies_input=runtime.COPIES_INPUT,
        load_ns=load_ns,
        rss_before_load_bytes=rss,
    )
