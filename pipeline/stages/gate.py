"""Gate: the files of a build folder against those of a baseline, on devices, within limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from pipeline import registry, stats, tasks
from pipeline.core import Process, command_options
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken
from pipeline.results import gates, ratios, releases
from pipeline.results.gates import (
    ACCURACY,
    INSTRUCTIONS,
    LATENCY,
    LOAD,
    MEMORY,
    SIZE,
    Check,
    Gates,
    Limits,
    Outcome,
    Test,
)
from pipeline.results.ratios import ALPHAS
from pipeline.results.releases import Release, Released
from pipeline.stages import _alternate, measure
from pipeline.stages._alternate import File, Pair, Rounds
from pipeline.stages.compare import counts
from pipeline.system.progress import say
from pipeline.system.store import Store

SAME_FILE = "the same file (sha256)"


@dataclass(frozen=True)
class _Cell:
    """A file of the baseline and the new one under the same recipe and target, on a device (None: nowhere)."""

    old: Released
    new: Released
    limits: Limits
    device: str | None

    def check(self, figure: str) -> Check | None:
        """The check of a figure, without a verdict; None if the figure has no limit."""
        limit, artifact = self.limits.of(figure), self.new.artifact
        if limit is None:
            return None
        return Check(
            artifact.model, artifact.framework, artifact.recipe, artifact.target, self.device, figure, limit,
            gates.CANNOT_TELL,
        )  # fmt: skip

    @property
    def same(self) -> bool:
        return self.old.measured_sha256 == self.new.measured_sha256

    @property
    def name(self) -> str:
        return f"{self.new.name} on {self.device}"


def gate(build: Store, baseline: Release, devices: Sequence[BoundDevice], limits: Gates, source: Path) -> Outcome:
    """Compares the files of a build folder with a baseline. A file with the baseline's sha256 is not measured.

    Args:
        source: where the limits come from, for messages.

    Raises:
        BadOption: the baseline is of another model, labels or inputs; a device was not measured; a limit that
            gates.toml has is below the resolution.
        Broken: a file does not match its manifest.
        StageFailed: a file cannot be run.
    """
    new = releases.of_build(build, baseline.spec.name, baseline.framework)
    require_comparable(baseline, new)
    limits.require_known(source, baseline.files)
    for device in devices:
        if device.name not in baseline.devices:
            known = ", ".join(baseline.devices) or "no device"
            raise BadOption(f"--device {device.name}: {baseline.name} was measured on {known}")
    pairs = {place: (old, new.files.get(place)) for place, old in baseline.files.items()}
    checks: list[Check] = []
    for place, (old, after) in pairs.items():
        if after is None:
            checks.append(_missing(new, old, limits.of(*place)))
        else:
            old.require_intact()
            after.require_intact()
            checks += _sizes(_Cell(old, after, limits.of(*place), None))
    cells = [
        [
            _Cell(old, after, limits.of(*place), device.name)
            for place, (old, after) in pairs.items()
            if after is not None and device.name in old.measured
        ]
        for device in devices
    ]
    for device, own in zip(devices, cells, strict=True):  # before anything is measured
        for cell in own:
            _require_measured(new, cell, device)
            _require_samples(baseline, new, cell)
    for device, own in zip(devices, cells, strict=True):
        checks += _on_device(build, baseline, new, device, own)
    order = list(pairs)
    checks.sort(key=lambda check: order.index((check.recipe, check.target)))
    return Outcome(baseline.name, tuple(checks), tuple(_notes(baseline, new)))


def require_comparable(old: Release, new: Release) -> None:
    """
    Raises:
        BadOption: the releases are of another model, or an app could not use one in place of the other.
    """
    tasks.require_image_classes(old.spec, "a comparison of releases")
    if old.spec.name != new.spec.name:
        raise BadOption(f"the baseline is of {old.spec.name}, and not of {new.spec.name}")
    for what, before, after in (
        ("labels", old.spec.labels, new.spec.labels),
        ("inputs", (old.spec.inputs, old.spec.preprocessing), (new.spec.inputs, new.spec.preprocessing)),
        ("outputs", old.spec.outputs, new.spec.outputs),
    ):
        if before != after:
            raise BadOption(f"{old.name} has other {what} than {new.name}: they cannot be compared")


def _missing(new: Release, old: Released, limits: Limits) -> Check:
    """A file that the baseline has and that cannot be made any more.

    Raises:
        BadOption: it was just not exported.
    """
    artifact = old.artifact
    why = new.others.get((artifact.recipe, artifact.target, None))
    if why is None or why.status == "missing":
        options = command_options(artifact.model, artifact.framework)
        raise BadOption(
            f"{old.name} of the baseline is not exported: "
            f"inv bench{options} --target {artifact.target} --recipe {artifact.recipe}"
        )
    return Check(
        artifact.model, artifact.framework, artifact.recipe, artifact.target, None, "file", 1.0, gates.FAIL,
        reason=f"{why.status}: {why.reason}",
    )  # fmt: skip


def _require_measured(new: Release, cell: _Cell, device: BoundDevice) -> None:
    """
    Raises:
        BadOption: the new file differs and was not measured on the device.
    """
    artifact = cell.new.artifact
    if cell.same or device.name in cell.new.measured:
        return
    why = new.others.get((artifact.recipe, artifact.target, device.name))
    options = command_options(artifact.model, artifact.framework)
    raise BadOption(
        f"{cell.new.name} is not measured on {device.name}{f' ({why.reason})' if why else ''}: inv bench{options} "
        f"--target {artifact.target} --recipe {artifact.recipe} --device {device.name}"
    )


def _require_samples(old: Release, new: Release, cell: _Cell) -> None:
    """
    Raises:
        BadOption: the limit of the accuracy was given and is below the resolution of the samples.
    """
    limit = cell.limits.drop_points
    if cell.same or limit is None or "drop_points" not in cell.limits.given:
        return
    assert cell.device is not None
    sizes = [side.measured[cell.device].measurement.accuracy.samples for side in (cell.old, cell.new)]
    gates.require_samples("drop_points", limit, min(sizes), cell.name)


def _sizes(cell: _Cell) -> Iterator[Check]:
    check = cell.check(SIZE)
    if check is not None:
        old, new = cell.old.measured_bytes, cell.new.measured_bytes
        reason = SAME_FILE if cell.same else ""
        yield gates.exact(replace(check, old=old, new=new, reason=reason), new / max(old, 1))


def _on_device(
    build: Store, baseline: Release, new: Release, device: BoundDevice, cells: Sequence[_Cell]
) -> list[Check]:
    """The checks of all files on one device."""
    checks = [check for cell in cells if cell.same for check in _unchanged(cell, device)]
    changed = [cell for cell in cells if not cell.same]
    accuracy = [test for cell in changed for test in _accuracy(baseline, new, cell)]
    if not changed:
        return checks
    if device.device.emulated and not counts(device.device):
        return [*checks, *gates.judged(accuracy, ALPHAS[1])]
    with measure.alone(build, device, device.hardware(build), f"a gate on {device.name}"):
        if device.device.emulated:
            counted = [check for cell in changed for check in _counted(build, device, cell)]
            return [*checks, *counted, *gates.judged(accuracy, ALPHAS[1])]
        return [*checks, *_in_rounds(build, device, changed, accuracy)]


def _unchanged(cell: _Cell, device: BoundDevice) -> Iterator[Check]:
    """The checks of a file that is the baseline's: nothing has changed."""
    figures = [ACCURACY]
    if not device.device.emulated:
        figures += [LATENCY, MEMORY, LOAD]
    elif counts(device.device):
        figures.append(INSTRUCTIONS)
    for figure in figures:
        check = cell.check(figure)
        if check is not None:
            yield gates.exact(replace(check, reason=SAME_FILE), 0.0 if figure == ACCURACY else 1.0)


