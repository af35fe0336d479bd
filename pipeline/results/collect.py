"""What has been made and measured: one cell for every model, recipe and target, on every device that ran it.

Manifests and predictions are read; no framework is imported and nothing is written. Whatever is wrong in the build
folder becomes a cell that says so: nothing here is left out, and nothing raises for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import formatting, registry, stats
from pipeline.core import Artifact, Cell, Checkpoint, Failure, Measurement, Recipe, command_options, safe_file_name
from pipeline.errors import Broken, PipelineError
from pipeline.results import output_diff, predictions, warnings
from pipeline.system import store
from pipeline.system.store import Store

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


def outputs(row: Row) -> tuple[Any, ...]:
    """Every sample's outputs of a row that has a home: one array per output.

    Raises:
        Broken: the file is not what its manifest describes (any more).
    """
    assert row.home is not None and row.measurement is not None
    accuracy = row.measurement.accuracy
    return predictions.read(row.home, accuracy.predictions, accuracy.predictions_sha256)[0]


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

    def options(self, cell: Cell) -> str:
        """What a command says to make or measure a cell again."""
        which = self.checkpoint.options if self.checkpoint else command_options(cell.model, cell.framework)
        return f"{which} --target {cell.target} --recipe {cell.recipe}"

    def of(self, samples: int) -> _Reference:
        """The same over a part of the split, where a measurement is of one."""
        if not 0 < samples < len(self.labels):
            return self
        chosen = stats.stratified(self.labels, samples)
        return replace(
            self,
            outputs=tuple(output[chosen] for output in self.outputs),
            labels=self.labels[chosen],
            top1=self.top1[chosen],
        )


def _of_model(build: Store, model: str, framework: str) -> Iterator[Row]:
    reference = _reference(build, model, framework)
    recipes = _recipes()
    for recipe in recipes.values():
        for target in registry.load_all("targets")[0]:
            cell = Cell(model, framework, recipe.name, target, None, False, "missing")
            yield from _of_target(build, reference, cell)
    yield from _of_nobody(build, model, framework, recipes)


def _recipes() -> dict[str, Recipe]:
    """Every recipe by name, in the order of the folder's names with the float ones first."""
    found = [module.RECIPE for module in registry.load_all("recipes")[0].values()]
    found.sort(key=lambda recipe: (not recipe.weights.startswith("float"), recipe.weights != "float32", recipe.name))
    return {recipe.name: recipe for recipe in found}


def _reference(build: Store, model: str, framework: str) -> _Reference:
    folder = build.checkpoint(model, framework)
    try:
        checkpoint = store.read(Checkpoint, folder / "checkpoint.json")
        if checkpoint is None:
            return _Reference(lack=f"not trained yet: inv train{command_options(model, framework)}", status="missing")
        _same("checkpoint", (model, framework), (checkpoint.spec.name, checkpoint.framework))
        outputs, labels = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
        if labels is None or labels.shape != (checkpoint.samples,) or len(outputs[0]) != checkpoint.samples:
            raise Broken(f"{checkpoint.predictions} lacks outputs or labels for some of {checkpoint.samples} samples")
    except WRONG as error:
        return _Reference(lack=formatting.one_line(f"the float model's checkpoint is broken: {error}"))
    return _Reference(checkpoint, outputs, labels, stats.top1(outputs[0]))


