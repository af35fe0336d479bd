"""The processes of a distributed training: each one's part of a batch, their endpoint, and the root cause of a failure.

Used by every framework.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import errors
from pipeline.errors import PipelineError, StageFailed
from pipeline.frameworks import Group
from pipeline.system import cpus

PORT = 29500
"""The default port of machine 0, the same as torchrun's."""

JOIN_SECONDS = 600
"""How long a machine waits for the others."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that got SIGTERM and cleaned up."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the path of the file to which a process writes its exception; the name is torchrun's."""


@dataclass(frozen=True)
class Part:
    """A process's part of every batch.

    Attributes:
        rank, world: the process's rank, and the number of processes.
    """

    rank: int = 0
    world: int = 1

    def of(self, count: int) -> slice:
        """The process's contiguous part of a batch of `count` samples; parts differ by at most one sample.

        Not every network accepts an empty batch. With fewer samples than processes, the part is therefore one sample
        that another process has as well, and its `weight` is 0.
        """
        start, end = self._ends(count)
        return slice(start, end) if end > start else slice(0, 1)

    def weight(self, count: int) -> float:
        """The factor for the part's mean loss that makes the mean over all processes the mean over the batch."""
        start, end = self._ends(count)
        return (end - start) * self.world / count

    def _ends(self, count: int) -> tuple[int, int]:
        return count * self.rank // self.world, count * (self.rank + 1) // self.world


def threads(group: Group) -> int:
    """CPU threads of one process: an equal share of the cores that are available."""
    return max(1, cpus.count() // group.devices)


# -- rendezvous --------------------------------------------------------------------------------------------------------


def endpoint(group: Group) -> str:
    """HOST:PORT of machine 0, to which the other machines connect."""
    return group.address if ":" in group.address else f"{group.address}:{PORT}"


def rendezvous_failed(group: Group) -> StageFailed:
    """The error when a machine did not connect in time."""
    return StageFailed(
        f"not all {group.nodes} machines connected to {endpoint(group)} within {JOIN_SECONDS // 60} minutes: run the "
        f"same command on each, with its own --node-rank; a machine whose checkpoint is up to date does not connect"
    )


# -- failures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exit:
    """How a process of a group ended.

    Attributes:
        code: its exit code; negative for the signal that ended it.
        error: the content of its error file, as `pipeline.stages._train_process` writes it; empty if it wrote none.
    """

    code: int
    error: Mapping[str, Any]


def root_cause(failures: Mapping[int, Exit], size: int) -> PipelineError:
    """The failure that caused the others: that of a killed process, or else the earliest.

    When one process fails, the others fail too or get SIGTERM from the launcher, within a second. The launchers' own
    timestamps are not more precise than that, so the error files carry their own.

    Args:
        failures: how processes ended, by rank.
        size: number of processes.
    """

    def order(rank: int) -> tuple[bool, float]:
        code = failures[rank].code
        return code >= 0 or code == -signal.SIGTERM, failures[rank].error.get("at", math.inf)

    rank = min(failures, key=order)
    code, error = failures[rank].code, failures[rank].error
    who = f"training process {rank} (of {size}, from 0)"
    if code < 0 or code == TERMINATED:
        by = signal.Signals(-code).name if code < 0 else "SIGTERM"
        return StageFailed(
            f"{who} was ended by {by}, and the others with it; run the same command to resume after the last full epoch"
        )
    message = error.get("message")
    if not isinstance(message, dict):
        return StageFailed(f"{who} ended with exit code {code} and wrote no error message")
    raised = errors.again(str(error.get("kind")), message["message"])
    if raised is not None:
        return raised
    failed = StageFailed(f"{who} failed: {error.get('kind')}: {message['message']}")
    failed.__cause__ = RuntimeError(message["extraInfo"]["py_callstack"])  # what --debug shows
    return failed
