"""What has been made and measured: one cell for every model, recipe and target, on every device that ran it.

Manifests and predictions are read; no framework is imported and nothing is written. Whatever is wrong in the build
folder becomes a cell that says so: nothing here is left out, and nothing raises for it.
"""

from __future__ import annotations

import io
import textwrap
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import plugins, stats, store
from pipeline.core import Artifact, Cell, Checkpoint, Failure, Measurement, Recipe, safe_file_name
from pipeline.errors import Broken, PipelineError
from pipeline.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

WIDTH = 132
"""Columns of the terminal's table."""

WRONG = (PipelineError, OSError, ValueError)
"""What reading a broken build folder raises; each becomes a cell's reason."""


@dataclass(frozen=True)
class Row:
    """A cell with what it was made from, where that is there and sound.

    Attributes:
        home: the measurement's folder.
        classes: for each class its samples, the drop in points and its interval (see stats.class_drops).
    """

    cell: Cell
    checkpoint: Checkpoint | None = None
    artifact: Artifact | None = None
    measurement: Measurement | None = None
    home: Path | None = None
    classes: tuple[tuple[int, float | None, tuple[float, float] | None], ...] = ()


@dataclass(frozen=True)
class Equality:
    """The outputs of one static recipe under two targets, on one device and over the same samples.

    Attributes:
        one_graph: both files were lowered from the one quantized graph; else each converter quantized for itself.
        equal: how many samples have bit-equal outputs, of `samples`.
        agreement: share of samples with the same top-1.
        max_error: largest absolute difference of any output.
    """

    model: str
    framework: str
    recipe: str
    device: str
    first: str
    second: str
    one_graph: bool
    equal: int
    samples: int
    agreement: float
    max_error: float


def cells(build: Store, models: Sequence[tuple[str, str]] | None = None) -> list[Cell]:
    """One cell for each (model, framework) × recipe × target, and for each device beneath it.

    Args:
        models: (model, framework) pairs; by default those that have a checkpoint.
    """
    return [row.cell for row in rows(build, models)]


def rows(build: Store, models: Sequence[tuple[str, str]] | None = None) -> list[Row]:
    """As `cells`, with what each was made from."""
    found: list[Row] = []
    for model, framework in build.models() if models is None else models:
        found += _of_model(build, model, framework)
    return found


def equalities(build: Store, found: Iterable[Row] | None = None) -> list[Equality]:
    """Every two targets measured on one device under one static recipe, compared sample by sample.

    Args:
        found: rows to compare; by default all.
    """

    def group(row: Row) -> tuple[str, str, str, str]:
        return row.cell.model, row.cell.framework, row.cell.recipe, row.cell.device or ""

    static = {name for name, recipe in _recipes().items() if recipe.static}
    measured = [row for row in (rows(build) if found is None else found) if row.measurement and row.cell.status == "ok"]
    wanted = sorted((row for row in measured if row.cell.recipe in static), key=group)
    return [equality for _, rows_of_one in groupby(wanted, key=group) for equality in _compare(list(rows_of_one))]


# -- from the build folder to rows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reference:
    """A checkpoint with its float model's answers; or why there is none, with the status of cells that need it."""

    checkpoint: Checkpoint | None = None
    outputs: tuple[Any, ...] = ()
    labels: Any = None
    top1: Any = None
    lack: str | None = None
    status: str = "failed"


def _of_model(build: Store, model: str, framework: str) -> Iterator[Row]:
    reference = _reference(build, model, framework)
    recipes = _recipes()
    for recipe in recipes.values():
        for target in plugins.names("targets"):
            cell = Cell(model, framework, recipe.name, target, None, False, "missing")
            yield from _of_target(build, reference, cell)
    yield from _of_nobody(build, model, framework, recipes)


def _recipes() -> dict[str, Recipe]:
    """Every recipe by name, in the order of the folder's names with the float ones first."""
    found = [plugins.load("recipes", name).RECIPE for name in plugins.names("recipes")]
    found.sort(key=lambda recipe: (not recipe.weights.startswith("float"), recipe.weights != "float32", recipe.name))
    return {recipe.name: recipe for recipe in found}