def _of_target(build: Store, reference: _Reference, cell: Cell) -> Iterator[Row]:
    """The rows of one model, recipe and target: one, or one for each device that measured it."""
    folder = build.cell(cell.model, cell.framework, cell.recipe, cell.target)
    try:
        artifact = _artifact(folder, reference, cell)
    except WRONG as error:
        reason = formatting.one_line(f"{error}: inv export{reference.options(cell)}")
        yield Row(replace(cell, status="failed", reason=reason), reference.checkpoint)
        return
    if isinstance(artifact, str) or artifact is None:
        yield Row(_not_exported(folder, reference, cell, artifact), reference.checkpoint)
        return
    cell = replace(cell, size_bytes=artifact.size_bytes, parity=artifact.parity, unchecked=artifact.unchecked)
    homes = {path.parent for name in ("measurement.json", "failure.json") for path in folder.glob(f"*/**/{name}")}
    found = [
        _with_failure(home, _measured(home, artifact, reference, replace(cell, device=device, threads=number)))
        for home, device, number in sorted(
            (home, *store.device_and_threads(home.relative_to(folder))) for home in homes
        )
    ]
    hosts = [row for row in found if row.home and row.measurement and output_diff.is_host(row.measurement)]
    for row in found:
        foreign = row.home and row.measurement and not output_diff.is_host(row.measurement)
        yield _through_host(row, hosts, reference) if foreign else row
    if not homes:
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
        return f"exported from other weights than the checkpoint's: inv export{reference.options(cell)}"
    return artifact


def _not_exported(folder: Path, reference: _Reference, cell: Cell, stale: str | None) -> Cell:
    """The cell of what has no (valid) file: unsupported, failed, or not made yet."""
    reason = registry.load("targets", cell.target).supports(_recipes()[cell.recipe], cell.framework)
    if reason is not None:
        return replace(cell, status="unsupported", reason=formatting.one_line(reason))
    try:
        failure = store.read(Failure, folder / "failure.json")
        if failure is not None and failure.status not in ("failed", "unsupported"):
            raise Broken(f"failure.json has the status {failure.status!r}")
    except WRONG as error:
        return replace(cell, status="failed", reason=formatting.one_line(str(error)))
    if failure is not None:
        return replace(cell, status=failure.status, reason=formatting.one_line(failure.reason))
    if reference.lack:
        return replace(cell, status=reference.status, reason=reference.lack)
    return replace(cell, status="missing", reason=stale or f"not exported yet: inv export{reference.options(cell)}")


def _not_measured(reference: _Reference, cell: Cell) -> Cell:
    """The cell of a file that no device has run: finished where none here can, else waiting for one."""
    if reference.lack:
        return replace(cell, status=reference.status, reason=reference.lack)
    if cell.unchecked is not None:
        return replace(cell, status="ok")
    return replace(cell, status="missing", reason=f"not measured yet: inv bench{reference.options(cell)}")


def _measured(home: Path, artifact: Artifact, reference: _Reference, cell: Cell) -> Row:
    try:
        measurement = store.read(Measurement, home / "measurement.json")
        if measurement is None:
            reason = f"not measured yet: inv bench{reference.options(cell)}{_where(cell)}"
            return Row(replace(cell, status="missing", reason=reason), reference.checkpoint, artifact)
        cell = replace(cell, emulated=_emulated(measurement))
        _same(
            "measurement",
            (cell.model, cell.framework, cell.recipe, cell.target, cell.device, cell.threads),
            (
                measurement.model,
                measurement.framework,
                measurement.recipe,
                measurement.target,
                measurement.device.get("name"),
                measurement.runtime.get("threads"),
            ),
        )
        stale = _stale(artifact, reference, measurement)
        if stale:
            reason = f"{stale}: inv bench{reference.options(cell)}{_where(cell)}"
            return Row(replace(cell, status="missing", reason=reason), reference.checkpoint, artifact)
        if reference.lack:
            cell = replace(cell, status=reference.status, reason=reference.lack)
            return Row(cell, reference.checkpoint, artifact, measurement)
        return _sound(home, artifact, reference, measurement, cell)
    except WRONG as error:
        return Row(
            replace(cell, status="failed", reason=formatting.one_line(str(error))), reference.checkpoint, artifact
        )


