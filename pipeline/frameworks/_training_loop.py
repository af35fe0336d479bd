"""The training loop that all frameworks share: decoded images, learning rate schedule, epochs and their facts.

NumPy only: the framework provides the network, the training step and the checkpoint files (see `Loop`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.datasets import Split
from pipeline.errors import BadData, BadOption, StageFailed
from pipeline.frameworks import Group, Settings
from pipeline.system import cpus
from pipeline.system.progress import bar, say
from pipeline.system.tensorboard import Events, shown
from pipeline.tasks import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CACHED_BYTES = 1 << 30
"""Splits of up to this many bytes, over all processes of a machine, are decoded once and kept in memory.

Larger ones are decoded in every epoch.
"""


# -- data --------------------------------------------------------------------------------------------------------------


def decode_all(split: Split, what: str | None, sharers: int = 1) -> NDArray[Any] | None:
    """Decodes all samples of a split on all cores (PIL releases the GIL).

    Args:
        what: the split's name for the progress bar; None shows no bar.
        sharers: processes on this machine that each keep their own copy.

    Returns:
        (N, …), see `Split.inputs`; None if they exceed MAX_CACHED_BYTES.
    """
    import numpy as np

    first = split.read(0)
    if first.nbytes * len(split) * sharers > MAX_CACHED_BYTES:
        return None
    pixels = np.empty((len(split), *first.shape), first.dtype)

    def decode(i: int) -> None:
        pixels[i] = split.read(i)

    with ThreadPoolExecutor(cpus.count()) as pool:
        reading = pool.map(decode, range(len(split)))
        for _ in bar(reading, f"reading {what}", len(split), "sample") if what else reading:
            pass
    return pixels


FLIP, VERTICAL = "flip", "flip_vertical"


def max_shift(augmentation: str) -> int | None:
    """The largest shift in pixels of "shift1", "shift4" …; None for a flip.

    Raises:
        BadOption: unknown augmentation.
    """
    if augmentation in (FLIP, VERTICAL):
        return None
    pixels = augmentation.removeprefix("shift")
    if pixels == augmentation or not pixels.isdecimal():
        raise BadOption(f"unknown augmentation {augmentation!r} (known: flip, flip_vertical, shift1, shift4 …)")
    return int(pixels)


# -- facts -------------------------------------------------------------------------------------------------------------

FACTS = "facts.json"
"""The file through which a training process returns its facts to the process that started it."""


def write_facts(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the facts of a finished training, and returns them."""
    (folder / FACTS).write_text(json.dumps(facts))
    return facts


def read_facts(folder: Path, group: Group) -> dict[str, Any]:
    """What `write_facts` wrote; empty on all machines but the first."""
    if group.node_rank > 0:
        return {}
    try:
        return dict(json.loads((folder / FACTS).read_text()))
    except FileNotFoundError as error:
        raise StageFailed("a training process ended without an error and without a result") from error


# -- epochs ------------------------------------------------------------------------------------------------------------


def batches(samples: int, batch_size: int) -> list[slice]:
    """The place of each batch in an epoch's order. The last batch may be smaller.

    A last batch of one image joins the batch before it: batch normalisation has no statistics over a single value.
    """
    starts = list(range(0, samples, batch_size))
    if batch_size > 1 and len(starts) > 1 and samples - starts[-1] == 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


def steps_per_epoch(samples: int, settings: Settings) -> int:
    """Number of batches in an epoch."""
    return len(batches(samples, settings.batch_size))


def epoch_seed(settings: Settings, epoch: int) -> int:
    """The seed of an epoch's sample order and augmentation."""
    return settings.seed * 1_000_003 + epoch


def learning_rate(step: int, steps: int) -> float:
    """The learning rate at a step relative to its peak: linear warm-up over a tenth of the steps, then cosine decay."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


BFLOAT16 = (8, 0)
"""The compute capability from which GPUs multiply bfloat16. Source: CUDA C++ Programming Guide."""


def precision(capability: tuple[int, int] | None) -> str:
    """The training precision: "bfloat16" on GPUs that support it (weights and sums stay float32), else "float32".

    Args:
        capability: the GPU's compute capability; None for a CPU. Older GPUs would only emulate bfloat16.
    """
    return "bfloat16" if capability is not None and capability >= BFLOAT16 else "float32"


def check_same_key(mine: str, first: str, rank: int) -> None:
    """Checks that this process trains the same as process 0.

    Raises:
        BadData: the keys differ.
    """
    if first != mine:
        raise BadData(
            f"process {rank} has different data, code or settings from process 0: they must be the same on all machines"
        )


class Loop(Protocol):
    """A framework's part in training."""

    def epoch(self, epoch: int) -> float:
        """Trains one epoch and returns the mean loss of its batches. Called in order, starting at any epoch."""

    def accuracy(self) -> float:
        """The task's metric on the validation split."""

    def weights(self) -> Mapping[str, NDArray[Any]]:
        """The trainable weights under the names of `Framework.unpack`, so that TensorBoard aligns the frameworks."""

    def save(self, facts: Mapping[str, Any], best: bool) -> None:
        """Writes the full training state, from which training resumes, and the network as well if it is the best."""


def _histograms(events: Events, loop: Loop, step: int) -> None:
    events.histograms(loop.weights(), step)


NONE_YET = -1e9
"""Lower than any metric."""


def initial_facts() -> dict[str, Any]:
    """The facts before the first epoch."""
    return {"epoch": 0, "best_epoch": 0, "best_accuracy": NONE_YET, "seconds": 0.0, "losses": []}


def run_epochs(
    loop: Loop, facts: dict[str, Any], settings: Settings, samples: int, run: Path | None, task: Task
) -> dict[str, Any]:
    """Trains from the epoch in `facts` to the last one. Only the first process writes files and prints.

    Args:
        samples: training samples per epoch.
        run: the folder for TensorBoard; None in all processes but the first.

    Raises:
        StageFailed: the loss is NaN or infinite.

    Returns:
        Facts: epochs, every epoch's loss, best epoch, its validation accuracy, seconds, steps, samples per second,
        number of devices and machines.
    """
    steps = steps_per_epoch(samples, settings)
    curve, metric = ("accuracy", "accuracy") if task.CLASSES else (task.METRIC, task.TITLE)
    if run and facts["epoch"]:
        say(f"resuming after epoch {facts['epoch']} of {settings.epochs}")
    with Events(run, facts["epoch"] * steps) if run else nullcontext() as events:
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            loss = loop.epoch(epoch)
            accuracy = loop.accuracy()
            facts["epoch"] = epoch + 1
            facts["seconds"] += time.perf_counter() - started
            facts["losses"].append(loss)
            if not math.isfinite(loss):
                raise StageFailed(f"the loss is {loss} in epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}")
            best = accuracy >= facts["best_accuracy"]  # on a tie the later epoch, whose learning rate was lower
            if best:
                facts |= {"best_epoch": epoch + 1, "best_accuracy": accuracy}
            if events is None:
                continue
            done = (epoch + 1) * steps
            lr = settings.lr * learning_rate(done, settings.epochs * steps)
            loop.save(facts, best)
            curves = {"loss/train": loss, f"{curve}/validation": accuracy, "lr": lr}
            shown("curves", partial(events.scalars, curves, done))
            shown("weights", partial(_histograms, events, loop, done))
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {loss:.4f}, validation {metric} {accuracy:.4f}")
    group = settings.group
    return facts | {
        "steps": settings.epochs * steps,
        "samples_per_second": round(settings.epochs * samples / facts["seconds"], 1),
        "devices": group.devices, "nodes": group.nodes,
    }  # fmt: skip