def _reference(build: Store, model: str, framework: str) -> _Reference:
    folder = build.checkpoint(model, framework)
    try:
        checkpoint = store.read(Checkpoint, folder / "checkpoint.json")
        if checkpoint is None:
            return _Reference(lack=f"not trained yet: inv train{_options(model, framework)}", status="missing")
        _same("checkpoint", (model, framework), (checkpoint.spec.name, checkpoint.framework))
        outputs, labels = _predictions(folder, checkpoint.predictions, checkpoint.predictions_sha256)
        if labels is None or labels.shape != (checkpoint.samples,) or len(outputs[0]) != checkpoint.samples:
            raise Broken(f"{checkpoint.predictions} lacks outputs or labels for some of {checkpoint.samples} samples")
    except WRONG as error:
        return _Reference(lack=_line(f"the float model's checkpoint is broken: {error}"))
    return _Reference(checkpoint, outputs, labels, stats.top1(outputs[0]))


def _of_target(build: Store, reference: _Reference, cell: Cell) -> Iterator[Row]:
    """The rows of one model, recipe and target: one, or one for each device that measured it."""
    folder = build.cell(cell.model, cell.framework, cell.recipe, cell.target)
    try:
        artifact = _artifact(folder, reference, cell)
    except WRONG as error:
        reason = _line(f"{error}: inv export{_cell_options(cell)}")
        yield Row(replace(cell, status="failed", reason=reason), reference.checkpoint)
        return
    if isinstance(artifact, str) or artifact is None:
        yield Row(_not_exported(folder, reference, cell, artifact), reference.checkpoint)
        return
    cell = replace(cell, size_bytes=artifact.size_bytes, parity=artifact.parity, unchecked=artifact.unchecked)
    devices = sorted(
        {path.parent for name in ("measurement.json", "failure.json") for path in folder.glob(f"*/{name}")}
    )
    for home in devices:
        yield _with_failure(home, _measured(home, artifact, reference, replace(cell, device=home.name)))
    if not devices:
        yield Row(_not_measured(reference, cell), reference.checkpoint, artifact)


def _artifact(folder: Path, reference: _Reference, cell: Cell) -> Artifact | str | None:
    """The artifact; a sentence where it is of other weights than the checkpoint's; None where there is none."""
    artifact = store.read(Artifact, folder / "artifact.json")
    if artifact is None:
        return None
    _same(
        "artifact",
        (cell.model, cell.framework, cell.recipe, cell.target),
        (artifact.model, artifact.framework, artifact.recipe, artifact.target),
    )
    file = folder / safe_file_name(artifact.file)
    if not file.exists():
        raise Broken(f"{artifact.file} is missing")
    if store.size(file) != artifact.size_bytes:
        raise Broken(f"{artifact.file} has {store.size(file)} bytes, its manifest says {artifact.size_bytes}")
    checkpoint = reference.checkpoint
    if checkpoint is not None and checkpoint.weights_sha256 != artifact.weights_sha256:
        return f"exported from other weights than the checkpoint's: inv export{_cell_options(cell)}"
    return artifact


def _not_exported(folder: Path, reference: _Reference, cell: Cell, stale: str | None) -> Cell:
    """The cell of what has no (valid) file: unsupported, failed, or not made yet."""
    reason = plugins.load("targets", cell.target).supports(_recipes()[cell.recipe], cell.framework)
    if reason is not None:
        return replace(cell, status="unsupported", reason=_line(reason))
    try:
        failure = store.read(Failure, folder / "failure.json")
        if failure is not None and failure.status not in ("failed", "unsupported"):
            raise Broken(f"failure.json has the status {failure.status!r}")
    except WRONG as error:
        return replace(cell, status="failed", reason=_line(str(error)))
    if failure is not None:
        return replace(cell, status=failure.status, reason=_line(failure.reason))
    if reference.lack:
        return replace(cell, status=reference.status, reason=reference.lack)
    return replace(cell, status="missing", reason=stale or f"not exported yet: inv export{_cell_options(cell)}")


def _not_measured(reference: _Reference, cell: Cell) -> Cell:
    """The cell of a file that no device has run: finished where none here can, else waiting for one."""
    if reference.lack:
        return replace(cell, status=reference.status, reason=reference.lack)
    if cell.unchecked is not None:
        return replace(cell, status="ok")
    return replace(cell, status="missing", reason=f"not measured yet: inv bench{_cell_options(cell)}")


