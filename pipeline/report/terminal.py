"""Tables and marks at the terminal: `show(*cells(results.collect.cells(build)))`.

At a terminal long texts wrap inside their column, and a mark has a symbol and a colour. Piped, every row is one line of
plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from pipeline import formatting, tasks
from pipeline.core import Cell, Device, Probe, Recipe
from pipeline.results import latency_meaning, warnings
from pipeline.system.console import UNLIMITED, console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from pipeline.results.drift import Drift
    from pipeline.results.image_trace import Difference, Side, Trace
    from pipeline.results.instruction_budget import Comparison
    from pipeline.sources import Model

MARKS = {
    "ok": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "unsupported": ("–", "dim"),
    "missing": ("?", "yellow"),
    "not checked": ("?", "yellow"),
    "unavailable": ("–", "dim"),
    "seen": ("+", "cyan"),
}
"""Symbol and style of every status."""


def show(*parts: RenderableType) -> None:
    """Prints on stdout, each part from a new line."""
    print(text(*parts))


def text(*parts: RenderableType) -> str:
    """What `show` prints. No line ends in spaces, and only tables wrap: a command or a path can be copied."""
    from rich.text import Text

    screen = console()
    with screen.capture() as captured:
        for part in parts:
            screen.print(part, soft_wrap=isinstance(part, str | Text))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def mark(status: str, words: str | None = None) -> Text:
    """A status, or other words for it: with symbol and colour at a terminal, plain elsewhere."""
    from rich.text import Text

    symbol, style = MARKS[status]
    words = words or status
    return Text(f"{symbol} {words}", style) if console().is_terminal else Text(words)


def item(status: str, words: str) -> Text:
    """A line that begins with a status and never wraps."""
    from rich.text import Text

    found = mark(status)
    found.pad_right(len(mark("unsupported")) - len(found))
    return Text.assemble(found, f"  {words}")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    left: int | None = None,
    header: bool = True,
    gap: int = 2,
) -> Table:
    """A table of texts.

    Args:
        left: how many columns are aligned to the left: the names. Those after them are figures, aligned to the right.
            None: all are names.
        header: whether the head is printed.
        gap: spaces between columns.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", show_header=header)
    for place, name in enumerate(head):
        right = left is not None and place >= left
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(formatting.one_line(cell) if isinstance(cell, str) else cell for cell in row))
    _keep_names_whole(made, gap)
    return made


def _keep_names_whole(made: Table, gap: int) -> None:
    """Lets only columns with several words wrap, where that leaves these enough room."""
    words = [[str(cell) for cell in (column.header, *column.cells)] for column in made.columns]
    single = [i for i, cells in enumerate(words) if not any(" " in cell for cell in cells[1:])]
    taken = sum(max(map(len, words[i])) + gap for i in single)
    if taken + 15 * (len(words) - len(single)) <= console().width:
        for i in single:
            made.columns[i].no_wrap = True


# -- cells -------------------------------------------------------------------------------------------------------------


def cells(found: Sequence[Cell]) -> list[RenderableType]:
    """For each model the measured cells and the other ones with their reasons; then what to know about the figures."""
    from rich.text import Text

    if not found:
        return ["no models yet: inv train"]
    parts: list[RenderableType] = []
    for name, group in groupby(found, key=formatting.model):
        own = list(group)
        measured = [cell for cell in own if cell.status == "ok" and cell.device is not None]
        others = [cell for cell in own if cell not in measured]
        if parts:
            parts.append("")
        parts.append(Text(formatting.one_line(name), "bold"))
        if measured:
            parts += _measured(measured)
        if measured and others:
            parts.append("")
        if others:
            parts.append(_others(others))
    facts = [*_hardware(found), *_about_verdicts(found), *latency_meaning.notes(found)]
    notes = [("i", note) for note in facts] + [("!", note) for note in warnings.once(found)]
    if notes:
        parts += ["", table(("", ""), notes, header=False)]
    return parts


def _hardware(found: Sequence[Cell]) -> list[str]:
    """What was measured under each device name."""
    measured = [cell for cell in found if cell.status == "ok" and cell.hardware]
    return list(dict.fromkeys(formatting.one_line(f"{cell.device}: {cell.hardware}") for cell in measured))


DROP = ("drop, points [95 %] ", "verdict")


