"""Processes that train together, in every framework: parts of a batch, where they meet, whose failure it was."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import errors
from pipeline.errors import PipelineError, StageFailed
from pipeline.frameworks import Group

PORT = 29500
"""Where the machines of a training meet unless the address says otherwise; torchrun's own."""

JOIN_SECONDS = 600
"""How long a machine waits for the others."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that got SIGTERM and cleaned up."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""The variable with the name of the file into which a process writes what it raised; PyTorch's launcher calls it so."""


@dataclass(frozen=True)
class Part:
    """A process's part of whatever all processes share.

    Attributes:
        rank, world: which of how many processes this is.
    """

    rank: int = 0
    world: int = 1

    def of(self, count: int) -> slice:
        """Its part of a batch of `count`: neighbours, as many as the others have or one more or less.

        Never nothing, since not every network takes an empty batch: where there are fewer samples than processes it is
        one that another process has too, and `weight` is 0.
        """
        start, end = self._ends(count)
        return slice(start, end) if end > start else slice(0, 1)

    def weight(self, count: int) -> float:
        """What the mean loss over its part is worth, so that the mean over all processes is that over the batch."""
        start, end = self._ends(count)
        return (end - start) * self.world / count

    def _ends(self, count: int) -> tuple[int, int]:
        return count * self.rank // self.world, count * (self.rank + 1) // self.world


def threads(group: Group) -> int:
    """A process's share of the cores that this process may use; macOS does not restrict them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // group.devices)


# -- where machines meet -----------------------------------------------------------------------------------------------


def endpoint(group: Group) -> str:
    """HOST:PORT of machine 0, where the machines of a group meet."""
    return group.address if ":" in group.address else f"{group.address}:{PORT}"


def rendezvous_failed(group: Group) -> StageFailed:
    """What is raised where a machine did not come."""
    return StageFailed(
        f"the machines of this training did not meet at {endpoint(group)} within {JOIN_SECONDS // 60} minutes: "
        f"run the same command on all {group.nodes}, each with its own --node-rank; a machine where the checkpoint "
        f"is up to date does not come"
    )


# -- whose failure it was ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exit:
    """How a process of a group ended.

    Attributes:
        code: its exit code; negative is the signal that ended it.
        said: what `pipeline.stages._train_process` wrote into its error file; empty where it could not.
    """

    code: int
    said: Mapping[str, Any]


def root_cause(failures: Mapping[int, Exit], size: int) -> PipelineError:
    """The failure that the others follow from, by rank: of a process that was killed, else the earliest.

    A process whose neighbour goes away fails as well, or gets SIGTERM from the launcher, within the second to which the
    launchers' own times are true.
    """

    def order(rank: int) -> tuple[bool, float]:
        code = failures[rank].code
        return code >= 0 or code == -signal.SIGTERM, failures[rank].said.get("at", math.inf)

    rank = min(failures, key=order)
    code, said = failures[rank].code, failures[rank].said
    who = f"training process {rank} (of {size}, from 0)"
    if code < 0 or code == TERMINATED:
        by = signal.Signals(-code).name if code < 0 else "SIGTERM"
        return StageFailed(
            f"{who} was ended by {by}, and the others with it; the same command goes on after the last whole epoch"
        )
    message = said.get("message")
    if not isinstance(message, dict):
        return StageFailed(f"{who} ended with exit code {code} and said nothing")
    raised = errors.again(str(said.get("kind")), message["message"])
    if raised is not None:
        return raised
    failed = StageFailed(f"{who} failed: {said.get('kind')}: {message['message']}")
    failed.__cause__ = RuntimeError(message["extraInfo"]["py_callstack"])  # what --debug shows
    return failed