def _measured(home: Path, artifact: Artifact, reference: _Reference, cell: Cell) -> Row:
    try:
        measurement = store.read(Measurement, home / "measurement.json")
        if measurement is None:
            reason = f"not measured yet: inv bench{_cell_options(cell)} --device {cell.device}"
            return Row(replace(cell, status="missing", reason=reason), reference.checkpoint, artifact)
        cell = replace(cell, emulated=_emulated(measurement))
        _same(
            "measurement",
            (cell.model, cell.framework, cell.recipe, cell.target, cell.device),
            (
                measurement.model,
                measurement.framework,
                measurement.recipe,
                measurement.target,
                measurement.device.get("name"),
            ),
        )
        stale = _stale(artifact, reference, measurement)
        if stale:
            reason = f"{stale}: inv bench{_cell_options(cell)} --device {cell.device}"
            return Row(replace(cell, status="missing", reason=reason), reference.checkpoint, artifact)
        if reference.lack:
            cell = replace(cell, status=reference.status, reason=reference.lack)
            return Row(cell, reference.checkpoint, artifact, measurement)
        return _sound(home, artifact, reference, measurement, cell)
    except WRONG as error:
        return Row(replace(cell, status="failed", reason=_line(str(error))), reference.checkpoint, artifact)


def _with_failure(home: Path, row: Row) -> Row:
    """The row of a device whose last run failed: in the place of a measurement, or as a warning beside an older one."""
    try:
        failure = store.read(Failure, home / "failure.json")
    except WRONG as error:
        return replace(row, cell=replace(row.cell, status="failed", reason=_line(str(error))))
    if failure is None:
        return row
    if row.cell.status != "ok":
        return replace(row, cell=replace(row.cell, status="failed", reason=_line(failure.reason)))
    warning = _line(f"measured before the last run, which failed: {failure.reason}")
    return replace(row, cell=replace(row.cell, warnings=(*row.cell.warnings, warning)))


def _emulated(measurement: Measurement) -> bool:
    """Whether its clock is not a real one; a measurement that does not say so is not taken for a real one's."""
    emulated = measurement.device.get("emulated")
    if not isinstance(emulated, bool):
        raise Broken(f"measurement.json does not say whether the device is emulated (device.emulated is {emulated!r})")
    return emulated


def _stale(artifact: Artifact, reference: _Reference, measurement: Measurement) -> str | None:
    """Why a measurement is of something else than what is there now."""
    if measurement.artifact_sha256 != artifact.sha256:
        return "measured on an older export"
    checkpoint = reference.checkpoint
    if checkpoint is not None and checkpoint.dataset_sha256 != measurement.accuracy.dataset_sha256:
        return "measured on other samples than the float model's"
    return None


def _sound(home: Path, artifact: Artifact, reference: _Reference, measurement: Measurement, cell: Cell) -> Row:
    """The row of a measurement that belongs to its artifact. Raises Broken where its predictions do not fit."""
    accuracy = measurement.accuracy
    outputs, _ = _predictions(home, accuracy.predictions, accuracy.predictions_sha256)
    held, expected = [(o.shape, str(o.dtype)) for o in outputs], [(o.shape, "float32") for o in reference.outputs]
    if held != expected:
        raise Broken(f"{accuracy.predictions} holds outputs {held}, the float model's are {expected}")
    top1 = stats.top1(outputs[0])
    correct, before = top1 == reference.labels, reference.top1 == reference.labels
    value = float(correct.mean())
    if accuracy.samples != len(correct) or not abs(value - accuracy.value) <= 1e-6:
        raise Broken(
            f"{accuracy.predictions} gives accuracy {value:.4f} over {len(correct)} samples, "
            f"measurement.json says {accuracy.value:.4f} over {accuracy.samples}"
        )
    drop, interval = stats.paired_drop(before, correct)
    cell = replace(
        _timed(cell, measurement),
        status="ok",
        peak_rss_bytes=measurement.peak_rss_bytes,
        accuracy=value,
        reference_accuracy=float(before.mean()),
        drop_points=drop,
        drop_interval=interval,
        agreement=stats.agreement(reference.outputs[0], outputs[0]),
        runtime=runtime(measurement),
        warnings=(*stats.warnings(measurement), *_not_finite(top1)),
    )
    classes = stats.class_drops(reference.labels, reference.top1, top1, outputs[0].reshape(len(top1), -1).shape[1])
    return Row(cell, reference.checkpoint, artifact, measurement, home, tuple(classes))


