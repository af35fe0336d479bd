"""Sections with tables: all results, output differences, what was not measured, export parity; and the warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline import formatting, stats, tasks
from pipeline.core import Artifact, Cell, Step
from pipeline.formatting import NONE, Unit
from pipeline.report.groups import by_device, by_model
from pipeline.report.page import Block, Section, Table, numbers, only, texts
from pipeline.results import latency_meaning
from pipeline.results.bit_equality import Equality
from pipeline.results.output_diff import WAY
from pipeline.results.rows import Row
from pipeline.results.warnings import once
from pipeline.tasks import SECOND

ABOUT_CELLS = (
    "Spread: the difference of the slowest and the fastest process's median, as a share of the median. Drop: "
    "by how much the metric is lower than the float model's on the same samples, in points; negative is a gain. "
    "* marks a significant difference: its 95 % interval excludes 0. Verdict: no worse if the interval ends below the "
    "margin, worse if it begins above it; cannot tell (N): about N samples would. Memory: the peak RSS of the process. "
    "Model: the part of it that was added after the runtime had started; the rest is Python and the runtime's package."
)
ABOUT_AGREE = " Agree: samples with the float model's top-1."
ABOUT_EMULATED = (
    "Emulation runs the real instructions, so outputs, accuracy and memory are real. Time is not, so the table shows "
    "instructions per inference instead of latency. Their number is repeatable but ignores caches and pipelines: int8 "
    "can run more instructions than fp32 and still be faster on a board. –: the emulator does not count instructions."
)
ABOUT_STEPS = (
    "Each line is compared with the line above it: the share of samples whose outputs are all bit-equal, the share "
    "with the same prediction if there are classes, and the largest difference of any output. A file need not be "
    "bit-equal to its framework: kernels add in another order, and quantization changes the function."
)


SAME_TOP1, GRAPH_SAME_TOP1 = "same top-1, %", "graph same top-1, %"
"""Columns that tables of models without classes do not have."""


def cells(found: Sequence[Row]) -> Section:
    """A table for each model, and another for its emulated devices, with instructions instead of times."""
    blocks = []
    for model, rows in by_model(found):
        real = [row for row in rows if not row.cell.emulated]
        emulated = [row for row in rows if row.cell.emulated]
        if real:
            blocks.append(_cells(model, real, ABOUT_CELLS))
        if emulated:
            blocks.append(_cells(f"{model}, emulated devices", emulated, ABOUT_EMULATED))
    return Section("cells", "All results", blocks=tuple(blocks), nothing="There are no results.")


def _cells(title: str, rows: Sequence[Row], about: str) -> Block:
    found = [row.cell for row in rows]
    unit = formatting.unit(found)
    figures = {name: SECOND[name] for cell in found for name in cell.figures}
    spread, load = ((), ()) if found[0].emulated else (("spread",), ("load, ms",))
    columns = (
        *texts("recipe", "target", "device"),
        *numbers("size, kB", *(f"{p}, {unit.name}" for p in ("p50", "p90", "p99")), *spread, *load),
        *numbers("memory, MB", "model, MB", f"{tasks.titles(cell.metric for cell in found)}, %"),
        *numbers(*figures.values(), "drop, points", "95 % interval", "verdict", "agree, %"),
    )
    table = Table(columns, tuple(_cell(row, unit, tuple(figures)) for row in rows)).without_empty("agree, %")
    if any(cell.agreement is not None for cell in found):
        about += ABOUT_AGREE
    return Block(title, points=tuple(latency_meaning.notes(found)), table=table, caption=about)


def _metric(cell: Cell, figures: Sequence[str]) -> tuple[str, ...]:
    """The metric, and further ones."""
    found = [cell.figures.get(name) for name in figures]
    texts = [
        NONE if value is None else formatting.percent(value) if SECOND[name].endswith("%") else f"{value:.4g}"
        for name, value in zip(figures, found, strict=True)
    ]
    return formatting.percent(cell.accuracy), *texts


def _cell(row: Row, unit: Unit, figures: Sequence[str]) -> tuple[str, ...]:
    cell = row.cell
    head = (formatting.recipe(cell), cell.target, formatting.place(cell), formatting.kilobytes(cell.size_bytes))
    if cell.status != "ok":
        return *head, f"{cell.status}: {cell.reason}"
    if cell.device is None:
        return *head, cell.unchecked or "not checked"
    return *head, *_costs(cell, unit), *_memory(row), *_metric(cell, figures), *_against_float(cell)


def _costs(cell: Cell, unit: Unit) -> tuple[str, ...]:
    """p50, p90, p99; and the spread between processes and the load time, unless the device is emulated."""
    cost = formatting.cost(cell)
    texts = (NONE,) * 3 if cost is None else tuple(unit.text(value) for value in (cost.p50, cost.p90, cost.p99))
    if cell.emulated:
        return texts
    return *texts, formatting.spread(cell.latency_ms), NONE if cell.load_ms is None else formatting.figure(cell.load_ms)


def _memory(row: Row) -> tuple[str, str]:
    """The process's peak memory, a phone's with its PSS, and the part of the peak added after the runtime had started;
    the largest of all processes."""
    assert row.measurement is not None  # true of every measured row
    added = [max(0, p.peak_rss_bytes - p.rss_before_load_bytes) for p in row.measurement.processes]
    pss = "" if row.cell.pss_bytes is None else f" (PSS {formatting.megabytes(row.cell.pss_bytes)})"
    return formatting.megabytes(row.cell.peak_rss_bytes) + pss, formatting.megabytes(max(added))


def _against_float(cell: Cell) -> tuple[str, str, str, str]:
    """The accuracy drop, its interval, the verdict on it and the top-1 agreement."""
    if cell.drop_points is None or cell.drop_interval is None:
        return NONE, NONE, NONE, formatting.percent(cell.agreement)
    return (
        formatting.points(cell.drop_points),
        formatting.interval(cell.drop_interval),
        formatting.verdict(cell),
        formatting.percent(cell.agreement),
    )


def steps(found: Sequence[Row]) -> Section:
    """Every file that a device other than the host ran: framework → host runtime → device."""
    columns = (
        *texts("recipe", "target", "step", "runtime"),
        *numbers("metric, %", "bit-equal, %", SAME_TOP1, "samples", "largest difference"),
    )
    blocks = []
    for place, rows in by_device(found):
        cells = [row.cell for row in rows if len(row.cell.steps) == len(WAY)]
        if cells:
            lines = tuple(line for cell in cells for step in cell.steps for line in _step(cell, step))
            blocks.append(Block(place, table=Table(columns, lines).without_empty(SAME_TOP1), caption=ABOUT_STEPS))
    return Section(
        "steps",
        "Output differences",
        "Framework → host → device: the same file on the host and on the device, over the same samples. If both ran "
        "the same runtime, their differences come from the processor and its kernels.",
        blocks=tuple(blocks),
        nothing="Only the host has measured files. Measure on a device of devices.toml with: inv bench --device NAME",
    )


def _step(cell: Cell, step: Step) -> Iterator[tuple[str, ...]]:
    """A step's line, and another for its note."""
    first, last = step is cell.steps[0], step is cell.steps[-1]
    names = (
        formatting.recipe(cell),
        cell.target,
        step.place if first else f"→ {step.place}{formatting.throttled(cell) if last else ''}",
    )
    if step.accuracy is not None:
        yield *names, step.runtime or NONE, formatting.percent(step.accuracy), *_beside(step)
    if step.reason is not None:
        yield *names, step.reason


