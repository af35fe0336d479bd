"""The cells of ready files: what was measured of them, and what is known of their outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline import formatting, stats
from pipeline.core import Cell, Failure, FileMeasurement
from pipeline.errors import Broken
from pipeline.results import latency_meaning, measured, warnings
from pipeline.system import store
from pipeline.system.store import Store

FRAMEWORK, RECIPE = "ready file", "as it is"
FOLDER = "files"


def cells(build: Store) -> list[Cell]:
    """A cell for every ready file on every device that measured it, by file."""
    return [cell for home in sorted((build.root / FOLDER).glob("*/")) for cell in _of_file(build, home)]


def of(build: Store, measurement: FileMeasurement) -> Cell:
    """The cell of a measurement."""
    parity = min(measurement.parity, key=lambda each: each.snr_db, default=None)
    cell = Cell(
        model=measurement.file,
        framework=FRAMEWORK,
        recipe=RECIPE,
        target=measurement.target,
        device=str(measurement.device["name"]),
        emulated=measured.is_emulated(measurement),
        status="ok",
        size_bytes=measurement.size_bytes,
        peak_rss_bytes=max(process.peak_rss_bytes for process in measurement.processes),
        pss_bytes=max((p.pss_bytes for p in measurement.processes if p.pss_bytes is not None), default=None),
        parity=parity,
        runtime=formatting.runtime(measurement),
        threads=measurement.runtime.get("threads"),
        cpus=measurement.runtime.get("cpus"),
        hardware=measurement.device.get("hardware"),
        throttled=measured.throttled(measurement),
        includes_input_copy=measurement.runtime.get("includes_input_copy"),
        floor_ms=latency_meaning.floor_ms(build, measurement),
        warnings=(*_about_outputs(measurement), *warnings.of_times(measurement)),
    )
    return measured.timed(cell, measurement)


def _about_outputs(measurement: FileMeasurement) -> Iterator[str]:
    """What is known of a file's outputs."""
    if measurement.reference is None:
        yield "nothing is known of its outputs: --reference FILE compares them with those of another file"
        return
    for place, parity in enumerate(measurement.parity):
        name = measurement.outputs[place].name if len(measurement.outputs) == len(measurement.parity) else place
        if parity.max_error >= stats.LARGEST_ERROR:
            yield f"output {name}: NaN or infinite, and those of {measurement.reference[0]} are not"
        else:
            yield (
                f"output {name}: {parity.snr_db:.1f} dB from {measurement.reference[0]}'s, largest difference "
                f"{parity.max_error:.3g}, {parity.equal:.0%} of {parity.samples} samples bit-equal"
            )


def _of_file(build: Store, home: Path) -> Iterator[Cell]:
    for path in sorted([*home.rglob("measurement.json"), *home.rglob("failure.json")]):
        try:
            if path.name == "failure.json":
                failure = store.read(Failure, path)
                if failure is not None and not path.with_name("measurement.json").exists():
                    device = path.relative_to(home).parts[0]
                    cell = Cell(home.name, FRAMEWORK, RECIPE, "–", device, False, "failed")
                    yield replace(cell, reason=formatting.one_line(failure.reason))
                continue
            found = store.read(FileMeasurement, path)
            if found is not None:
                yield _with_failure(of(build, found), store.read(Failure, path.with_name("failure.json")))
        except Broken as error:
            yield Cell(home.name, FRAMEWORK, RECIPE, "–", None, False, "failed", formatting.one_line(str(error)))


def _with_failure(cell: Cell, failure: Failure | None) -> Cell:
    """The cell, with a warning if a later run failed."""
    if failure is None:
        return cell
    warning = formatting.one_line(f"these figures are older: the last run failed ({failure.reason})")
    return replace(cell, warnings=(*cell.warnings, warning))
