"""Warnings about measurements, each with what to do next; warnings of the same kind are merged into one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline import formatting
from pipeline.core import Cell, Coverage, Timed
from pipeline.stats import latency, percentile, single_runs_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDE_SPREAD = 0.10
"""A difference of the slowest and the fastest process above this share of the median is wide. With five processes, the
interval of a ratio of two files is then wider than ±7 %, and the summary calls a file faster from 10 % on."""

FEW_RUNS = 100
"""With fewer runs, p99 is close to the slowest run."""

WIDE_IQR = 0.10
"""An interquartile range above this share of the median is wide."""

LONG_TAIL = 2.0
"""A p99 above this multiple of p50 is a long tail."""

BUSY = 0.25
"""Share of the cores that other programs may keep busy without a warning."""

HOT = 0.9
"""A thermal headroom from which a phone is close to throttling. Source: PowerManager.getThermalHeadroom: at 1.0 it
throttles severely."""

LOW_BATTERY = 0.25
"""A battery level below which a phone may save power. Source: androidx.benchmark, which refuses to measure below it."""

NAMED = 3
"""How many layers a warning names."""

SLOWED = {
    "undervoltage": "undervoltage during the measurement: use the supply and cable made for the board (5 V 3 A for a "
    "Pi 4, 5 V 5 A for a Pi 5), unplug USB devices and measure again",
    "frequency_capped": "the board capped its CPU clock during the measurement: check its power supply and its "
    "cooling, and measure again",
    "throttled": "the board throttled during the measurement because of heat or undervoltage: let it cool, check its "
    "power supply and measure again",
    "soft_temperature_limit": "the board reached its soft temperature limit during the measurement and lowered its "
    "clock: add a heat sink or fan, or set cool_down_c, and measure again",
    "cooling_device": "the kernel slowed the CPUs during the measurement to cool them: improve the cooling, or set "
    "cool_down_c, and measure again",
    "trip_point": "the temperature passed the point from which the kernel slows the CPUs during the measurement: "
    "improve the cooling, or set cool_down_c, and measure again",
    "thermal_throttling": "the processor throttled during the measurement because of heat: let it cool and measure "
    "again",
    "thermal_status": "Android throttled the phone during the measurement because of heat: take it out of its case, "
    "let it cool, or set cool_down_c in devices.toml, and measure again",
    "cpu_limit": "a limit of CPU time (cgroup cpu.max) stopped the process during the measurement: raise the limit, or "
    "use fewer threads, and measure again",
}
"""Reason of `Process.throttling` → the warning."""

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)")
"""A number that is a word of its own: the 3.4 of "load 3.4" and the 17 of "17%", not the 99 of "p99"."""


def of_times(measurement: Timed) -> tuple[str, ...]:
    """Reasons to doubt a measurement's times. Emulated devices show no times, so they get no warnings here."""
    if measurement.device.get("emulated"):
        return ()
    return tuple(
        text
        for text in (
            *_spread(measurement),
            *_throttled(measurement),
            *_phone(measurement),
            _governor(measurement),
            _load(measurement),
        )
        if text
    )


def of_outputs(outputs: Sequence[NDArray[Any]]) -> tuple[str, ...]:
    """A warning if some samples have outputs, each (N, …), that are not finite."""
    import numpy as np

    finite = [np.isfinite(each.reshape(len(each), -1)).all(axis=1) for each in outputs]
    count = int((~np.logical_and.reduce(finite)).sum())
    if not count:
        return ()
    return (f"{count} of {len(outputs[0])} samples gave NaN or infinite outputs (counted as wrong): see inv trace",)


def of_part(samples: int, split: int) -> tuple[str, ...]:
    """A warning if accuracy covers only part of the split."""
    if samples == split:
        return ()
    return (f"accuracy covers {samples:,} of {split:,} samples: omit --samples to use all of them",)


def of_coverage(coverage: Coverage | None) -> tuple[str, ...]:
    """A warning if a quantized file computes much of its work in float; it names the largest of these layers."""
    if coverage is None or not coverage.low:
        return ()
    layers = coverage.float_layers
    names = [f"{layer.name} ({layer.operator}: {layer.reason})" for layer in layers[:NAMED]]
    names += [f"{len(layers) - NAMED} more"] if len(layers) > NAMED else []
    share = f"only {100 * coverage.multiply_adds:.1f} % of the multiply-adds are quantized"
    return (f"{share}; these layers stay in float: {', '.join(names)}",)


def _is_phone(measurement: Timed) -> bool:
    return "android" in measurement.device


def _spread(measurement: Timed) -> list[str]:
    processes = measurement.processes
    if not all(process.runs for process in processes):
        return ["a process recorded no runs: measure again"]
    found, summary, single = [], latency(processes), single_runs_ms(processes)
    wide, typical = median(interquartile_range(process.runs) for process in processes), percentile(single, 50)
    if summary.spread is None:
        found.append("measured in one process: how much processes differ is unknown; use --processes 5")
    elif summary.spread > WIDE_SPREAD:
        found.append(
            f"the medians of the {len(processes)} processes differ by {summary.spread:.0%}, so smaller differences "
            "between files mean nothing: close other programs and measure again, with more --processes"
        )
    if len(single) < FEW_RUNS:
        found.append(f"p99 of only {len(single)} runs is close to the slowest run: use {FEW_RUNS} runs or more")
    if wide > WIDE_IQR:
        found.append(
            f"the interquartile range of the runs is {wide:.0%} of the median: close other programs, "
            f"{_steady(measurement)} and measure again"
        )
    if typical > 0 and summary.p99 > LONG_TAIL * typical:
        found.append(
            f"p99 is {summary.p99 / typical:.1f} times the median of single runs, so some runs were interrupted: close "
            "other programs and measure again"
        )
    return found