def _measured(found: Sequence[Cell]) -> list[RenderableType]:
    """One table; several (costs, accuracy and quantization) where the terminal is too narrow for one."""
    unit = formatting.unit(cell for cell in found if not cell.emulated)
    names = ("recipe", "target", "device")
    costs = ("size kB", f"p50 / p90 / p99 {unit.name}", "spread", "load ms", "RSS MB")
    head: tuple[str, ...] = (*names, *costs, f"{tasks.titles(cell.metric for cell in found)} %", *DROP, "agree %")
    rows = [_figures(cell, unit) for cell in found]
    if any(cell.graph_parity or cell.coverage for cell in found):
        head = (*head, "graph dB", "quantized %")
        rows = [(*row, *_quantization(cell)) for row, cell in zip(rows, found, strict=True)]
    optional = range(8, 12)  # a file without a task has no metric, and a task without classes no agreement
    empty = [i for i in optional if all(row[i].strip() == formatting.NONE for row in rows)]
    head = tuple(title for i, title in enumerate(head) if i not in empty)
    rows = [tuple(text for i, text in enumerate(row) if i not in empty) for row in rows]
    accuracy = slice(8, 12 - len(empty))
    whole = table(head, rows, left=3)
    screen = console()
    if screen.measure(whole, options=screen.options.update(width=UNLIMITED)).maximum <= screen.width:
        return [whole]
    tables: list[RenderableType] = []
    for part in (slice(3, 8), accuracy, slice(accuracy.stop, None)):
        if head[part]:
            lines = [(*row[:3], *row[part]) for row in rows]
            tables += ["", table((*names, *head[part]), lines, left=3, gap=1)]
    return tables[1:]


def _about_verdicts(found: Sequence[Cell]) -> list[str]:
    """What the verdicts mean."""
    margins = {formatting.margin(cell.margin_points) for cell in found if cell.margin_points is not None}
    return [
        f"no worse: the drop is shown to be below {margin}; cannot tell (N): about N samples would"
        for margin in margins
    ]


def _figures(cell: Cell, unit: formatting.Unit) -> tuple[str, ...]:
    drop = formatting.drop(cell)
    return (
        formatting.recipe(cell),
        cell.target,
        formatting.place(cell),
        formatting.kilobytes(cell.size_bytes),
        _cost(cell, unit),
        formatting.spread(cell.latency_ms),
        formatting.NONE if cell.load_ms is None else formatting.figure(cell.load_ms),
        formatting.megabytes(cell.peak_rss_bytes),
        formatting.percent(cell.accuracy),
        drop if drop.endswith("*") else drop + " ",
        formatting.verdict(cell),
        formatting.percent(cell.agreement),
    )


def _quantization(cell: Cell) -> tuple[str, str]:
    """The quantized graph against the float model, and the share of the multiply-adds that is quantized."""
    share = cell.coverage.multiply_adds if cell.coverage else None
    return formatting.decibels(cell.graph_parity), formatting.NONE if share is None else f"{100 * share:.1f}"


def _cost(cell: Cell, unit: formatting.Unit) -> str:
    """p50 / p90 / p99; for an emulated device its instructions with their spread."""
    cost = formatting.cost(cell)
    if cost is None:
        return "not counted" if cell.emulated else formatting.NONE
    if cell.emulated:
        return formatting.instructions(cost.p50, cost.p99)
    return " / ".join(unit.text(value) for value in (cost.p50, cost.p90, cost.p99))


def _others(found: Sequence[Cell]) -> Table:
    """Cells without a measurement: unsupported, failed, missing, or exported and not checked."""
    rows = []
    for cell in found:
        exported = cell.status == "ok"
        status, reason = ("not checked", cell.unchecked or "") if exported else (cell.status, cell.reason or "")
        reason = reason.removeprefix(f"{status} ")
        size = formatting.kilobytes(cell.size_bytes)
        rows.append((mark(status), formatting.recipe(cell), cell.target, formatting.place(cell), size, reason))
    return table(("status", "recipe", "target", "device", "size kB", "reason"), rows)


# -- instruction budgets -----------------------------------------------------------------------------------------------