def _timed(cell: Cell, measurement: Measurement) -> Cell:
    """Times, where the device's clock is a real one; where its clock counts instructions, those."""
    summary = stats.latency(measurement.runs)
    if not cell.emulated:
        load, first = measurement.load_ns / 1e6, measurement.first_run_ns / 1e6
        return replace(cell, latency_ms=summary, load_ms=load, first_run_ms=first)
    if measurement.device.get("clock") == "instructions":  # one nanosecond of guest time an instruction
        return replace(cell, instructions=round(summary.p50 * 1e6))
    return cell


def runtime(measurement: Measurement) -> str:
    """A measurement's runtime in words: name, version, threads, delegate."""
    facts = measurement.runtime
    words = [f"{facts.get('name', '?')} {facts.get('version') or ''}".strip()]
    if facts.get("threads"):
        words.append(f"{facts['threads']} thread" + ("s" if facts["threads"] != 1 else ""))
    if facts.get("delegate"):
        words.append(str(facts["delegate"]))
    return ", ".join(words)


def _not_finite(top1: Array) -> tuple[str, ...]:
    count = int((top1 < 0).sum())
    if not count:
        return ()
    return (f"{count} of {len(top1)} samples gave NaN or infinite outputs (counted as wrong): see inv trace",)


def _of_nobody(build: Store, model: str, framework: str, recipes: dict[str, Recipe]) -> Iterator[Row]:
    """Exports of recipes or targets whose plug-in is gone: shown as what they are, not left out."""
    targets = plugins.names("targets")
    for path in sorted(build.home(model, framework).glob("*/*/artifact.json")):
        recipe, target = path.parent.parent.name, path.parent.name
        if recipe not in recipes or target not in targets:
            what = f"recipe {recipe!r}" if recipe not in recipes else f"target {target!r}"
            reason = f"{what} is not known (any more); its export is still in {path.parent}"
            yield Row(Cell(model, framework, recipe, target, None, False, "failed", reason))


def _same(what: str, place: tuple[Any, ...], content: tuple[Any, ...]) -> None:
    if place != content:
        raise Broken(f"the {what} in the folder of {'/'.join(map(str, place))} is of {'/'.join(map(str, content))}")