def _accuracy(baseline: Release, new: Release, cell: _Cell) -> Iterator[Test]:
    check = cell.check(ACCURACY)
    if check is None or cell.device is None:
        return
    found = releases.same_samples(baseline, new, cell.old.measured[cell.device], cell.new.measured[cell.device])
    if isinstance(found, str):
        yield Test(replace(check, reason=found), 1.0, False)
    else:
        yield gates.of_accuracy(check, *found)


def _pair(device: BoundDevice, cell: _Cell) -> Pair:
    def file(which: str, one: Released) -> File:
        runtime = device.runtime(registry.bind("targets", one.artifact.target))
        if runtime is None or device.unsupported(registry.bind("targets", one.artifact.target)):
            raise Broken(f"{one.name} was measured on {device.name}, which does not run it now")
        return File(f"{which} {one.name}", one.file, runtime)

    return Pair(file("old", cell.old), file("new", cell.new))


def _counted(build: Store, device: BoundDevice, cell: _Cell) -> Iterator[Check]:
    check = cell.check(INSTRUCTIONS)
    if check is not None:
        found = _alternate.more(build, device, _pair(device, cell), Rounds(), 1)
        old, new = (1e6 * ratios.median_of(side.processes) for side in (found.old, found.new))
        yield gates.exact(replace(check, old=old, new=new), new / old)


