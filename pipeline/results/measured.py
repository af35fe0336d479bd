"""The row of one measurement: valid, stale or broken, and how its outputs compare with the float model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from pipeline import devices, formatting, registry, stats
from pipeline.core import Artifact, Cell, Failure, Measurement, Timed
from pipeline.errors import Broken
from pipeline.results import keys, latency_meaning, output_diff, predictions, warnings
from pipeline.results.reference import Reference
from pipeline.results.rows import READ_ERRORS, Row, failed, outputs, require_same
from pipeline.system import store
from pipeline.system.store import Store


def row(build: Store, home: Path, artifact: Artifact, reference: Reference, cell: Cell) -> Row:
    """The row of the measurement in the folder `home`, with the failure of a later run, if any."""
    found = _measured(home, artifact, reference, cell)
    if found.measurement is not None and found.cell.latency_ms is not None:
        floor = latency_meaning.floor_ms(build, found.measurement)
        found = replace(found, cell=replace(found.cell, floor_ms=floor))
    return _with_failure(build, home, artifact, found)


def with_host_step(row: Row, hosts: Sequence[Row], reference: Reference) -> Row:
    """A device's row with the host's step between the framework's step and its own.

    Args:
        hosts: the host's measurements of the same file, over the same samples or over all of them.
    """
    assert row.measurement is not None and row.cell.samples is not None  # true of every row with a `home`
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
        on_host = outputs(host)
        if host.cell.samples != samples:
            on_host = tuple(output[stats.stratified(reference.labels, samples)] for output in on_host)
        before = reference.subset(samples)
        accuracy, classes = float(before.task.scores(on_host, before.labels).mean()), before.task.CLASSES
        host_step = output_diff.step(measured[place], before.outputs, on_host, accuracy, classes)
        own = output_diff.step(row.measurement, on_host, outputs(row), row.measurement.accuracy.value, classes)
    except READ_ERRORS as error:
        return replace(row, cell=failed(row.cell, error))
    own = output_diff.other_runtime(own, row.measurement, measured[place], reference.options(row.cell))
    return replace(row, cell=replace(row.cell, steps=(first, host_step, own)))


def _measured(home: Path, artifact: Artifact, reference: Reference, cell: Cell) -> Row:
    try:
        measurement = store.read(Measurement, home / "measurement.json")
        if measurement is None:
            return Row(_to_bench("not measured yet", reference, cell), reference.checkpoint, artifact)
        cell = replace(cell, hardware=measurement.device.get("hardware"), emulated=is_emulated(measurement))
        _require_own(measurement, cell)
        stale = _stale(artifact, reference, measurement)
        if stale:
            return Row(_to_bench(stale, reference, cell), reference.checkpoint, artifact)
        if reference.problem:
            cell = replace(cell, status=reference.status, reason=reference.problem)
            return Row(cell, reference.checkpoint, artifact, measurement)
        return _valid(home, artifact, reference, measurement, cell)
    except READ_ERRORS as error:
        return Row(failed(cell, error), reference.checkpoint, artifact)


def _to_bench(why: str, reference: Reference, cell: Cell) -> Cell:
    """A cell without a valid measurement, with the command that measures it."""
    where = f" --device {cell.device}" + ("" if cell.threads in (None, 1) else f" --threads {cell.threads}")
    return replace(cell, status="missing", reason=f"{why}: inv bench{reference.options(cell)}{where}")


def _require_own(measurement: Measurement, cell: Cell) -> None:
    """Raises Broken if a measurement is not of the cell whose folder holds it."""
    require_same(
        "measurement",
        (cell.model, cell.framework, cell.recipe, cell.target, cell.device, cell.threads),
        (
            *(measurement.model, measurement.framework, measurement.recipe, measurement.target),
            *(measurement.device.get("name"), measurement.runtime.get("threads")),
        ),
    )


def _with_failure(build: Store, home: Path, artifact: Artifact, row: Row) -> Row:
    """Adds the last run's failure: as the reason if there is no measurement, else as a warning on the older one. The
    failure of another file, runtime or edge-bench is not added: the next run may succeed."""
    try:
        failure = store.read(Failure, home / "failure.json")
        if failure is None or failure.key != _key_now(build, artifact, row):
            return row
    except READ_ERRORS as error:
        return replace(row, cell=failed(row.cell, error))
    if row.cell.status != "ok":
        return replace(row, cell=failed(row.cell, failure.reason))
    warning = formatting.one_line(f"these figures are older: the last run failed ({failure.reason})")
    return replace(row, cell=replace(row.cell, warnings=(*row.cell.warnings, warning)))


def _key_now(build: Store, artifact: Artifact, row: Row) -> str | None:
    """The key that a failure of this cell would have now; None without the checkpoint or the device."""
    device = devices.devices().get(str(row.cell.device))
    runtime = device.runtime(registry.bind("targets", artifact.target)) if device else None
    if row.checkpoint is None or device is None or runtime is None:
        return None
    return keys.run(build, row.checkpoint, artifact, device, runtime)


def is_emulated(measurement: Timed) -> bool:
    """Whether the device is emulated. A measurement must record it: an emulated latency must never pass as real."""
    emulated = measurement.device.get("emulated")
    if not isinstance(emulated, bool):
        raise Broken(f"measurement.json: device.emulated must be true or false, not {emulated!r}")
    return emulated


def _stale(artifact: Artifact, reference: Reference, measurement: Measurement) -> str | None:
    """Why a measurement no longer applies; None if it does."""
    if measurement.artifact_sha256 != artifact.sha256:
        return "measured on an older export"
    checkpoint = reference.checkpoint
    if checkpoint is not None and checkpoint.dataset_sha256 != measurement.accuracy.dataset_sha256:
        return "measured on other samples than the float model"
    return None


def _valid(home: Path, artifact: Artifact, reference: Reference, measurement: Measurement, cell: Cell) -> Row:
    """The row of a measurement of the current artifact. Raises Broken if its predictions do not fit."""
    accuracy, split = measurement.accuracy, len(reference.labels)
    reference = reference.subset(accuracy.samples)
    outputs, _ = predictions.read(home, accuracy.predictions, accuracy.predictions_sha256)
    found, expected = [(o.shape, str(o.dtype)) for o in outputs], [(o.shape, "float32") for o in reference.outputs]
    if found != expected:
        raise Broken(f"{accuracy.predictions} has outputs {found}; the float model has {expected}")
    task = reference.task
    scores, before = task.scores(outputs, reference.labels), reference.scores
    value = float(scores.mean())
    if accuracy.samples != len(scores) or not abs(value - accuracy.value) <= 1e-6:
        raise Broken(
            f"{accuracy.predictions} gives {task.TITLE} {value:.4f} over {len(scores)} samples; "
            f"measurement.json has {accuracy.value:.4f} over {accuracy.samples}"
        )
    drop, interval = stats.mean_drop(before, scores)
    lost, gained = stats.discordant(before, scores) if task.CLASSES else (None, None)
    assert reference.checkpoint is not None  # without one the cell has a problem and does not get here
    cell = replace(
        timed(cell, measurement),
        status="ok",
        peak_rss_bytes=max(process.peak_rss_bytes for process in measurement.processes),
        pss_bytes=max((p.pss_bytes for p in measurement.processes if p.pss_bytes is not None), default=None),
        samples=accuracy.samples,
        metric=task.METRIC,
        accuracy=value,
        reference_accuracy=float(before.mean()),
        drop_points=drop,
        drop_interval=interval,
        lost=lost,
        gained=gained,
        figures=task.figures(outputs, reference.labels),
        agreement=stats.agreement(reference.outputs[0], outputs[0]) if task.CLASSES else None,
        runtime=formatting.runtime(measurement),
        cpus=measurement.runtime.get("cpus"),
        throttled=throttled(measurement),
        includes_input_copy=measurement.runtime.get("includes_input_copy"),
        steps=(
            output_diff.framework(reference.checkpoint, before),
            output_diff.step(measurement, reference.outputs, outputs, value, task.CLASSES),
        ),
        warnings=(
            *cell.warnings,
            *warnings.of_times(measurement),
            *warnings.of_outputs(outputs),
            *warnings.of_part(len(scores), split),
        ),
    )
    classes: list[tuple[int, float | None, tuple[float, float] | None]] = []
    if task.CLASSES:
        number = outputs[0].reshape(len(scores), -1).shape[1]
        classes = stats.class_drops(reference.labels, reference.top1, stats.top1(outputs[0]), number)
    return Row(cell, reference.checkpoint, artifact, measurement, home, tuple(classes))


def throttled(measurement: Timed) -> bool | None:
    """Whether the device slowed its clock in any of the processes; None if it does not report it."""
    known = [process.throttled for process in measurement.processes if process.throttled is not None]
    return any(known) if known else None


def timed(cell: Cell, measurement: Timed) -> Cell:
    """The cell with latency on a real device, or with instructions on an emulated one that counts them."""
    processes = measurement.processes
    summary = stats.latency(processes)
    if not cell.emulated:
        load, first = (median(ns) / 1e6 for ns in zip(*((p.load_ns, p.first_run_ns) for p in processes), strict=True))
        return replace(cell, latency_ms=summary, load_ms=load, first_run_ms=first)
    if measurement.device.get("clock") == "instructions":  # the guest's clock advances one nanosecond an instruction
        p50, p90, p99 = (round(ms * 1e6) for ms in (summary.p50, summary.p90, summary.p99))
        return replace(cell, instructions=p50, instructions_p90=p90, instructions_p99=p99)
    return cell