def _beside(step: Step) -> tuple[str, ...]:
    """How a step's outputs differ from those of the previous step."""
    error, count = step.max_error, f"{step.samples:,}"
    if error is None:
        return NONE, NONE, count, NONE
    largest = "not finite" if error >= stats.LARGEST_ERROR else f"{error:.3g}"
    return formatting.percent(step.equal), formatting.percent(step.top1_agreement), count, largest


def bit_equality(pairs: Sequence[Equality]) -> Section:
    columns = (
        *texts("model", "recipe", "device", "first", "second"),
        *numbers("bit-equal samples", "samples", "bit-equal, %", SAME_TOP1, "largest difference"),
        *texts("same graph"),
    )
    lines = tuple(
        (
            *(f"{p.model} ({p.framework})", p.recipe, p.device, p.first, p.second),
            *(
                f"{p.equal:,}",
                f"{p.samples:,}",
                formatting.percent(p.equal / p.samples),
                formatting.percent(p.agreement),
            ),
            *(f"{p.max_error:.4g}", "yes" if p.one_graph else "no"),
        )
        for p in pairs
    )
    return Section(
        "equality",
        "Bit-exactness across targets",
        "Each line compares the outputs of a static recipe under two targets, on the same samples and the same device. "
        "If both files come from the same quantized graph, their differences come from the kernels, not from the "
        "quantizers.",
        blocks=only(Block(table=Table(columns, lines))),
        nothing="No two targets were measured with a static recipe on the same device.",
    )


