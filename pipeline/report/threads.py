"""The section on threads: latency and outputs of several threads, compared with one thread."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report.page import Block, Section, Table, numbers, only, texts
from pipeline.results.bit_equality import OverThreads


def section(found: Sequence[OverThreads]) -> Section:
    columns = (
        *texts("model", "recipe", "target", "device"),
        *numbers("p50, ms", "p50 of one thread, ms", "speedup", "bit-equal samples", "samples"),
    )
    return Section(
        "threads",
        "Threads",
        "Several threads compared with one thread on the same device: the median latency, and the number of samples "
        "whose outputs are bit-equal to those of one thread.",
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
