"""Measures how long a run of a model takes, and keeps every raw sample."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from . import cpus, facts, memory, model, throttling
from .errors import EdgeBenchError, first_line
from .runtimes import Session
from .samples import Samples, pseudo_random

if TYPE_CHECKING:
    from .runtimes import Array

Entry = tuple[int, int]
"""(loops, ns): so many consecutive runs took so long in total."""

ENTRY_NS = 1_000_000
"""Minimum length of an entry, approximately. The cost of reading the clock is then negligible."""

SINGLE_RUNS = 200
"""How many runs are also timed one by one where entries have loops: percentiles of averages are not those of runs."""

CLOCK_READINGS = 1000


@dataclass(frozen=True)
class Effort:
    """How long to measure: until there are `min_runs` entries and `min_seconds` have passed, after the warm-up."""

    min_runs: int = 64
    min_seconds: float = 1.0
    warmup_seconds: float = 0.25


def run(job: model.Job, samples: Samples | None, effort: Effort) -> dict[str, Any]:
    """Measures a model file.

    Args:
        samples: the runs use the first one; None for a fixed pseudo-random input.

    Returns:
        A measurement (schema 2), ready for JSON.

    Raises:
        EdgeBenchError: the model could not be loaded or run, or the process cannot be pinned.
    """
    device = facts.device()  # before pinning: cpus and cores are those of the machine
    if job.cpus:
        cpus.require_spread(job.cpus, job.threads)
        cpus.pin(job.cpus)
    started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    before, watch = facts.state(), throttling.Watch()
    loaded = model.load(job)
    inputs = _inputs(loaded.session, samples)
    try:
        timing = _timing(loaded.session, inputs, effort, watch.look_if_due)
    except Exception as error:
        raise EdgeBenchError(
            f"{job.path}: {loaded.runtime['name']} failed while running it ({first_line(error)})"
        ) from error
    after = facts.state()
    return {
        "schema": 2,
        **loaded.artifact,
        "device": device,
        "runtime": loaded.runtime,
        "load_ns": loaded.load_ns,
        **timing,
        "includes_input_copy": loaded.copies_input or timing["refills_input"],
        "temperature_c": [before["temperature_c"], after["temperature_c"]],
        "frequency_hz": [before["frequency_hz"], after["frequency_hz"]],
        "throttled": after["throttled"],
        "throttled_before": before["throttled"],
        "throttling": watch.result(),
        "load_average": [before["load_average"], after["load_average"]],
        "peak_rss_bytes": memory.peak_rss_bytes(),
        "rss_before_load_bytes": loaded.rss_before_load_bytes,
        "started_at": started_at,
        "tools": loaded.tools,
    }


def _inputs(session: Session, samples: Samples | None) -> list[Array]:
    if samples is None:
        return [pseudo_random(info) for info in session.inputs]
    return [samples.get(0, samples.check(session.inputs))]


def _timing(
    session: Session, inputs: Sequence[Array], effort: Effort, look: throttling.Look = throttling.never
) -> dict[str, Any]:
    """first_run_ns, refills_input, warmup, runs, single_runs and clock_ns.

    Args:
        look: called between entries; see `measure`.
    """
    session.set(inputs)
    with _no_garbage_collection():
        _, first_run_ns = entry(session.invoke, 1)
        refills = not _keeps_input(session)
        call: Callable[[], object] = session.invoke
        if refills:

            def call() -> object:
                session.refill()
                return session.invoke()

        warmup = warm_up(call, effort.warmup_seconds)
        loops = loops_for(warmup)
        runs = measure(call, loops, effort, look)
        singles = single_runs(call, SINGLE_RUNS if loops > 1 else 0)
        clock = clock_ns()
    return {
        "first_run_ns": first_run_ns,
        "refills_input": refills,
        "warmup": warmup,
        "runs": runs,
        "single_runs": singles,
        "clock_ns": clock,
    }


def entry(call: Callable[[], object], loops: int) -> Entry:
    """Times `loops` calls of `call`. Reads the clock only before the first and after the last."""
    clock, rounds = time.perf_counter_ns, itertools.repeat(None, loops)
    begin = clock()
    for _ in rounds:
        call()
    return loops, clock() - begin


def warm_up(call: Callable[[], object], seconds: float) -> list[Entry]:
    """Entries for about so many seconds, at least one. The loops double until an entry takes ENTRY_NS."""
    entries: list[Entry] = []
    loops, end = 1, time.perf_counter_ns() + int(seconds * 1e9)
    while not entries or time.perf_counter_ns() < end:
        entries.append(entry(call, loops))
        if entries[-1][1] < ENTRY_NS:
            loops *= 2
    return entries


def loops_for(warmup: Sequence[Entry]) -> int:
    """How many runs take about ENTRY_NS; 1 if a single run takes longer.

    It uses the fastest entry, because the first ones are slower than the runs that will be measured.
    """
    fastest_ns = min(ns / loops for loops, ns in warmup)
    return max(1, round(ENTRY_NS / max(fastest_ns, 1.0)))


def measure(
    call: Callable[[], object], loops: int, effort: Effort, look: throttling.Look = throttling.never
) -> list[Entry]:
    """Measures entries until there are `min_runs` and `min_seconds` have passed.

    Args:
        look: called after every entry; returns whether it did something that disturbs the caches. Then runs of less
            than 1 ms are looped once without being recorded.
    """
    entries: list[Entry] = []
    end = time.perf_counter_ns() + int(effort.min_seconds * 1e9)
    while len(entries) < effort.min_runs or time.perf_counter_ns() < end:
        entries.append(entry(call, loops))
        if look() and loops > 1:
            entry(call, loops)
    return entries


def single_runs(call: Callable[[], object], count: int) -> list[int]:
    """The nanoseconds of `count` runs, each timed alone. They include the cost of reading the clock: `clock_ns`."""
    clock, found = time.perf_counter_ns, []
    for _ in range(count):
        begin = clock()
        call()
        found.append(clock() - begin)
    return found


def clock_ns() -> int:
    """What the clock adds to the time of a single run: the median time between two readings."""
    clock, found = time.perf_counter_ns, []
    for _ in range(CLOCK_READINGS):
        begin = clock()
        found.append(clock() - begin)
    return sorted(found)[CLOCK_READINGS // 2]


def _keeps_input(session: Session) -> bool:
    """Whether a run leaves its input intact, so that a second run gives the same outputs.

    ExecuTorch may reuse an input's memory after the input has been read. A second run would then compute with garbage,
    and the measured time would mean nothing; it fails if the garbage is an index out of range. If the outputs change,
    the input is set again before every run. (This function's own run is not recorded: it is not the first and, if the
    input is gone, not like the others.)
    """
    first = session.get()
    try:
        session.invoke()
    except Exception:
        session.refill()
        session.invoke()  # fails again if the input was not the reason
        return False
    return all(_alike(one, other) for one, other in zip(first, session.get()))


def _alike(one: Array, other: Array) -> bool:
    """Equal up to rounding: threads may change the order of summation."""
    if one.shape != other.shape:
        return False
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.allclose(a, b, rtol=1e-3, atol=1e-5 * float(np.max(np.abs(a), initial=0.0)), equal_nan=True)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    sys.stderr.flush()
