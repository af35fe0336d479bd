"""Numbers of threads to measure with: what `--threads` says, and what a device has cores for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import devices, plugins, store
from pipeline.core import Device
from pipeline.errors import BadOption, StageFailed
from pipeline.store import Store

ASK_SECONDS = 300.0
FOLDER = "threads-"
"""Where a folder with more than one thread's measurement begins its name, within its device's."""


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


def place(device: Path, number: int) -> Path:
    """The folder of a measurement with so many threads: the device's own for one, one within it for more."""
    return device if number == 1 else device / f"{FOLDER}{number}"


def placed(home: Path) -> tuple[str, int]:
    """Device and number of threads of such a folder; 0 where its name is no number's.

    Args:
        home: relative to the artifact's folder.
    """
    device, *more = home.parts
    number = more[0].removeprefix(FOLDER) if more else "1"
    return device, int(number) if number.isdecimal() else 0


def _cores(build: Store, device: Device, targets: Sequence[str]) -> int:
    """How many cores the device itself says it has, in the facts of a runtime that is measured there."""
    kind = plugins.load("devices", device.kind)
    runnable = [target for target in targets if devices.refuses(device, target) is None]
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
