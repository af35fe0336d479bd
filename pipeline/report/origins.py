"""Where the figures come from: devices, tool versions, method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline import formatting
from pipeline.core import Measurement
from pipeline.report.groups import measured
from pipeline.report.page import Block, Section, Table, only, texts
from pipeline.results.rows import Row

METHOD = (
    "Latency is the time of one inference: the input is already in memory, and the outputs are read back. Decoding and "
    "resizing images is not included. Warm-up runs do not count. If a runtime overwrites its input, refilling it is "
    "part of the run. Where some runtimes copy their input in every call and others do not, a note under the table "
    "names them. Percentiles are interpolated linearly over the runs of all processes.",
    "Runs shorter than 1 ms are timed in loops, and p50 is the median of the loops' averages. p90 and p99 come from "
    "inferences timed one by one, less the cost of reading the clock.",
    "Each file is measured in several processes: they differ by more than the runs of one process do. The "
    "processes of the files alternate. A process is one sample: a file counts as slower if the 95 % interval of the "
    "ratio of medians (paired by round, Student's t on the logarithms) excludes 1.",
    "Load time is the time from the file to a session that can run, without the start of the runtime itself. Peak "
    "memory is the peak RSS of the process, including the runtime.",
    "Accuracy is measured on the device over the evaluation split and compared with the float model sample by sample.",
    "The 95 % interval of an accuracy drop is an adjusted Wald interval for paired proportions (Bonett and Price, "
    "Journal of Educational and Behavioral Statistics 37(4), 2012); that of another metric is Student's t on the "
    "differences of the samples' scores. A difference is significant if its interval "
    "excludes 0. About 1 in 20 intervals does so by chance.",
    "A file is recommended only if the interval of its drop ends below the margin: a non-inferiority test, one-sided "
    "at 2.5 % (ICH E9, 1998). If the interval contains the margin, the report gives the number of samples that would "
    "tell with a probability of 80 %, provided that the same share of them is discordant (Connor, Biometrics 43, 1987; "
    "Liu et al., Statistics in Medicine 21, 2002).",
    "A sample is bit-equal if all bytes of all its outputs are equal. NaN and infinite values are never equal.",
    "1 kB = 1000 bytes. Every run's time is recorded in measurement.json; every sample's outputs are in "
    "predictions.npz next to it.",
)


def machines(found: Sequence[Row]) -> Section:
    """Facts about each device. If its measurements differ in a fact, all values are listed."""
    blocks = []

    def hardware(one: Measurement) -> tuple[str, str]:
        return str(one.device.get("name")), str(one.device.get("hardware"))

    by_hardware = sorted(measured(found), key=hardware)
    for (name, _), group in groupby(by_hardware, key=hardware):
        own = list(group)
        processes = [process for m in own for process in m.processes]
        facts = {
            key: _values(_fact(key, m.device.get(key)) for m in own) for m in own for key in m.device if key != "name"
        }
        facts["frequency"] = _frequencies([hertz for p in processes for hertz in p.frequency_hz]) or formatting.NONE
        facts["runtimes"] = "; ".join(dict.fromkeys(formatting.runtime(m) for m in own))
        facts["temperature, °C"] = _range(t for p in processes for t in p.temperature_c)
        facts["load average"] = _range(t for p in processes for t in p.load_average)
        facts["throttled"] = _values({True: "yes", False: "no", None: "unknown"}[p.throttled] for p in processes)
        facts["reasons"] = ", ".join(sorted({reason for p in processes for reason in p.throttling})) or formatting.NONE
        facts["measured"] = _span([p.started_at for p in processes])
        lines = tuple((_without_unit(key), value) for key, value in facts.items() if value != formatting.NONE)
        blocks.append(Block(name, table=Table(texts("fact", "value"), lines)))
    return Section("machines", "Devices", blocks=tuple(blocks), nothing="Nothing was measured.")


def _values(values: Iterable[Any]) -> str:
    """The distinct values as text."""
    known = {None: formatting.NONE, True: "yes", False: "no"}
    return " / ".join(dict.fromkeys(known[v] if v is None or isinstance(v, bool) else str(v) for v in values))


def _frequencies(readings: Sequence[Sequence[int]]) -> str:
    """The range of each cluster's frequency: 1.50 to 1.80 GHz / 2.40 GHz."""
    clusters = zip(*(reading for reading in readings if reading), strict=False)
    ranges = [[f"{hertz / 1e9:.2f}" for hertz in (min(cluster), max(cluster))] for cluster in clusters]
    return " / ".join(" to ".join(dict.fromkeys(pair)) + " GHz" for pair in ranges)


def _cluster(cluster: Mapping[str, Any]) -> str:
    """A cluster of CPUs: 0-3: Cortex-A55, schedutil, 1.80 GHz."""
    facts = (cluster["cpu"], cluster["governor"], _fact("frequency_max_hz", cluster["frequency_max_hz"]))
    return f"{cluster['cpus']}: {', '.join(fact for fact in facts if fact) or 'unknown'}"


def _fact(key: str, value: Any) -> Any:
    """A fact with the unit that its name ends with; of a pair (at the start, at the end), the known values."""
    if key == "clusters":
        return "; ".join(map(_cluster, value)) if len(value) > 1 else None  # one cluster is in the other facts
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
    """The first and the last of ISO 8601 times in UTC."""
    first, last = (time.replace("T", " ").replace("+00:00", " UTC") for time in (min(times), max(times)))
    return first if first == last else f"{first} to {last}"


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
        nothing="Nothing was trained or exported yet.",
    )


def method() -> Section:
    return Section(
        "method",
        "Method",
        blocks=(Block(points=METHOD),),
    )
