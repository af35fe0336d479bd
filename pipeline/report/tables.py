"""Sections that are tables: every cell, outputs bit for bit, what has no figures, exports; and the warnings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline import formatting, stats
from pipeline.core import Artifact, Cell, Step
from pipeline.formatting import NONE, Unit
from pipeline.report.groups import by_device, by_model
from pipeline.report.page import Block, Section, Table, numbers, only, texts
from pipeline.results.bit_equality import Equality
from pipeline.results.output_diff import WAY
from pipeline.results.rows import Row
from pipeline.results.warnings import once

ABOUT_CELLS = (
    "Drop: percentage points lost against the float model on the same samples; negative is a gain. A star: the "
    "interval leaves out 0, so there is a difference; without one, these samples show none. Agree: samples with the "
    "float model's top-1. Memory: the process's peak; the model's: what of it came after the runtime was started. The "
    "rest is the process itself: Python and all that the runtime's package loads."
)
ABOUT_EMULATED = (
    "Outputs, accuracy and memory are those of the real instructions; time is not, so no latency is shown but "
    "instructions an inference, over the raw runs. That is a repeatable cost without a model of caches or pipelines: "
    "int8 can count more than fp32 and still be faster on a board. Where the clock counts none there is a dash."
)
ABOUT_STEPS = (
    "Each line beside the line before it: the share of samples whose outputs are all bit-equal, the share with the "
    "same top-1, and the largest difference of any output. No file need be bit-equal to its framework: kernels add in "
    "another order, and a quantized file is another function."
)


def cells(found: Sequence[Row]) -> Section:
    """A table for each model; its emulated devices have one of their own, in which instructions stand for times."""
    blocks = []
    for model, rows in by_model(found):
        real = [row for row in rows if not row.cell.emulated]
        emulated = [row for row in rows if row.cell.emulated]
        if real:
            blocks.append(_cells(model, real, ABOUT_CELLS))
        if emulated:
            blocks.append(_cells(f"{model}, emulated devices", emulated, ABOUT_EMULATED))
    return Section("cells", "All cells", blocks=tuple(blocks), nothing="There are no cells.")


def _cells(title: str, rows: Sequence[Row], about: str) -> Block:
    found = [row.cell for row in rows]
    unit = formatting.unit(found)
    load = () if found[0].emulated else ("load, ms",)
    columns = (
        *texts("recipe", "target", "device"),
        *numbers("size, kB", *(f"{p}, {unit.name}" for p in ("p50", "p90", "p99")), *load),
        *numbers("memory, MB", "model's, MB", "accuracy, %", "drop, points", "95 % interval", "agree, %"),
    )
    return Block(title, table=Table(columns, tuple(_cell(row, unit) for row in rows)), caption=about)


def _cell(row: Row, unit: Unit) -> tuple[str, ...]:
    cell = row.cell
    head = (cell.recipe, cell.target, formatting.place(cell), formatting.kilobytes(cell.size_bytes))
    if cell.status != "ok":
        return *head, f"{cell.status}: {cell.reason}"
    if cell.device is None:
        return *head, cell.unchecked or "not checked"
    return *head, *_costs(cell, unit), *_memory(row), formatting.percent(cell.accuracy), *_beside_float(cell)


def _costs(cell: Cell, unit: Unit) -> tuple[str, ...]:
    """p50, p90, p99; and load, where the clock is a real one."""
    cost = formatting.cost(cell)
    texts = (NONE,) * 3 if cost is None else tuple(unit.text(value) for value in (cost.p50, cost.p90, cost.p99))
    if cell.emulated:
        return texts
    return *texts, NONE if cell.load_ms is None else formatting.figure(cell.load_ms)


def _memory(row: Row) -> tuple[str, str]:
    """The process's peak, and what of it came after the runtime was started."""
    peak, before = row.cell.peak_rss_bytes, row.measurement.rss_before_load_bytes if row.measurement else None
    return formatting.megabytes(peak), NONE if peak is None or before is None else formatting.megabytes(
        max(0, peak - before)
    )


def _beside_float(cell: Cell) -> tuple[str, str, str]:
    """Drop, its interval and the agreement."""
    if cell.drop_points is None or cell.drop_interval is None:
        return NONE, NONE, formatting.percent(cell.agreement)
    return (
        formatting.points(cell.drop_points),
        formatting.interval(cell.drop_interval),
        formatting.percent(cell.agreement),
    )


def steps(found: Sequence[Row]) -> Section:
    """Every file that another device than this machine ran: framework → host runtime → device."""
    columns = (
        *texts("recipe", "target", "step", "runtime"),
        *numbers("accuracy, %", "bit-equal, %", "same top-1, %", "of samples", "largest difference"),
    )
    blocks = []
    for place, rows in by_device(found):
        cells = [row.cell for row in rows if len(row.cell.steps) == len(WAY)]
        if cells:
            lines = tuple(line for cell in cells for step in cell.steps for line in _step(cell, step))
            blocks.append(Block(place, table=Table(columns, lines), caption=ABOUT_STEPS))
    return Section(
        "steps",
        "Framework → host runtime → device",
        "The same file on this machine and on the device, over the whole evaluation split: where both ran the same "
        "runtime, what differs between them is the processor and its kernels.",
        blocks=tuple(blocks),
        nothing="Only this machine has measured anything: inv bench --device NAME adds a device of devices.toml.",
    )