def _predictions(folder: Path, name: str, digest: str) -> tuple[tuple[Any, ...], Any]:
    """Outputs in their order and the labels (or None) of a predictions file, whose content must be `digest`'s."""
    import numpy as np

    try:
        content = (folder / safe_file_name(name)).read_bytes()
    except OSError as error:
        raise Broken(f"{name} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() != digest:
        raise Broken(f"{name} is not the file that its manifest describes (another sha256)")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise Broken(f"{name} is not an .npz file of arrays: {error}") from error
    outputs = tuple(arrays[f"output_{i}"] for i in range(len(arrays)) if f"output_{i}" in arrays)
    if not outputs or not outputs[0].ndim or set(arrays) - {f"output_{i}" for i in range(len(outputs))} - {"labels"}:
        raise Broken(f"{name} holds {sorted(arrays)}, not output_0 … and labels")
    return outputs, arrays.get("labels")


def _options(model: str, framework: str) -> str:
    return f" --model {model}" + ("" if framework == "torch" else f" --framework {framework}")


def _cell_options(cell: Cell) -> str:
    return f"{_options(cell.model, cell.framework)} --target {cell.target} --recipe {cell.recipe}"


# -- bit for bit -------------------------------------------------------------------------------------------------------


def _compare(group: list[Row]) -> Iterator[Equality]:
    """All pairs of one model, recipe and device."""
    outputs = [_outputs(row) for row in group]
    for (a, left), (b, right) in combinations(zip(group, outputs, strict=True), 2):
        distance = stats.parity(a.cell.target, left, right, [None] * len(left))
        yield Equality(
            model=a.cell.model,
            framework=a.cell.framework,
            recipe=a.cell.recipe,
            device=a.cell.device or "",
            first=a.cell.target,
            second=b.cell.target,
            one_graph=all(row.artifact is not None and row.artifact.quantized_by == "graph" for row in (a, b)),
            equal=stats.equal_count(left, right),
            samples=distance.samples,
            agreement=distance.top1_agreement,
            max_error=distance.max_error,
        )


def _outputs(row: Row) -> tuple[Any, ...]:
    assert row.home is not None and row.measurement is not None  # `equalities` takes measured rows only
    accuracy = row.measurement.accuracy
    return _predictions(row.home, accuracy.predictions, accuracy.predictions_sha256)[0]


# -- for the terminal --------------------------------------------------------------------------------------------------

HEADERS = (
    "recipe",
    "target",
    "device",
    "size kB",
    "p50 / p90 / p99 ms",
    "load ms",
    "RSS MB",
    "top-1 %",
    "drop, points [95 %]",
    "agree %",
)


def table(found: Sequence[Cell]) -> str:
    """The cells as text: one row each, under a line for each model; reasons and warnings where the figures end."""
    lines: list[str] = []
    figures = {id(cell): _figures(cell) for cell in found if cell.status == "ok"}
    heads = {id(cell): (cell.recipe, cell.target, cell.device or "–") for cell in found}
    widths = _widths([*((*heads[i], *f) for i, f in figures.items()), *((*h, *[""] * 7) for h in heads.values())])
    for (model, framework), group in groupby(found, key=lambda cell: (cell.model, cell.framework)):
        lines += ["", f"{model} ({framework})", _aligned(HEADERS, widths)]
        for cell in group:
            if cell.status == "ok":
                lines.append(_aligned((*heads[id(cell)], *figures[id(cell)]), widths))
            else:
                lines += _wrapped(_aligned(heads[id(cell)], widths) + "  ", f"{cell.status}: {cell.reason}")
            lines += [line for text in cell.warnings for line in _wrapped("    ! ", text)]
    return "\n".join(lines[1:]) if lines else "no models yet: inv train"


def _figures(cell: Cell) -> tuple[str, ...]:
    """The cells of a row that has figures; what was not measured is a dash, or the words why."""
    if cell.device is None:
        return (_kb(cell), _line(cell.unchecked or ""), *[""] * 5)
    return (
        _kb(cell),
        latency_text(cell),
        "–" if cell.load_ms is None else f"{cell.load_ms:.1f}",
        "–" if cell.peak_rss_bytes is None else f"{cell.peak_rss_bytes / 1e6:.0f}",
        percent(cell.accuracy),
        drop_text(cell),
        percent(cell.agreement, 1),
    )


def latency_text(cell: Cell) -> str:
    """p50 / p90 / p99 in ms; for an emulated device its instructions, in millions, or that it is one."""
    if cell.latency_ms is not None:
        summary = cell.latency_ms
        return " / ".join(milliseconds(value) for value in (summary.p50, summary.p90, summary.p99))
    if cell.instructions is not None:
        return f"{cell.instructions / 1e6:.2f} M instr."
    return "emulated" if cell.emulated else "–"


def milliseconds(value: float) -> str:
    """Three significant digits or so: 0.0213, 1.37, 45.1, 1204."""
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage, without its sign."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def points(value: float) -> str:
    """Percentage points with a sign that zero does not have."""
    return f"{value + 0:+.2f}" if round(value, 2) else "0.00"


def drop_text(cell: Cell) -> str:
    """The drop with its interval; `*` where that leaves out 0."""
    if cell.drop_points is None or cell.drop_interval is None:
        return "–"
    low, high = cell.drop_interval
    mark = "*" if stats.is_resolved((low, high)) else " "
    return f"{points(cell.drop_points)} [{points(low)}, {points(high)}]{mark}"


def _kb(cell: Cell) -> str:
    return "–" if cell.size_bytes is None else f"{cell.size_bytes / 1000:,.1f}"


def _widths(lines: Iterable[Sequence[str]]) -> list[int]:
    """Widths of the columns; a reason that stands in a figure's place may run over the columns after it."""
    widths = [len(header) for header in HEADERS]
    for line in lines:
        for place, text in enumerate(line):
            if len(line) > 5 and line[5:] == ("",) * 5 and place == 4:
                continue
            widths[place] = max(widths[place], len(text))
    return widths


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right, two spaces between."""
    if len(texts) == len(HEADERS) and not any(texts[5:]):
        return _aligned(texts[:4], widths) + "  " + texts[4]
    parts = [
        text.ljust(width) if i < 3 else text.rjust(width)
        for i, (text, width) in enumerate(zip(texts, widths, strict=False))
    ]
    return "  " + "  ".join(parts).rstrip()


def _wrapped(begin: str, text: str) -> list[str]:
    room = max(40, WIDTH - len(begin))
    first, *rest = textwrap.wrap(_line(text), room) or [""]
    return [begin + first, *(" " * len(begin) + line for line in rest)]


def _line(text: str) -> str:
    """One line of printable characters: reasons come from converters' logs and users' files."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
