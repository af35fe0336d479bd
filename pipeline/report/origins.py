"""Where the figures come from: machines, versions of tools, method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from pipeline import formatting
from pipeline.report.groups import measured
from pipeline.report.page import Block, Section, Table, only, texts
from pipeline.results.rows import Row

METHOD = (
    "Latency: one inference with the input in memory, outputs read back; decoding and resizing of pictures is not in "
    "it. Runs shorter than 1 ms are timed in loops, and a loop's average is one value. Warm-up runs are kept apart and "
    "do not count. Where a runtime overwrites its input, filling it again is part of the run. Percentiles are by "
    "linear interpolation over the raw runs.",
    "Load: from the file to a session that can run; starting the runtime itself is not in it. Peak memory: the "
    "process's high-water mark, its runtime included.",
    "Accuracy: the whole evaluation split, run on the device, sample by sample beside the float model's.",
    "95 % interval: adjusted Wald for paired proportions (Bonett and Price, Journal of Educational and "
    "Behavioral Statistics 37(4), 2012). Where it contains 0, these samples do not tell the two apart. About 1 "
    "in 20 intervals leaves out 0 by chance.",
    "Bit-equal: all bytes of all outputs of a sample; NaN and infinite values are equal to nothing.",
    "Sizes: 1 kB is 1000 bytes. The raw samples of every figure are beside its measurement.json.",
)


def machines(found: Sequence[Row]) -> Section:
    """Every device's facts; where measurements of one device differ in a fact, all its values."""
    blocks = []
    by_name = sorted(measured(found), key=lambda m: str(m.device.get("name")))
    for name, group in groupby(by_name, key=lambda m: str(m.device.get("name"))):
        own = list(group)
        facts = {
            key: _values(_fact(key, m.device.get(key)) for m in own) for m in own for key in m.device if key != "name"
        }
        facts["runtimes"] = _values(formatting.runtime(m) for m in own)
        facts["temperature, °C"] = _range(t for m in own for t in m.temperature_c)
        facts["load average"] = _range(t for m in own for t in m.load_average)
        facts["throttled"] = _values({True: "yes", False: "no", None: "cannot tell"}[m.throttled] for m in own)
        facts["measured"] = _span([m.started_at for m in own])
        lines = tuple((_without_unit(key), value) for key, value in facts.items())
        blocks.append(Block(name, table=Table(texts("fact", "value"), lines)))
    return Section("machines", "Machines", blocks=tuple(blocks), nothing="Nothing was measured.")


def _values(values: Iterable[Any]) -> str:
    """Different values once each, in words."""
    known = {None: formatting.NONE, True: "yes", False: "no"}
    return " / ".join(dict.fromkeys(known[v] if v is None or isinstance(v, bool) else str(v) for v in values))


def _fact(key: str, value: Any) -> Any:
    """A fact with its unit, where its name carries one; of values at start and end, those that are known."""
    if isinstance(value, list | tuple):
        return " to ".join(dict.fromkeys(str(_fact(key, one)) for one in value if one is not None)) or None
    if isinstance(value, int) and key.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, int) and key.endswith("_hz"):
        return f"{value / 1e9:.2f} GHz"
    return value


def _without_unit(key: str) -> str:
    return key.removesuffix("_bytes").removesuffix("_hz").replace("_", " ")


def _range(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):.1f} to {max(known):.1f}" if known else "no sensor"


def _span(times: Sequence[str]) -> str:
    return min(times) if min(times) == max(times) else f"{min(times)} to {max(times)}"


def tools(found: Sequence[Row]) -> Section:
    used: dict[str, dict[str, set[str]]] = {}
    for row in found:
        for stage, noun in (("training", row.checkpoint), ("export", row.artifact), ("measurement", row.measurement)):
            for tool, version in (noun.tools if noun else {}).items():
                used.setdefault(tool, {}).setdefault(stage, set()).add(version)
    stages = ("training", "export", "measurement")
    lines = tuple(
        (tool, *(", ".join(sorted(where.get(stage, ()))) or formatting.NONE for stage in stages))
        for tool, where in sorted(used.items())
    )
    columns = texts("tool", *stages)
    return Section(
        "tools",
        "Tool versions",
        blocks=only(Block(table=Table(columns, lines))),
        nothing="Nothing was made yet.",
    )


def method() -> Section:
    return Section(
        "method",
        "How this was measured",
        blocks=(Block(points=METHOD),),
    )
