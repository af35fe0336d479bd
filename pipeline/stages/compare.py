"""Compare: two artifacts on one device, measured alternately by process, with a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import registry
from pipeline.core import Artifact, Device, safe_file_name
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, Broken, Unsupported
from pipeline.registry import Plugin
from pipeline.results import comparison, ratios
from pipeline.results.comparison import COUNTED, Comparison
from pipeline.results.ratios import Ratio
from pipeline.sources.file import suffixes
from pipeline.stages import _alternate, measure
from pipeline.stages._alternate import File, Pair, Rounds
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store
from pipeline.targets import Target


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        rounds: on a real device, before the extension.
        margin: within which the files are the same, as a share; None for `comparison.MARGIN`. A given one must be
            within the resolution.
        inputs: .npy file with samples; None for pseudo-random inputs.
    """

    rounds: int = ratios.ROUNDS
    margin: float | None = None
    threads: int = 1
    inputs: Path | None = None

    def check(self) -> None:
        """
        Raises:
            BadOption: a value is out of range.
        """
        if self.rounds < 2:
            raise BadOption(f"--rounds {self.rounds}: must be at least 2: one round has no spread")
        if self.threads < 1:
            raise BadOption(f"--threads {self.threads}: must be at least 1")
        if self.margin is not None and not 0 < self.margin < 1:
            raise BadOption(f"--margin {100 * self.margin:g}: must be above 0 and below 100 percent")
        if self.inputs is not None and not self.inputs.is_file():
            raise BadOption(f"--inputs {self.inputs}: no such file")


@dataclass(frozen=True)
class Subject:
    """An artifact that the user named.

    Attributes:
        folder: its folder with artifact.json; None for a file alone.
    """

    path: Path
    target: Plugin[Target]
    sha256: str
    folder: Path | None = None
    artifact: Artifact | None = None

    @property
    def name(self) -> str:
        """What it is, for tables."""
        return self.path.name if self.artifact is None else f"{self.artifact.recipe} on {self.artifact.target}"

    def file(self, device: BoundDevice) -> File:
        """How it runs on a device.

        Raises:
            Unsupported: it does not.
        """
        reason, runtime = device.unsupported(self.target), device.runtime(self.target)
        if reason is not None or runtime is None:
            raise Unsupported(f"{self.path} cannot be measured on {device.name}: {reason}")
        layout = self.artifact.inputs[0].layout if self.artifact else self.target.module.LAYOUT
        return File(str(self.path), self.path, runtime, layout)


def subject(path: Path) -> Subject:
    """The artifact at a path: a file, or the folder of a cell in a build folder or a bundle.

    Raises:
        BadOption: it is neither.
        Broken: the file does not match its manifest.
    """
    artifact = store.read(Artifact, path / "artifact.json")
    if artifact is not None:
        file = path / safe_file_name(artifact.file)
        if not file.exists() or (found := store.sha256(file)) != artifact.sha256:
            raise Broken(f"{file} does not match {path / 'artifact.json'}")
        return Subject(file, registry.bind("targets", artifact.target), found, path, artifact)
    targets = suffixes()
    if not path.exists():
        raise BadOption(f"{path}: no such file or folder")
    if path.suffix not in targets:
        known = ", ".join(sorted(targets))
        raise BadOption(f"{path} is not an artifact: a file that ends in {known}, or a folder with artifact.json")
    return Subject(path, registry.bind("targets", targets[path.suffix]), store.sha256(path))


