"""framework → host runtime → device: an artifact's outputs at every step, beside those of the step before.

What differs in the first step is conversion and quantization; in the second, where both ran the same runtime, it is the
processor and its kernels.
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
"""The steps to a device that is not this machine; the way to this machine is without the last."""
HOST = "local"
"""The kind of device that is this machine, and the name of the one that every devices.toml begins with."""


def framework(checkpoint: Checkpoint, right: NDArray[Any]) -> Step:
    """The first step: the float model in its framework.

    Args:
        right: (N,) bool, whether its answer to a sample is the label.
    """
    version = checkpoint.tools.get(checkpoint.framework, "")
    runtime = f"{checkpoint.framework} {version}".strip()
    return Step(WAY[0], runtime, float(right.mean()), samples=len(right))


def beside(measurement: Measurement, before: Sequence[Any], outputs: Sequence[Any], accuracy: float) -> Step:
    """A measurement's step.

    Args:
        before, outputs: one array per output, first axis the samples: of the step before, and of this one.
        accuracy: over these samples.

    Raises:
        ParityFailed: number or shape of the outputs differ.
    """
    distance = stats.parity("the step before", before, outputs, [None] * len(outputs))
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
    """Whether this machine made it."""
    return measurement.device.get("kind") == HOST


def nearest(measurement: Measurement, hosts: Sequence[Measurement]) -> int | None:
    """Which of the host's measurements a device's is compared with: the same runtime's, of the same version."""
    name, version = _runtime(measurement)

    def distance(place: int) -> tuple[bool, bool, bool, str]:
        own, other = hosts[place], _runtime(hosts[place])
        return other[0] != name, other[1] != version, _threads(own) != _threads(measurement), str(own.device["name"])

    return min(range(len(hosts)), key=distance, default=None)


def without_host(measurement: Measurement, cell_options: str) -> tuple[Step, Step]:
    """The steps of host and device where this machine has not measured the file.

    Args:
        cell_options: of the command line, that name the cell.
    """
    host = host_for(measurement)
    reason = f"not measured on this machine: inv bench{cell_options} --device {host}"
    own = Step(
        str(measurement.device.get("name")),
        formatting.runtime(measurement),
        measurement.accuracy.value,
        samples=measurement.accuracy.samples,
    )
    return Step(host, reason=reason), own


def other_runtime(step: Step, measurement: Measurement, host: Measurement, cell_options: str) -> Step:
    """A device's step, which says where the host ran another runtime: then not only the processor differs."""
    name, other = _runtime(measurement)[0], _runtime(host)[0]
    if name == other:
        return step
    place = host_for(measurement)
    mends = "" if place == host.device.get("name") else f"; the same one here: inv bench{cell_options} --device {place}"
    return replace(step, reason=f"the host ran {other}, another runtime than {name}{mends}")


def host_for(measurement: Measurement) -> str:
    """The device of this machine, by name, that runs the runtime of a measurement; the usual one where none does."""
    try:
        known = devices.devices()
    except PipelineError:  # who runs the command that names it is told
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
