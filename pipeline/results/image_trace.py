"""One image on the host and on a device, stage by stage: where do the two first differ, and by how much?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import stats
from pipeline.core import Artifact
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

TITLES = {"decoded": "decoded pixels", "resized": "resized, cropped", "input_0": "input tensor"}
"""The stages before the outputs, in order."""


@dataclass(frozen=True)
class Side:
    """What one side computed.

    Attributes:
        name: for people: where it ran, and in which runtime.
        arrays: decoded and resized (height, width, channels), input_0 and output_0, output_1, … (1, …).
    """

    name: str
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """One stage on both sides.

    Attributes:
        host, device: shapes.
        equal: share of values that are equal bit for bit; None where the shapes differ.
        largest: largest absolute difference; for pixels in levels of 0–255.
        snr_db: of outputs.
        given: the device did not compute it: the host sent it.
    """

    stage: str
    host: tuple[int, ...]
    device: tuple[int, ...]
    equal: float | None
    largest: float | None
    snr_db: float | None = None
    given: bool = False

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return TITLES.get(self.stage, self.stage)


@dataclass(frozen=True)
class Trace:
    """An image's path through one artifact.

    Attributes:
        host: the reference: the host's runtime; the model's framework where the device is the host itself.
    """

    artifact: Artifact
    host: Side
    device: Side
    stages: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first stage in which the sides differ."""
        return next((stage for stage in self.stages if stage.equal != 1.0), None)


def differences(host: Side, device: Side, decodes: bool) -> Iterator[Difference]:
    """Every stage of both sides.

    Args:
        decodes: the device decodes and resizes the image itself.

    Raises:
        StageFailed: the device has no array for a stage.
    """
    names = [*TITLES, *sorted(name for name in host.arrays if name.startswith("output_"))]
    for name in names:
        if name not in device.arrays:
            raise StageFailed(f"{device.name} returned no {name}")
        given = name in ("decoded", "resized") and not decodes
        yield difference(name, host.arrays[name], device.arrays[name], given)


def difference(name: str, host: NDArray[Any], device: NDArray[Any], given: bool) -> Difference:
    """Compares one stage; NaN equals NaN."""
    import numpy as np

    if host.shape != device.shape:
        return Difference(name, host.shape, device.shape, None, None)
    one, other = host.astype(np.float64), device.astype(np.float64)
    largest = float(np.abs(one - other).max(initial=0.0))
    equal = float(np.mean((host == device) | (np.isnan(one) & np.isnan(other))))
    outputs = name.startswith("output_")
    snr = stats.parity(name, [host], [device], [None]).snr_db if outputs else None
    return Difference(name, host.shape, device.shape, equal, largest, snr, given)
