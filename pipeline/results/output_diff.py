"""framework → host runtime → device: how an artifact's outputs differ at every step from the step before.

The first step shows the effect of conversion and quantization. The second shows the effect of the processor and its
kernels, if host and device ran the same runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import devices, formatting, registry, stats
from pipeline.core import Checkpoint, Measurement, Step
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAY = ("framework", "host", "device")
"""The steps to another device. A measurement on the host itself has the first two."""
HOST = "local"
"""The kind of the host's devices, and the name of the one that always exists."""


def framework(checkpoint: Checkpoint, scores: NDArray[Any]) -> Step:
    """The first step: the float model in its framework.

    Args:
        scores: (N,) see `Task.scores`.
    """
    version = checkpoint.tools.get(checkpoint.framework, "")
    runtime = f"{checkpoint.framework} {version}".strip()
    return Step(WAY[0], runtime, float(scores.mean()), samples=len(scores))


def step(
    measurement: Measurement, before: Sequence[Any], outputs: Sequence[Any], accuracy: float, classes: bool
) -> Step:
    """A measurement's step, compared with the step before.

    Args:
        before, outputs: the outputs of the step before and of this one: one array per output, first axis the samples.
        accuracy: of this step, over these samples.
        classes: see `Task`.

    Raises:
        ParityFailed: number or shape of the outputs differ.
    """
    distance = stats.parity("previous step", before, outputs, [None] * len(outputs), classes)
    return Step(
        place=str(measurement.device.get("name")),
        runtime=formatting.runtime(measurement),
        accuracy=accuracy,
        equal=distance.equal,
        top1_agreement=distance.top1_agreement,
        max_error=distance.max_error,
        samples=distance.samples,
    )


def is_host(measurement: Measurement) -> bool:
    """Whether the host made this measurement."""
    return measurement.device.get("kind") == HOST


def nearest(measurement: Measurement, hosts: Sequence[Measurement]) -> int | None:
    """The index of the host measurement to compare with: preferably of the same runtime, version and threads."""
    name, version = _runtime(measurement)

    def distance(place: int) -> tuple[bool, bool, bool, str]:
        own, other = hosts[place], _runtime(hosts[place])
        return other[0] != name, other[1] != version, _threads(own) != _threads(measurement), str(own.device["name"])

    return min(range(len(hosts)), key=distance, default=None)


def without_host(measurement: Measurement, cell_options: str) -> tuple[Step, Step]:
    """The steps of host and device if the host has not measured the file.

    Args:
        cell_options: the command-line options that select the cell.
    """
    host = host_for(measurement)
    reason = f"not measured on the host: inv bench{cell_options} --device {host}"
    own = Step(
        str(measurement.device.get("name")),
        formatting.runtime(measurement),
        measurement.accuracy.value,
        samples=measurement.accuracy.samples,
    )
    return Step(host, reason=reason), own


def other_runtime(step: Step, measurement: Measurement, host: Measurement, cell_options: str) -> Step:
    """A device's step, with a note if the host ran another runtime: then more differs than the processor."""
    name, other = _runtime(measurement)[0], _runtime(host)[0]
    if name == other:
        return step
    place = host_for(measurement)
    fix = "" if place == host.device.get("name") else f"; to run {name}: inv bench{cell_options} --device {place}"
    return replace(step, reason=f"the host ran {other}, the device {name}{fix}")


def host_for(measurement: Measurement) -> str:
    """The name of the host's device that runs a measurement's runtime; the default one if none does."""
    try:
        known = devices.devices()
    except PipelineError:  # devices.toml is broken; the command that the user is told to run reports it
        return HOST
    target = registry.bind("targets", measurement.target)
    own = [device for device in known.values() if device.device.kind == HOST]
    able = [device.name for device in own if device.unsupported(target) is None]
    name = _runtime(measurement)[0]
    return next((d for d in able if known[d].runtime(target) == name), (*able, HOST)[0])


def _runtime(measurement: Measurement) -> tuple[Any, Any]:
    return measurement.runtime.get("name"), measurement.runtime.get("version")


def _threads(measurement: Measurement) -> Any:
    return measurement.runtime.get("threads")