def _through_host(row: Row, hosts: Sequence[Row], reference: _Reference) -> Row:
    """The row of a measured device with the host's step between the framework's and its own.

    Args:
        hosts: what this machine measured of the same file, over the same samples or all of them.
    """
    assert row.measurement is not None and row.cell.samples is not None  # as every row with a home
    samples, whole = row.cell.samples, len(reference.labels)
    hosts = [host for host in hosts if host.cell.samples in (samples, whole)]
    measured = [host.measurement for host in hosts if host.measurement]
    place = output_diff.nearest(row.measurement, measured)
    first = row.cell.steps[0]
    if place is None:
        rest = output_diff.without_host(row.measurement, reference.options(row.cell))
        return replace(row, cell=replace(row.cell, steps=(first, *rest)))
    host = hosts[place]
    try:
        held = outputs(host)
        if host.cell.samples != samples:
            held = tuple(output[stats.stratified(reference.labels, samples)] for output in held)
        before = reference.of(samples)
        accuracy = float((stats.top1(held[0]) == before.labels).mean())
        shown = output_diff.beside(measured[place], before.outputs, held, accuracy)
        own = output_diff.beside(row.measurement, held, outputs(row), row.measurement.accuracy.value)
    except WRONG as error:
        return replace(row, cell=replace(row.cell, status="failed", reason=formatting.one_line(str(error))))
    own = output_diff.other_runtime(own, row.measurement, measured[place], reference.options(row.cell))
    return replace(row, cell=replace(row.cell, steps=(first, shown, own)))


def _with_failure(home: Path, row: Row) -> Row:
    """The row of a device whose last run failed: in the place of a measurement, or as a warning beside an older one."""
    try:
        failure = store.read(Failure, home / "failure.json")
    except WRONG as error:
        return replace(row, cell=replace(row.cell, status="failed", reason=formatting.one_line(str(error))))
    if failure is None:
        return row
    if row.cell.status != "ok":
        return replace(row, cell=replace(row.cell, status="failed", reason=formatting.one_line(failure.reason)))
    warning = formatting.one_line(f"measured before the last run, which failed: {failure.reason}")
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
    accuracy, split = measurement.accuracy, len(reference.labels)
    reference = reference.of(accuracy.samples)
    outputs, _ = predictions.read(home, accuracy.predictions, accuracy.predictions_sha256)
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
    assert reference.checkpoint is not None  # what lacks one is no sound row
    cell = replace(
        _timed(cell, measurement),
        status="ok",
        peak_rss_bytes=measurement.peak_rss_bytes,
        samples=accuracy.samples,
        accuracy=value,
        reference_accuracy=float(before.mean()),
        drop_points=drop,
        drop_interval=interval,
        agreement=stats.agreement(reference.outputs[0], outputs[0]),
        runtime=formatting.runtime(measurement),
        throttled=measurement.throttled,
        steps=(
            output_diff.framework(reference.checkpoint, before),
            output_diff.beside(measurement, reference.outputs, outputs, value),
        ),
        warnings=(*warnings.of_times(measurement), *warnings.of_outputs(top1), *warnings.of_part(len(top1), split)),
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
        p50, p90, p99 = (round(ms * 1e6) for ms in (summary.p50, summary.p90, summary.p99))
        return replace(cell, instructions=p50, instructions_p90=p90, instructions_p99=p99)
    return cell


def _of_nobody(build: Store, model: str, framework: str, recipes: dict[str, Recipe]) -> Iterator[Row]:
    """Exports of recipes or targets whose plug-in is gone or broken: shown as what they are, not left out."""
    targets, broken = registry.load_all("targets")
    reasons = {**broken, **registry.load_all("recipes")[1]}
    for path in sorted(build.home(model, framework).glob("*/*/artifact.json")):
        recipe, target = path.parent.parent.name, path.parent.name
        if recipe not in recipes or target not in targets:
            what = f"recipe {recipe!r}" if recipe not in recipes else f"target {target!r}"
            lost = reasons.get(recipe) or reasons.get(target) or f"{what} is not known (any more)"
            reason = formatting.one_line(f"{lost}; its export is still in {path.parent}")
            yield Row(Cell(model, framework, recipe, target, None, False, "failed", reason))


def _same(what: str, place: tuple[Any, ...], content: tuple[Any, ...]) -> None:
    if place != content:
        raise Broken(f"the {what} in the folder of {'/'.join(map(str, place))} is of {'/'.join(map(str, content))}")


def _where(cell: Cell) -> str:
    return f" --device {cell.device}" + ("" if cell.threads in (None, 1) else f" --threads {cell.threads}")