def budget(found: Sequence[Comparison]) -> Table:
    """Counted instructions beside the recorded ones."""
    rows = []
    for one in found:
        name = one.now or one.recorded
        assert name is not None
        growth = formatting.NONE if one.growth is None else f"{one.growth:+.2%}"
        figures = (formatting.NONE if c is None else f"{c.instructions:,}" for c in (one.recorded, one.now))
        rows.append((name.recipe, name.target, f"{name.runtime} {name.version}", *figures, growth))
    return table(("recipe", "target", "runtime", "recorded", "now", "change"), rows, left=3)


# -- the trace of an image ---------------------------------------------------------------------------------------------


def traces(found: Sequence[Trace]) -> list[RenderableType]:
    """For each artifact: where both sides first differ, every stage, and each side's prediction."""
    parts: list[RenderableType] = []
    for one in found:
        if parts:
            parts.append("")
        parts += _trace(one)
    return parts


def _trace(found: Trace) -> list[RenderableType]:
    from rich.text import Text

    artifact = found.artifact
    head = f"{artifact.model} ({artifact.framework}), {artifact.target} {artifact.recipe}"
    stages = table(("stage", "shape", "equal", "largest difference"), map(_stage, found.stages))
    sides = [(side.name, _prediction(side, artifact.spec.labels)) for side in (found.host, found.device)]
    return [Text(head, "bold"), _verdict(found), stages, table(("side", "prediction"), sides)]


def _verdict(found: Trace) -> str:
    first = found.first
    if first is None:
        return "no difference: every stage is the same, bit for bit"
    if first.equal is None:
        shapes = f"the shape is {_shape(first.host)} on the host and {_shape(first.device)} on the device"
        return f"first difference: {first.title}: {shapes}"
    return (
        f"first difference: {first.title}: {1 - first.equal:.2%} of the values differ, by at most {first.largest:.3g}"
    )


def _stage(stage: Difference) -> tuple[str, ...]:
    if stage.equal is None:
        return stage.title, f"{_shape(stage.host)}, device {_shape(stage.device)}", formatting.NONE, "another shape"
    if stage.given:
        return stage.title, _shape(stage.host), formatting.NONE, "computed on the host and sent"
    snr = f" ({stage.snr_db:.1f} dB)" if stage.snr_db is not None and stage.equal < 1 else ""
    return stage.title, _shape(stage.host), f"{stage.equal:.2%}", f"{stage.largest:.3g}{snr}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


# -- the drift of layers -----------------------------------------------------------------------------------------------


def drifts(found: Sequence[Drift]) -> list[RenderableType]:
    """For each cell: where a difference starts, every layer, and why layers are not mapped."""
    from rich.text import Text

    from pipeline.report import drift

    parts: list[RenderableType] = []
    for one in found:
        parts += [""] if parts else []
        layers = table(drift.head(one), [drift.line(one, layer) for layer in one.layers], left=2)
        parts += [Text(drift.title(one), "bold"), *drift.verdict(one), layers, *drift.notes(one)]
        missing = [(layer.name, place, why) for layer in one.layers for place, why in layer.not_mapped.items()]
        if missing:
            parts.append(table(("not mapped", "in", "why"), missing))
    return parts


def _prediction(side: Side, labels: Sequence[str]) -> str:
    """The label with the highest score in the first output."""
    import numpy as np

    row = np.asarray(side.arrays["output_0"]).reshape(-1)
    best = int(row.argmax())
    return f"{labels[best] if best < len(labels) else best} ({row[best]:.4g})"


# -- plug-ins ----------------------------------------------------------------------------------------------------------


def broken(what: str, reasons: Mapping[str, str]) -> list[RenderableType]:
    """Plug-ins that cannot be loaded, with the reasons."""
    rows = [(mark("failed"), name, reason) for name, reason in reasons.items()]
    return ["", table(("status", what, "reason"), rows)] if rows else []


def models(found: Mapping[str, Model]) -> Table:
    """Models by name."""
    rows = []
    for name, model in found.items():
        shape = "×".join(map(str, model.spec.inputs[0].shape))
        options = ", ".join(f"{key}={value:g}" for key, value in model.spec.options.items())
        rows.append((name, shape, model.spec.dataset, ", ".join(model.frameworks), options, model.summary))
    return table(("model", "input", "dataset", "frameworks", "options", "summary"), rows)


def recipes(found: Sequence[Recipe]) -> Table:
    """Quantization recipes."""
    rows = [(recipe.name, recipe.weights, recipe.activations, recipe.summary) for recipe in found]
    return table(("recipe", "weights", "activations", "summary"), rows)