def compare(build: Store, old: Subject, new: Subject, device: BoundDevice, options: Options) -> Comparison:
    """Compares two artifacts on a device.

    Raises:
        BadOption: the margin is below the resolution of these rounds on this device.
        Unsupported: the device cannot run a file, or is emulated and counts nothing.
        StageFailed: a file cannot be run.
    """
    options.check()
    require_cost(device.device)
    pair = Pair(old.file(device), new.file(device), options.inputs, options.threads)
    hardware = device.hardware(build)
    with measure.alone(build, device, hardware, f"a comparison on {device.name}"):
        found, ratio = measured(build, device, pair, options)
    change = (
        comparison.accuracy(old.folder, new.folder, device.name)
        if old.folder and new.folder
        else "only artifacts in build folders and bundles have predictions"
    )
    margin = options.margin or comparison.MARGIN
    costs = [
        ratios.median_of(side.processes) * (1e6 if device.device.emulated else 1) for side in (found.old, found.new)
    ]
    made = Comparison(
        old=old.name,
        new=new.name,
        device=device.name,
        emulated=device.device.emulated,
        hardware=hardware,
        figure=COUNTED if device.device.emulated else "latency",
        old_sha256=old.sha256,
        new_sha256=new.sha256,
        old_bytes=store.size(old.path),
        new_bytes=store.size(new.path),
        old_runtime=runtime(found.old),
        new_runtime=runtime(found.new),
        old_cost=costs[0],
        new_cost=costs[1],
        rounds=len(found.old.processes),
        ratio=costs[1] / costs[0],
        interval=None,
        alpha=None,
        resolution=None,
        margin=margin,
        verdict=comparison.counted(costs[1] / costs[0], margin),
        accuracy=None if isinstance(change, str) else change,
        accuracy_unknown=change if isinstance(change, str) else None,
    )
    if ratio is None:
        return made
    verdict = ratios.verdict(ratio, margin)
    return replace(
        made,
        ratio=ratio.value,
        interval=ratio.interval,
        alpha=ratio.alpha,
        resolution=ratio.resolution,
        verdict=verdict,
        rounds_needed=ratios.rounds_to_tell(ratio, margin) if verdict == ratios.CANNOT_TELL else None,
    )


def counts(device: Device) -> bool:
    """Whether a device's clock counts instructions."""
    return device.options.get("clock") == COUNTED


def require_cost(device: Device) -> None:
    """
    Raises:
        Unsupported: the device is emulated and counts no instructions: its times mean nothing.
    """
    if device.emulated and not counts(device):
        raise Unsupported(f"{device.name} is emulated and counts no instructions: there is nothing to compare")


def measured(build: Store, device: BoundDevice, pair: Pair, options: Options) -> tuple[Rounds, Ratio | None]:
    """The rounds, extended once where they cannot tell, and their ratio; one round and None on an emulated device.

    Raises:
        BadOption: the margin is below the resolution.
    """
    if device.device.emulated:
        return _alternate.more(build, device, pair, Rounds(), 1), None
    margin = options.margin or comparison.MARGIN
    found = _alternate.more(build, device, pair, Rounds(), options.rounds)
    ratio = ratio_of(found, ratios.ALPHAS[0])
    if ratios.verdict(ratio, margin) != ratios.CANNOT_TELL:
        return found, ratio
    if options.margin is not None:
        refuse_below_resolution("--margin", margin, ratio, device.name)
    say(f"{device.name}: {options.rounds} rounds cannot tell: measuring {options.rounds} more")
    found = _alternate.more(build, device, pair, found, options.rounds)
    return found, ratio_of(found, ratios.ALPHAS[1])


def ratio_of(found: Rounds, alpha: float) -> Ratio:
    """The ratio of the latency."""
    return ratios.of(ratios.medians(found.old.processes), ratios.medians(found.new.processes), alpha)


def refuse_below_resolution(option: str, margin: float, ratio: Ratio, device: str) -> None:
    """
    Raises:
        BadOption: these rounds, extended, cannot show a difference as small as the margin.
    """
    if margin > ratio.resolution:
        return
    needed = ratios.rounds_needed(ratio, math.log1p(margin))
    would = f"about {needed:,} rounds would: --rounds {needed}" if needed else "no number of rounds would"
    raise BadOption(
        f"{option} {100 * margin:g}: {ratio.rounds} rounds on {device} resolve {100 * ratio.resolution:.2g} %; {would}"
    )


def runtime(side: _alternate.Side) -> str:
    """A runtime in words: name, version, threads."""
    facts = side.facts["runtime"]
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    return f"{facts['name']} {facts.get('version') or ''}, {threads}"