def _step(cell: Cell, step: Step) -> Iterator[tuple[str, ...]]:
    """A step's line, and another for what should be known of it."""
    first, last = step is cell.steps[0], step is cell.steps[-1]
    names = (
        cell.recipe,
        cell.target,
        step.place if first else f"→ {step.place}{formatting.throttled(cell) if last else ''}",
    )
    if step.accuracy is not None:
        yield *names, step.runtime or NONE, formatting.percent(step.accuracy), *_beside(step)
    if step.reason is not None:
        yield *names, step.reason


def _beside(step: Step) -> tuple[str, ...]:
    """How a step's outputs differ from those of the step before."""
    error, count = step.max_error, f"{step.samples:,}"
    if error is None:
        return NONE, NONE, count, NONE
    largest = "not finite" if error >= stats.LARGEST_ERROR else f"{error:.3g}"
    return formatting.percent(step.equal), formatting.percent(step.top1_agreement), count, largest


def bit_equality(pairs: Sequence[Equality]) -> Section:
    columns = (
        *texts("model", "recipe", "device", "first", "second"),
        *numbers("equal outputs", "of samples", "equal, %", "same top-1, %", "largest difference"),
        *texts("one graph"),
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
        "Static int8, bit for bit",
        "Where both files were lowered from the one quantized graph, what differs between them is kernels, not "
        "quantizers. Each line compares all outputs of two targets on the same samples and the same device.",
        blocks=only(Block(table=Table(columns, lines))),
        nothing="No two targets have been measured under a static recipe on one device.",
    )


def without_figures(found: Sequence[Row]) -> Section:
    """Unsupported, failed, missing and unchecked cells, with their reasons."""
    columns = (*texts("model", "recipe", "target", "device"), *numbers("size, kB"), *texts("status", "reason"))
    lines = []
    for cell in (row.cell for row in found):
        if cell.status != "ok" or cell.device is None:
            status, reason = ("not checked", cell.unchecked) if cell.status == "ok" else (cell.status, cell.reason)
            names = (formatting.model(cell), cell.recipe, cell.target, formatting.device(cell))
            lines.append((*names, formatting.kilobytes(cell.size_bytes), status, reason or ""))
    return Section(
        "unmeasured",
        "Cells without a measurement",
        "Files that are not checked were written and never run: nothing is known of their outputs.",
        blocks=only(Block(table=Table(columns, tuple(sorted(lines, key=lambda line: (line[0], line[-2])))))),
        nothing="Every combination was exported and measured.",
    )


def exports(found: Sequence[Row]) -> Section:
    columns = (
        *texts("recipe", "target", "quantized by", "compared with"),
        *numbers("samples", "SNR, dB", "cosine", "largest error", "in output steps", "same top-1, %", "bit-equal, %"),
    )
    blocks = []
    for model, rows in by_model(found):
        # An artifact has a row for each device that ran it, and one line here.
        files = {(row.cell.recipe, row.cell.target): row.artifact for row in rows if row.artifact}
        if files:
            table = Table(columns, tuple(_export(file) for file in files.values()))
            blocks += [Block(model, table=table), *only(Block(points=_notes(files.values())))]
    return Section(
        "exports",
        "Exports beside their graph",
        "Each file's outputs beside those of the graph that it was made from, when it was exported; of several outputs "
        "the worst counts. 999 dB: equal; -999 dB: not finite.",
        blocks=tuple(blocks),
        nothing="Nothing was exported.",
    )


def _export(file: Artifact) -> tuple[str, ...]:
    head, parity = (file.recipe, file.target, file.quantized_by or NONE), file.parity
    if parity is None:
        return *head, file.unchecked or "not checked"
    return (
        *(*head, parity.against, f"{parity.samples:,}", f"{parity.snr_db:.1f}", f"{parity.cosine:.6f}"),
        *(f"{parity.max_error:.3g}", NONE if parity.max_steps is None else f"{parity.max_steps:.1f}"),
        *(formatting.percent(parity.top1_agreement), formatting.percent(parity.equal)),
    )


def _notes(files: Iterable[Artifact]) -> tuple[str, ...]:
    """What the converters' users should know: each note once, with the files that it concerns."""
    concerned: dict[str, list[str]] = {}
    for file in files:
        for note in file.notes:
            concerned.setdefault(note, []).append(f"{file.recipe} on {file.target}")
    return tuple(f"{', '.join(names)}: {note}" for note, names in concerned.items())


def warnings(found: Sequence[Row]) -> Section:
    return Section(
        "warnings",
        "Warnings",
        blocks=only(Block(points=tuple(once([row.cell for row in found])))),
        nothing="No measurement gave reason for a warning.",
    )