def without_figures(found: Sequence[Row]) -> Section:
    """Unsupported, failed, missing and unchecked cells, with their reasons."""
    columns = (*texts("model", "recipe", "target", "device"), *numbers("size, kB"), *texts("status", "reason"))
    lines = []
    for cell in (row.cell for row in found):
        if cell.status != "ok" or cell.device is None:
            status, reason = ("not checked", cell.unchecked) if cell.status == "ok" else (cell.status, cell.reason)
            names = (formatting.model(cell), formatting.recipe(cell), cell.target, formatting.device(cell))
            lines.append((*names, formatting.kilobytes(cell.size_bytes), status, reason or ""))
    return Section(
        "unmeasured",
        "Not measured",
        "“Not checked” means that the file was exported but never run, so nothing is known about its outputs.",
        blocks=only(Block(table=Table(columns, tuple(sorted(lines, key=lambda line: (line[0], line[-2])))))),
        nothing="Every combination was exported and measured.",
    )


def exports(found: Sequence[Row]) -> Section:
    columns = (
        *texts("recipe", "target", "quantized by", "compared with"),
        *numbers("samples", "SNR, dB", "cosine", "largest error", "in quantization steps"),
        *numbers(SAME_TOP1, "bit-equal, %"),
        *numbers("graph SNR, dB", GRAPH_SAME_TOP1, "quantized multiply-adds, %", "quantized weights, %"),
    )
    blocks = []
    for model, rows in by_model(found):
        # An artifact has one row for each device that ran it, but only one line here.
        files = {(row.cell.recipe, row.cell.target): row.artifact for row in rows if row.artifact}
        if files:
            table = Table(columns, tuple(map(_export, files.values()))).without_empty(SAME_TOP1, GRAPH_SAME_TOP1)
            blocks += [Block(model, table=table), *only(Block(points=_notes(files.values())))]
    return Section(
        "exports",
        "Export parity",
        "The outputs of each exported file, compared at export with those of the graph it was converted from; then the "
        "quantized graph against the float model, and how much of the file is quantized. If there are several outputs, "
        "the worst counts. 999 dB: equal. -999 dB: not finite.",
        blocks=tuple(blocks),
        nothing="Nothing was exported.",
    )


def _export(file: Artifact) -> tuple[str, ...]:
    head, parity, graph = (file.recipe, file.target, file.quantized_by or NONE), file.parity, file.graph_parity
    quantized = (
        formatting.decibels(graph),
        formatting.percent(graph.top1_agreement if graph else None),
        formatting.percent(file.coverage.multiply_adds if file.coverage else None),
        formatting.percent(file.coverage.weights if file.coverage else None),
    )
    if parity is None:
        return *head, file.unchecked or "not checked", *(NONE,) * 7, *quantized
    return (
        *(*head, parity.against, f"{parity.samples:,}", f"{parity.snr_db:.1f}", f"{parity.cosine:.6f}"),
        *(f"{parity.max_error:.3g}", NONE if parity.max_steps is None else f"{parity.max_steps:.1f}"),
        *(formatting.percent(parity.top1_agreement), formatting.percent(parity.equal)),
        *quantized,
    )


def _notes(files: Iterable[Artifact]) -> tuple[str, ...]:
    """Notes of the converters, each with the files it applies to."""
    by_note: dict[str, list[str]] = {}
    for file in files:
        for note in file.notes:
            by_note.setdefault(note, []).append(f"{file.recipe} on {file.target}")
    return tuple(f"{', '.join(names)}: {note}" for note, names in by_note.items())


def warnings(found: Sequence[Row]) -> Section:
    return Section(
        "warnings",
        "Warnings",
        blocks=only(Block(points=tuple(once([row.cell for row in found])))),
        nothing="There are no warnings.",
    )
