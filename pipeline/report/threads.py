"""The section on threads: each number of them beside one thread, in time and bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report.page import Block, Section, Table, numbers, only, texts
from pipeline.results.bit_equality import OverThreads


def section(found: Sequence[OverThreads]) -> Section:
    columns = (
        *texts("model", "recipe", "target", "device"),
        *numbers("p50, ms", "of one thread, ms", "times as fast", "equal outputs", "of samples"),
    )
    return Section(
        "threads",
        "Threads",
        "Each number of threads beside one thread on the same device: the median latency, and how many samples have "
        "outputs that are bit-equal to one thread's.",
        blocks=only(Block(table=Table(columns, tuple(map(_line, found))))),
    )


def _line(pair: OverThreads) -> tuple[str, ...]:
    one, many = pair.one.latency_ms, pair.many.latency_ms
    names = (formatting.model(pair.many), pair.many.recipe, pair.many.target, formatting.device(pair.many))
    times = (NONE, NONE, NONE)
    if one is not None and many is not None:
        times = (
            formatting.figure(many.p50),
            formatting.figure(one.p50),
            formatting.figure(one.p50 / many.p50) if many.p50 else NONE,
        )
    return *names, *times, f"{pair.equal:,}", f"{pair.samples:,}"
