"""What training is in every framework: pictures in memory, the learning rate's course, and epochs with their facts.

Numpy only; a framework brings the network, the step and the files.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.datasets import Split
from pipeline.errors import BadData, BadOption, StageFailed
from pipeline.frameworks import Group, Settings
from pipeline.system.progress import bar, say
from pipeline.system.tensorboard import Events

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CACHED_BYTES = 1 << 30
"""Splits of up to this many bytes of pixels are decoded once and kept (by all processes of a machine together); larger
ones in every epoch."""


# -- data --------------------------------------------------------------------------------------------------------------


def decode_all(split: Split, what: str | None, sharers: int = 1) -> NDArray[np.uint8] | None:
    """All pictures of a split, uint8 (N, height, width, channels), decoded on all cores (PIL works without the GIL);
    None where they are too large to be kept.

    Args:
        what: its name, for a progress bar; None shows none.
        sharers: processes on this machine that each have their own copy.
    """
    import numpy as np

    first = split.read(0)
    if first.nbytes * len(split) * sharers > MAX_CACHED_BYTES:
        return None
    pixels = np.empty((len(split), *first.shape), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = split.read(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reading = pool.map(decode, range(len(split)))
        for _ in bar(reading, f"reading {what}", len(split), "picture") if what else reading:
            pass
    return pixels


def max_shift(augmentation: str) -> int | None:
    """How many pixels "shift1", "shift4" … shift by at most; None for "flip".

    Raises:
        BadOption: another word.
    """
    if augmentation == "flip":
        return None
    pixels = augmentation.removeprefix("shift")
    if pixels == augmentation or not pixels.isdecimal():
        raise BadOption(f"unknown augmentation {augmentation!r} (known: flip, shift1, shift4 …)")
    return int(pixels)


# -- facts -------------------------------------------------------------------------------------------------------------

FACTS = "facts.json"
"""What the processes of a training leave for the one that started them."""


def write_facts(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the facts of a finished training, and gives them back."""
    (folder / FACTS).write_text(json.dumps(facts))
    return facts


def read_facts(folder: Path, group: Group) -> dict[str, Any]:
    """What `leave` wrote; nothing on another machine than the first."""
    return dict(json.loads((folder / FACTS).read_text())) if group.node_rank == 0 else {}


# -- epochs ------------------------------------------------------------------------------------------------------------


def steps_per_epoch(samples: int, settings: Settings) -> int:
    """Batches of an epoch; the last may not be full."""
    return math.ceil(samples / settings.batch_size)


def epoch_seed(settings: Settings, epoch: int) -> int:
    """What an epoch's order and augmentation depend on, and nothing else."""
    return settings.seed * 1_000_003 + epoch


def learning_rate(step: int, steps: int) -> float:
    """Learning rate at a step, as a share of its peak: up over a tenth of all steps, down to nothing on a cosine."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


BFLOAT16 = (8, 0)
"""The compute capability from which GPUs multiply bfloat16. Source: CUDA C++ Programming Guide."""


def precision(capability: tuple[int, int] | None) -> str:
    """What a network is multiplied in: "bfloat16", with its weights and sums in float32, on GPUs that can; else
    "float32", also on older GPUs, which would emulate it. None stands for a CPU."""
    return "bfloat16" if capability is not None and capability >= BFLOAT16 else "float32"


def check_same_key(mine: str, first: str, rank: int) -> None:
    """
    Raises:
        BadData: the first process trains something else than this one.
    """
    if first != mine:
        raise BadData(
            f"process {rank} has other data, code or settings than process 0: every machine of a training needs the "
            f"same"
        )


class Loop(Protocol):
    """A framework's part in training."""

    def epoch(self, epoch: int) -> float:
        """Trains through the split once; the mean loss of its batches. Epochs come in order, from any first one."""

    def accuracy(self) -> float:
        """Share of the validation split's pictures whose largest logit is their label's."""

    def weights(self) -> Mapping[str, NDArray[Any]]:
        """What is trained, by the names that `Framework.unpack` gives: twins lie together in TensorBoard."""

    def keep(self, facts: Mapping[str, Any], best: bool) -> None:
        """Writes the whole state, from which training goes on, and the network too where it is the best so far."""


def initial_facts() -> dict[str, Any]:
    """The facts of a training before its first epoch."""
    return {"epoch": 0, "best_epoch": 0, "best_accuracy": -1.0, "seconds": 0.0, "losses": []}


def run_epochs(loop: Loop, facts: dict[str, Any], settings: Settings, samples: int, run: Path | None) -> dict[str, Any]:
    """Trains from the epoch in `facts` to the last; of many processes the first alone writes and speaks.

    Args:
        samples: pictures of an epoch.
        run: the folder for TensorBoard; None in another process than the first.

    Raises:
        StageFailed: the loss is no number any more.

    Returns:
        Facts: epochs, every epoch's loss, best epoch, its validation accuracy, seconds, steps, samples a second, and
        how many devices and machines there were.
    """
    each = steps_per_epoch(samples, settings)
    if run and facts["epoch"]:
        say(f"resuming after epoch {facts['epoch']} of {settings.epochs}")
    with Events(run, facts["epoch"] * each) if run else nullcontext() as events:
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            loss = loop.epoch(epoch)
            reached = loop.accuracy()
            facts["epoch"] = epoch + 1
            facts["seconds"] += time.perf_counter() - started
            facts["losses"].append(loss)
            if not math.isfinite(loss):
                raise StageFailed(f"the loss is {loss} in epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}")
            best = reached >= facts["best_accuracy"]  # of equals the later: its learning rate was lower
            if best:
                facts |= {"best_epoch": epoch + 1, "best_accuracy": reached}
            if events is None:
                continue
            done = (epoch + 1) * each
            lr = settings.lr * learning_rate(done, settings.epochs * each)
            events.scalars({"loss/train": loss, "accuracy/validation": reached, "lr": lr}, done)
            events.histograms(loop.weights(), done)
            loop.keep(facts, best)
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {loss:.4f}, validation accuracy {reached:.4f}")
    group = settings.group
    return facts | {
        "steps": settings.epochs * each,
        "samples_per_second": round(settings.epochs * samples / facts["seconds"], 1),
        "devices": group.devices, "nodes": group.nodes,
    }  # fmt: skip