@dataclass(frozen=True)
class _Measured:
    """What was measured of a cell, and the level of its last test."""

    cell: _Cell
    pair: Pair
    rounds: Rounds
    alpha: float

    def tests(self) -> list[Test]:
        """The tests of the figures with noise."""
        found = []
        for figure, of in FIGURES.items():
            check = self.cell.check(figure)
            if check is not None:
                old, new = ([of(process) for process in side.processes] for side in (self.rounds.old, self.rounds.new))
                ratio = ratios.of(old, new, self.alpha)
                found.append(gates.of_ratio(replace(check, old=median(old), new=median(new)), ratio))
        return found


FIGURES: Mapping[str, Callable[[Process], float]] = {
    LATENCY: lambda process: stats.median_ms(process.runs),
    MEMORY: lambda process: process.peak_rss_bytes,
    LOAD: lambda process: process.load_ns / 1e6,
}
"""The figures of a process that are compared in rounds."""


def _in_rounds(build: Store, device: BoundDevice, cells: Sequence[_Cell], accuracy: Sequence[Test]) -> list[Check]:
    """Measures rounds of every file; those that cannot tell are extended once. All tests share the levels."""
    measured = [
        _Measured(cell, pair, _more(build, device, cell, pair, Rounds()), ALPHAS[0])
        for cell in cells
        for pair in [_pair(device, cell)]
        if any(cell.check(figure) for figure in FIGURES)
    ]
    tests = [(one, test) for one in measured for test in one.tests()]
    checks = gates.judged([test for _, test in tests], ALPHAS[0])
    open_ = {one.cell.name for (one, _), check in zip(tests, checks, strict=True) if check.verdict == gates.CANNOT_TELL}
    for (one, test), check in zip(tests, checks, strict=True):
        if check.verdict == gates.CANNOT_TELL:
            _require_resolution(one, test)
    again = {
        one.cell.name: replace(one, rounds=_more(build, device, one.cell, one.pair, one.rounds), alpha=ALPHAS[1])
        for one in measured
        if one.cell.name in open_
    }
    later = {(name, test.check.figure): test for name, one in again.items() for test in one.tests()}
    final = [
        later[one.cell.name, check.figure]
        if check.verdict == gates.CANNOT_TELL
        else Test(check, 1.0 if check.verdict == gates.PASS else 0.0, check.verdict == gates.PASS)
        for (one, _), check in zip(tests, checks, strict=True)
    ]
    return gates.judged([*accuracy, *final], ALPHAS[1])


def _more(build: Store, device: BoundDevice, cell: _Cell, pair: Pair, done: Rounds) -> Rounds:
    say(f"  {cell.name}: {cell.limits.rounds} {'more ' if done.old.processes else ''}rounds")
    return _alternate.more(build, device, pair, done, cell.limits.rounds)


def _require_resolution(one: _Measured, test: Test) -> None:
    """
    Raises:
        BadOption: the limit was given, and is below the resolution of the rounds.
    """
    check, key = test.check, gates.LIMITS[test.check.figure]
    if key in one.cell.limits.given and test.ratio is not None:
        gates.require_rounds(key, check.limit, test.ratio, one.cell.name)


def _notes(old: Release, new: Release) -> Iterator[str]:
    more = [file.name for place, file in new.files.items() if place not in old.files]
    if more:
        yield f"not in the baseline, so not compared: {', '.join(more)}"
    if old.weights_sha256 == new.weights_sha256:
        yield "both have the same weights"
    if old.dataset_sha256 != new.dataset_sha256:
        yield "the evaluation images have changed since the baseline, so its accuracy cannot be compared"