def interquartile_range(runs: Sequence[Sequence[int]]) -> float:
    """The interquartile range of the runs of one process, as a share of their median."""
    each = sorted(ns / loops for loops, ns in runs)
    return (percentile(each, 75) - percentile(each, 25)) / max(percentile(each, 50), 1e-9)


def _throttled(measurement: Timed) -> list[str]:
    """A warning for each reason, or one where the device reports only that it throttled."""
    slowed = [process for process in measurement.processes if process.throttled]
    seen = {reason for process in slowed for reason in process.throttling}
    known = [text for reason, text in SLOWED.items() if reason in seen]
    if slowed and not known:
        known = ["the device throttled during the measurement: let it cool, check its power supply and measure again"]
    return known


def _governor(measurement: Timed) -> str | None:
    """Boards raise their clock under load, so a short measurement runs while the clock is still rising."""
    governor = measurement.device.get("governor")  # of all clusters: "performance / schedutil"
    if governor in (None, "performance") or measurement.device.get("fixed_performance"):
        return None
    if _is_phone(measurement):
        return f"the CPU clock may change during the measurement (governor {governor!r}): {_steady(measurement)}"
    return f"the CPU clock may change during the measurement (governor {governor!r}): set it to 'performance'"


def _steady(measurement: Timed) -> str:
    """What keeps the clock steady. A phone's owner cannot set the governor without root."""
    if not _is_phone(measurement):
        return "set the CPU governor to 'performance'"
    if measurement.device.get("fixed_performance") is False:  # asked for, and refused
        return "let the phone cool between measurements (cool_down_c in devices.toml)"
    return "set fixed_performance = true in devices.toml"


def _phone(measurement: Timed) -> list[str]:
    """What a phone's owner can change about its state."""
    device, found = measurement.device, []
    states = [end for state in device.get("states", ()) for end in (state["before"], *state["samples"], state["after"])]
    if any(state.get("power_save") for state in states):
        found.append("battery saver was on, which lowers the clocks: turn it off (Settings, Battery) and measure again")
    headroom = max((state.get("thermal_headroom") or 0.0 for state in states), default=0.0)
    if headroom >= HOT:
        found.append(
            f"the phone was close to throttling (thermal headroom {headroom:.2f}; at 1 it throttles severely): take it "
            "out of its case, let it cool, or set cool_down_c in devices.toml, and measure again"
        )
    empty = [state for state in states if state.get("charging") is False and state.get("battery_level") is not None]
    level = min((state["battery_level"] for state in empty), default=1.0)
    if level < LOW_BATTERY:
        found.append(f"the battery was at {level:.0%} and not charging: charge it and measure again")
    if device.get("fixed_performance") is False:
        reason = device.get("fixed_performance_error")
        found.append(
            f"the phone refused fixed-performance mode ({reason}), so its clocks were not fixed: remove "
            "fixed_performance from devices.toml, and let it cool before measuring (cool_down_c)"
        )
    if "compiled" in device and device["compiled"] is None:
        found.append(
            f"the phone did not compile the app ahead ({device.get('compile_error')}), so the first inference includes "
            "the compilation of the app's code: compare p50 only"
        )
    if any(process.peak_rss_reset is False for process in measurement.processes):
        found.append(
            "the phone does not let the app reset its record of peak memory, so the peak may be that of the app's start"
        )
    return found


def _load(measurement: Timed) -> str | None:
    """Judges the load averages before the runs, less this many threads: a previous process may have left them in the
    average."""
    loads = [process.load_average[0] for process in measurement.processes if process.load_average[0] is not None]
    cores = measurement.device.get("cores")
    if not loads or not isinstance(cores, int):
        return None
    load = median(loads)
    threads = measurement.runtime.get("threads")
    own = threads if isinstance(threads, int) else 1
    if load - own <= BUSY * cores:
        return None
    return f"other programs were running (load average {load:.1f} on {cores} cores): close them and measure again"


# -- merging -----------------------------------------------------------------------------------------------------------


def once(found: Sequence[Cell]) -> list[str]:
    """The warnings of all cells. Those that differ only in numbers become one line that names the affected cells."""
    kinds: dict[str, list[tuple[Cell, str]]] = {}
    for cell in found:
        for text in cell.warnings:
            kinds.setdefault(NUMBER.sub("#", text), []).append((cell, text))
    return [
        f"{_affected([cell for cell, _ in kind], found)}: {_ranged([text for _, text in kind])}"
        for kind in kinds.values()
    ]


def _affected(some: Sequence[Cell], found: Sequence[Cell]) -> str:
    """The names of the affected cells; only their number if all measured cells are affected."""
    measured = [cell for cell in found if cell.status == "ok" and cell.device is not None]
    names = [_name(cell, measured) for cell in some]
    if len(some) == 1:
        return names[0]
    count = f"{len(some)} of {len(measured)} cells"
    return count if len(some) == len(measured) else f"{count} ({'; '.join(names)})"


def _name(cell: Cell, measured: Sequence[Cell]) -> str:
    """A cell's name, with its model and its device if there are several."""
    parts = [formatting.model(cell)] if len({formatting.model(c) for c in measured}) > 1 else []
    parts.append(formatting.name(cell))
    parts += [formatting.device(cell)] if len({(c.device, c.threads) for c in measured}) > 1 else []
    return ", ".join(parts)


def _ranged(texts: Sequence[str]) -> str:
    """Merges texts that differ only in numbers: a number that varies becomes its range."""
    numbers = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    return "".join(
        part for pair in zip_longest(NUMBER.split(texts[0]), map(_range, numbers), fillvalue="") for part in pair
    )


def _range(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if low == high else f"{low} to {high}"
