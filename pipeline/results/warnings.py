"""What a reader of a measurement should know, each with what to do next; and every kind of it said once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pipeline import formatting
from pipeline.core import Cell, Measurement
from pipeline.stats import latency, percentile

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW_RUNS = 100
"""Below this many runs p99 is little else than the slowest one."""

WIDE_IQR = 0.10
"""An interquartile range above this share of the median is called wide."""

LONG_TAIL = 2.0
"""A p99 above this multiple of p50 is called a long tail."""

BUSY = 0.25
"""Share of the cores that other programs may keep busy before it is said."""

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")
"""A number that is a word of its own: 3.4 and 17 of 17 %, not the 99 of p99."""


def of_times(measurement: Measurement) -> tuple[str, ...]:
    """Why its times are not what they could be; empty where nothing is amiss.

    Times of an emulated device are shown nowhere, so nothing is said about them.
    """
    if measurement.device.get("emulated"):
        return ()
    return tuple(
        text
        for text in (*_spread(measurement.runs), _throttled(measurement), _governor(measurement), _load(measurement))
        if text
    )


def of_outputs(top1: NDArray[Any]) -> tuple[str, ...]:
    """Whether some samples have no answer.

    Args:
        top1: (N,) class indices, -1 where the outputs are not finite.
    """
    count = int((top1 < 0).sum())
    if not count:
        return ()
    return (f"{count} of {len(top1)} samples gave NaN or infinite outputs (counted as wrong): see inv trace",)


def of_part(samples: int, split: int) -> tuple[str, ...]:
    """Whether accuracy is of a part of the split only."""
    if samples == split:
        return ()
    return (f"accuracy is over {samples:,} of the split's {split:,} samples: leave --samples out for all of them",)


def _spread(runs: Sequence[Sequence[int]]) -> list[str]:
    if not runs:
        return ["no runs are on record: measure again"]
    found, summary = [], latency(runs)
    each = sorted(ns / loops for loops, ns in runs)
    wide = (percentile(each, 75) - percentile(each, 25)) / max(percentile(each, 50), 1e-9)
    if len(runs) < FEW_RUNS:
        found.append(f"p99 of {len(runs)} runs is little more than the slowest of them: measure {FEW_RUNS} or more")
    if wide > WIDE_IQR:
        found.append(
            f"the middle half of the runs spreads over {wide:.0%} of the median: close other programs, fix the clock "
            "(governor 'performance') and measure again"
        )
    if summary.p50 > 0 and summary.p99 > LONG_TAIL * summary.p50:
        found.append(
            f"p99 is {summary.p99 / summary.p50:.1f} times p50: something interrupts some runs; close other programs "
            "and measure again"
        )
    return found


def _throttled(measurement: Measurement) -> str | None:
    if not measurement.throttled:
        return None
    return "the device slowed its clock while it was measured: let it cool, check its power supply and measure again"


def _governor(measurement: Measurement) -> str | None:
    """Boards raise their clock when there is work, so what is short is measured while the clock still rises."""
    governor = measurement.device.get("governor")
    if governor in (None, "performance"):
        return None
    return f"the device's clock may change while it is measured (governor {governor!r}): set it to 'performance'"


def _load(measurement: Measurement) -> str | None:
    """The load average before the first run counts; the measurement before this one may have left its own threads."""
    load, cores = measurement.load_average[0], measurement.device.get("cores")
    if load is None or not isinstance(cores, int):
        return None
    threads = measurement.runtime.get("threads")
    own = threads if isinstance(threads, int) else 1
    if load - own <= BUSY * cores:
        return None
    return f"other programs were running (load average {load:.1f} on {cores} cores): close them and measure again"


# -- each kind once ----------------------------------------------------------------------------------------------------


def once(found: Sequence[Cell]) -> list[str]:
    """The warnings of all cells: those that differ in their numbers only are one, with the cells that it concerns."""
    kinds: dict[str, list[tuple[Cell, str]]] = {}
    for cell in found:
        for text in cell.warnings:
            kinds.setdefault(NUMBER.sub("#", text), []).append((cell, text))
    return [
        f"{_concerned([cell for cell, _ in kind], found)}: {_ranged([text for _, text in kind])}"
        for kind in kinds.values()
    ]


def _concerned(some: Sequence[Cell], found: Sequence[Cell]) -> str:
    """The cells by name; all those measured, by their number."""
    measured = [cell for cell in found if cell.status == "ok" and cell.device is not None]
    names = [_name(cell, measured) for cell in some]
    if len(some) == 1:
        return names[0]
    count = f"{len(some)} of {len(measured)} cells"
    return count if len(some) == len(measured) else f"{count} ({'; '.join(names)})"


def _name(cell: Cell, measured: Sequence[Cell]) -> str:
    """A cell's name, with its model or its device where there are several."""
    parts = [formatting.model(cell)] if len({formatting.model(c) for c in measured}) > 1 else []
    parts.append(formatting.name(cell))
    parts += [formatting.device(cell)] if len({(c.device, c.threads) for c in measured}) > 1 else []
    return ", ".join(parts)


def _ranged(texts: Sequence[str]) -> str:
    """Texts that differ in their numbers only, as one: where a number differs, from the lowest to the highest."""
    numbers = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    return "".join(
        part for pair in zip_longest(NUMBER.split(texts[0]), map(_range, numbers), fillvalue="") for part in pair
    )


def _range(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if low == high else f"{low} to {high}"
