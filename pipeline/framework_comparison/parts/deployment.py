"""Deployment: exports of every recipe to every target: what works, how long it takes, and size, speed and accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import devices, stats
from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, MEASURED, PAIRED, Found, Row, Run, Side
from pipeline.framework_comparison.parts._files import Cell, Samples, benched, captured, exported
from pipeline.results import collect, predictions
from pipeline.results.rows import Row as ResultRow
from pipeline.results.rows import outputs as outputs_of
from pipeline.stages import export
from pipeline.stages import measure as measuring

ORDER = 6
TITLE = "Deployment"
ABOUT = (
    "Both models, exported and measured on the host by the same command. Graphs: time to capture the graph that every "
    "export starts from, in a new process each time, imports included; TensorFlow's is captured by Keras on PyTorch. "
    "Export: one process per target exports both models in turn, after one untimed export each. Latency and memory: a "
    "new process each time, one thread, batch size 1. Accuracy drop: against each framework's own float model on the "
    "same test images; the difference between the two drops is paired image by image."
)
DEVICE = "local"


def prepare(run: Run) -> object:
    """See `Comparison.prepare`. Exports both models to all targets with all recipes and measures them on the host."""
    for name in FRAMEWORKS:
        run.make(name)
    outcomes = export.export(run.build, run.plan)
    # A failure is stored, and becomes a cell of the report.
    measuring.measure(run.build, run.plan, outcomes, devices.find(DEVICE), measuring.Options())
    return [(o.framework, o.recipe, o.target, o.status, o.artifact and o.artifact.sha256) for o in outcomes]


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    found = _cells(run)
    names = list(dict.fromkeys((recipe, target) for _, recipe, target in found))
    made, timed = exported(run, {cell for cell, row in found.items() if row.artifact}), benched(run, found)

    def table(title: str, unit: str, better: str, samples: Mapping[Cell, Samples]) -> Iterator[Row]:
        for recipe, target in names:
            sides = {name: _side(found, samples, (name, recipe, target)) for name in FRAMEWORKS}
            if any(side.samples for side in sides.values()):
                yield Row(f"{title}, {unit}", f"{recipe} on {target}", unit, better, MEASURED, sides)

    rows = [
        *_statuses(found, names),
        *captured(run),
        *table("Export", "s", "lower", made),
        *_sizes(found, names),
        *table("Latency, p50", "ms", "lower", timed["ms"]),
        *table("Load", "ms", "lower", timed["load_ms"]),
        *table("Peak memory", "MB", "lower", timed["peak_mb"]),
        *_drops(run, found, names),
    ]
    return Found(tuple(rows))


def _cells(run: Run) -> dict[Cell, ResultRow]:
    """The results of both frameworks on the host, by framework, recipe and target."""
    pairs = [(run.model.spec.name, name) for name in FRAMEWORKS]
    return {
        (row.cell.framework, row.cell.recipe, row.cell.target): row
        for row in collect.rows(run.build, pairs)
        if row.cell.target in run.targets and row.cell.recipe in run.recipes
        if row.cell.device in (None, DEVICE) and row.cell.threads in (None, 1)
    }


def _why(row: ResultRow) -> str:
    """Why a result has no figure."""
    return row.cell.reason or row.cell.unchecked or row.cell.status


def _made(row: ResultRow) -> Side:
    """Whether the export works, with the reason if it does not or if the file was not checked."""
    cell = row.cell
    if cell.status == "ok":
        text = "ok" if cell.device else "exported"
        return Side(((1.0,),), text=text, reason=None if cell.device else cell.unchecked)
    return Side(((0.0,),), text=cell.status, reason=cell.reason)


def _dropped(row: ResultRow) -> Side:
    cell = row.cell
    if cell.drop_points is None:
        return Side(reason=_why(row))
    return Side(((cell.drop_points,),), cell.drop_interval)


def _statuses(found: Mapping[Cell, ResultRow], names: list[tuple[str, str]]) -> Iterator[Row]:
    table = "Exports that work"
    counts = {
        name: sum(row.cell.status == "ok" for (own, *_), row in found.items() if own == name) for name in FRAMEWORKS
    }
    whole = {name: Side(((float(counts[name]),),)) for name in FRAMEWORKS}
    yield Row(table, "number of files", "files", "higher", EXACT, whole)
    for recipe, target in names:
        sides = {name: _made(found[name, recipe, target]) for name in FRAMEWORKS}
        yield Row(table, f"{recipe} on {target}", "ok or not", "higher", EXACT, sides)


def _side(found: Mapping[Cell, ResultRow], samples: Mapping[Cell, Samples], cell: Cell) -> Side:
    """The samples of a cell, or the reason why there are none."""
    kept = samples.get(cell)
    if isinstance(kept, str):
        return Side(reason=kept)
    return Side(tuple(kept)) if kept else Side(reason=_why(found[cell]))


def _sizes(found: Mapping[Cell, ResultRow], names: list[tuple[str, str]]) -> Iterator[Row]:
    for recipe, target in names:
        rows = {name: found[name, recipe, target] for name in FRAMEWORKS}
        sides = {
            name: Side(((row.cell.size_bytes / 1000,),)) if row.cell.size_bytes else Side(reason=_why(row))
            for name, row in rows.items()
        }
        if any(side.samples for side in sides.values()):
            yield Row("File size, kB", f"{recipe} on {target}", "kB", "lower", EXACT, sides)


# -- accuracy ----------------------------------------------------------------------------------------------------------


def _drops(run: Run, found: Mapping[Cell, ResultRow], names: list[tuple[str, str]]) -> Iterator[Row]:
    """The accuracy of both float models, and then the accuracy drop of each file against its own float model."""
    floats = {name: _float(run, name) for name in FRAMEWORKS}
    if len({run.checkpoint(name).dataset_sha256 for name in FRAMEWORKS}) > 1:
        return  # different test images cannot be paired
    right = {name: found for name, (found, _) in floats.items()}
    title = "Accuracy of the float model, %"
    sides = {name: Side(((100 * run.checkpoint(name).accuracy,),)) for name in FRAMEWORKS}
    yield Row(title, "test split", "%", "higher", PAIRED, sides, _counted(right["keras"] - right["torch"]))
    for recipe, target in names:
        rows = {name: found[name, recipe, target] for name in FRAMEWORKS}
        measured = [name for name, row in rows.items() if row.cell.drop_points is not None]
        if not measured:
            continue
        sides = {name: _dropped(row) for name, row in rows.items()}
        lost = {name: right[name] - _right(outputs_of(rows[name])[0], floats[name][1]) for name in measured}
        differences = _counted(lost["keras"] - lost["torch"]) if len(lost) == len(FRAMEWORKS) else ()
        yield Row("Accuracy drop, points", f"{recipe} on {target}", "points", "lower", PAIRED, sides, differences)


def _float(run: Run, framework: str) -> tuple[Any, Any]:
    """For each test image whether the float model is right, int (N,); and the labels."""
    checkpoint = run.checkpoint(framework)
    folder = run.build.checkpoint(checkpoint.spec.name, framework)
    outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    return _right(outputs[0], labels), labels


def _right(outputs: Any, labels: Any) -> Any:
    return (stats.top1(outputs) == labels).astype(int)


def _counted(differences: Any) -> tuple[tuple[int, int], ...]:
    """(difference, number of images with it)."""
    return tuple(sorted(Counter(differences.tolist()).items()))