def targets(found: Mapping[str, Any], recipes: Sequence[Recipe], frameworks: Sequence[str]) -> list[RenderableType]:
    """Targets by name; then the recipes that they do not support, those with one reason together."""
    rows = [(name, target.SUFFIX, target.SUMMARY) for name, target in found.items()]
    parts: list[RenderableType] = [table(("target", "file", "summary"), rows)]
    gaps: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, target in found.items():
        for recipe, framework in product(recipes, frameworks):
            reason = target.supports(recipe, framework)
            if reason:
                gaps.setdefault((name, reason), []).append((recipe.name, framework))
    lines = [
        (mark("unsupported"), name, _once(recipe for recipe, _ in pairs), _once(name for _, name in pairs), reason)
        for (name, reason), pairs in gaps.items()
    ]
    if lines:
        parts += ["", table(("status", "target", "recipes", "frameworks", "reason"), lines)]
    return parts


def _once(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def devices(states: Iterable[tuple[Device, str, str | None]], seen: Iterable[tuple[str, str]]) -> Table:
    """Devices of devices.toml: each with its description and the reason why it is unavailable, if it is; then the
    devices that a kind sees and devices.toml does not name."""
    rows: list[tuple[str | Text, ...]] = []
    for device, description, reason in states:
        status = mark("unavailable" if reason else "ok")
        emulated = " (emulated)" if device.emulated else ""
        rows.append((status, device.name, device.kind, description + emulated, reason or ""))
    rows += [(mark("seen"), "", kind, line, "") for kind, line in seen]
    return table(("status", "device", "kind", "description", "reason"), rows)


def probe(found: Probe) -> list[RenderableType]:
    """What was probed, a row for each assumption, and how many hold."""
    status = {True: "ok", False: "failed", None: "unavailable"}
    words = {True: "holds", False: "does not hold", None: "cannot tell"}
    rows = [(mark(status[one.holds], words[one.holds]), one.name, one.assumed, one.seen) for one in found.assumptions]
    counts = ((sum(one.holds is holds for one in found.assumptions), text) for holds, text in words.items())
    title = f"{found.model}{' (emulated)' if found.emulated else ''}: {found.system}"
    return [
        formatting.one_line(title),
        table(("status", "assumption", "what Lastmile assumes", "seen"), rows),
        ", ".join(f"{count} {text}" for count, text in counts if count),
    ]


# -- checks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One item of a checklist.

    Attributes:
        found: what is there.
        fix: what to do; None where the check passed.
        optional: only some commands need it.
    """

    name: str
    found: str
    fix: str | None = None
    optional: bool = False


def checks(found: Sequence[Check]) -> list[RenderableType]:
    """The passed checks, in at most two lines of a terminal; a line for each failed one; then the optional ones."""
    from rich.text import Text

    passed = [check for check in found if check.fix is None]
    failed = [check for check in found if check.fix is not None and not check.optional]
    optional = [check for check in found if check.fix is not None and check.optional]
    width = max((len(check.name) for check in (*failed, *optional)), default=0)
    parts: list[RenderableType] = [_summary(passed)] if passed else []
    parts += [_problem(check, "failed", width) for check in failed]
    if optional:
        parts += [Text("only some commands need these:", "dim")]
        parts += [_problem(check, "missing", width, "dim") for check in optional]
    return parts


def _summary(passed: Sequence[Check]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    names = [formatting.one_line(f"{c.name} ({c.found})" if " " in c.found else f"{c.name} {c.found}") for c in passed]
    head = mark("ok", f"{len(passed)} check{'s' * (len(passed) > 1)} ok: ")
    room = 2 * console().width - len(head) - len(", and 999 more")
    shown = next(n for n in range(len(names), 0, -1) if n == 1 or len(", ".join(names[:n])) <= room)
    more = f", and {len(names) - shown} more" if shown < len(names) else ""
    return Group(Text.assemble(head, ", ".join(names[:shown]), more))  # wraps at spaces


def _problem(check: Check, status: str, width: int, style: str = "") -> Text:
    from rich.text import Text

    gap = " " * (len("missing") - len(status))
    words = formatting.one_line(f"{check.found} → {check.fix}")
    return Text.assemble(mark(status), (f"{gap}  {check.name:{width}}  {words}", style))
