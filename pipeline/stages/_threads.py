"""Numbers of threads to measure with: what `--threads` asks for, and what a device has cores for."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, StageFailed
from pipeline.registry import Plugin
from pipeline.system.store import Store
from pipeline.targets import Target

ASK_SECONDS = 300.0


def wanted(text: str) -> tuple[int, ...]:
    """The numbers in "1,2,4", once each and ascending; empty for "all".

    Raises:
        BadOption: `text` is neither.
    """
    if text == "all":
        return ()
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError as error:
        raise BadOption(f"--threads {text!r}: must be comma-separated whole numbers, or all") from error


def pinned(text: str) -> tuple[int, ...]:
    """The CPUs of a list such as "0-3,6", as taskset writes it.

    Raises:
        BadOption: `text` is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = (int(word) if word.isdecimal() else -1 for word in (first, last if dash else first))
        if not 0 <= low <= high < 1 << 16:
            raise BadOption(f"--cpus {text!r}: must be a list of CPUs such as 0-3,6")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def on(
    build: Store, device: BoundDevice, targets: Sequence[Plugin[Target]], numbers: Sequence[int], pinned: int = 0
) -> tuple[int, ...]:
    """Numbers of threads to measure on a device; where `numbers` is empty, 1 to all of its cores.

    More threads than cores would measure the scheduler, so they are an error. The device is asked for its cores only
    if more than one thread is asked for.

    Args:
        pinned: number of CPUs that the measuring processes are pinned to; 0 if they are not.

    Raises:
        BadOption: the device has fewer cores.
        StageFailed: it does not report how many it has.
    """
    if tuple(numbers) == (1,):
        return (1,)
    cores = pinned or _cores(build, device, targets)
    most = max(numbers, default=cores)
    if most > cores and pinned:
        raise BadOption(f"--threads {most}: --cpus has {cores} CPU{'s'[: cores - 1]}")
    if most > cores:
        raise BadOption(
            f"--threads {most}: {device.name} has {cores} core{'s'[: cores - 1]}; --threads all measures 1 to {cores}"
        )
    return tuple(numbers) or tuple(range(1, cores + 1))


def _cores(build: Store, device: BoundDevice, targets: Sequence[Plugin[Target]]) -> int:
    """The number of cores that the device itself reports."""
    runnable = [target for target in targets if device.unsupported(target) is None]
    runtime = next((device.runtime(target) for target in runnable), None)
    if runtime is None:
        raise BadOption(f"--threads: {device.name} runs none of {', '.join(target.name for target in targets)}")
    with device.exclusive(build):
        device.setup(build, runtime)
        done = device.call(build, runtime, ["facts"], ASK_SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: {done.reason}")
    cores: int = done.result("device")["device"]["cores"]
    return cores
