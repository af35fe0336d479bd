"""Numbers of threads to measure with: what `--threads` says, and what a device has cores for."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline import devices, registry
from pipeline.core import Device
from pipeline.errors import BadOption, StageFailed
from pipeline.system import store
from pipeline.system.store import Store

ASK_SECONDS = 300.0


def wanted(text: str) -> tuple[int, ...]:
    """The numbers in "1,2,4", once each and ascending; none for "all".

    Raises:
        BadOption: it is neither.
    """
    if text == "all":
        return ()
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError as error:
        raise BadOption(f"--threads {text!r}: whole numbers with commas between, or all") from error


def on(build: Store, device: Device, targets: Sequence[str], numbers: Sequence[int]) -> tuple[int, ...]:
    """Numbers of threads as `wanted` gives them, on this device: where there are none, one to all of its cores.

    More threads than cores measure the system's scheduler, so they are refused. The device is asked only where more
    than one is wanted.

    Raises:
        BadOption: the device has fewer cores.
        StageFailed: it does not say how many it has.
    """
    if tuple(numbers) == (1,):
        return (1,)
    cores = _cores(build, device, targets)
    most = max(numbers, default=cores)
    if most > cores:
        raise BadOption(
            f"--threads {most}: {device.name} has {cores} core{'s'[: cores - 1]}; --threads all is what it can do"
        )
    return tuple(numbers) or tuple(range(1, cores + 1))


def _cores(build: Store, device: Device, targets: Sequence[str]) -> int:
    """How many cores the device itself says it has, in the facts of a runtime that is measured there."""
    kind = registry.load("devices", device.kind)
    runnable = [target for target in targets if devices.unsupported(device, target) is None]
    runtime = next((devices.runtime(device, target) for target in runnable), None)
    if runtime is None:
        raise BadOption(f"--threads: {device.name} runs none of {', '.join(targets)}")
    with store.lock(build, f"asking {device.name} for its cores"):
        kind.setup(build, device, runtime)
        done = kind.call(build, device, runtime, ["facts"], ASK_SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: {done.reason}")
    cores: int = json.loads(done.out)["device"]["cores"]
    return cores
