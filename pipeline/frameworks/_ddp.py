"""Data-parallel training with PyTorch: the processes that take part, and what makes them one training.

Every process takes its part of each batch, and gradients are averaged, so the batch is the same one whatever the
number of processes. Batch normalisation takes its statistics over the whole batch too, or the network would be
another one; what is left to differ is rounding, and the masks of dropout.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import tempfile
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_reduce  # the one with gradients
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline import errors
from pipeline.errors import PipelineError, StageFailed
from pipeline.frameworks import Group

PORT = 29500
"""Where the machines of a training meet unless the address says otherwise; torchrun's own."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that got SIGTERM and cleaned up."""

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that the launcher takes, and keeps."""

JOIN_SECONDS = 600
"""How long a machine waits for the others."""


# -- parts of a batch --------------------------------------------------------------------------------------------------


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


# -- batch normalisation -----------------------------------------------------------------------------------------------


def synchronized(network: nn.Module, gpu: bool) -> nn.Module:
    """The network with batch normalisation over all processes' parts; names in its state stay as they are."""
    if gpu:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            twin = copy.copy(module)
            twin.__class__ = BatchNorm
            network.set_submodule(name, twin)
    return network


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with statistics over all processes, for a CPU: nn.SyncBatchNorm runs on GPUs only.

    Takes (N, channels, …). Gradients go through the statistics as they do in one process.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = _total(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _total(x.sum(axes)) / count
        centred = x - mean.reshape(shape)
        variance = _total(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal: torch.Tensor = centred * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.affine:
            normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normal

    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Moves the running statistics towards a batch's."""
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Checked by the layer that this one stands for; a batch of any rank is fine here."""


def _total(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, with gradients."""
    assert dist.group.WORLD is not None  # Fabric has launched
    total: torch.Tensor = all_reduce(x, "sum", dist.group.WORLD)
    return total


# -- processes ---------------------------------------------------------------------------------------------------------


def launch(group: Group) -> None:
    """Runs `group.command` as this machine's processes of the group, by PyTorch's own launcher, to the end.

    They write to this process's streams. Where one fails the others are ended.

    Raises:
        PipelineError: what one of them raised; StageFailed where one was ended or raised anything else, or another
            machine did not come.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it is all in the error that is raised here
    kept = {number: signal.getsignal(number) for number in HANDLED}
    try:
        with tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
            program, *words = group.command
            elastic_launch(_config(group, folder), program)(*words)
    except ChildFailedError as error:
        raise _cause(error.failures, group) from error
    except SignalException as error:
        stopped = error.sigval
    except dist.DistError as error:
        raise StageFailed(
            f"the machines of this training did not meet at {_endpoint(group)} within {JOIN_SECONDS // 60} minutes: "
            f"run the same command on all {group.nodes}, each with its own --node-rank; a machine where the checkpoint "
            f"is up to date does not come"
        ) from error
    else:
        return
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    signal.raise_signal(stopped)


def leave() -> int:
    """Ends this process's part in a group, if it has one; its rank."""
    if not dist.is_initialized():
        return 0
    rank = dist.get_rank()
    dist.destroy_process_group()
    return rank


def _config(group: Group, folder: str) -> LaunchConfig:
    alone = group.nodes == 1
    return LaunchConfig(
        min_nodes=group.nodes,
        max_nodes=group.nodes,
        nproc_per_node=group.devices,
        run_id="lastmile",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else _endpoint(group),
        rdzv_configs={} if alone else {"rank": group.node_rank, "timeout": JOIN_SECONDS},
        local_addr="localhost" if alone else None,
        signals_to_handle=",".join(number.name for number in HANDLED),
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        shutdown_timeout=10,
    )


def _endpoint(group: Group) -> str:
    return group.address if ":" in group.address else f"{group.address}:{PORT}"


def _cause(failures: dict[int, ProcessFailure], group: Group) -> PipelineError:
    """The failure that the others follow from: of a process that was killed, else the earliest.

    A process whose neighbour goes away fails as well, or gets SIGTERM from the launcher, within the second to which the
    launcher's own times are true.
    """

    def order(rank: int) -> tuple[bool, float]:
        code = failures[rank].exitcode
        return code >= 0 or code == -signal.SIGTERM, failures[rank].error_file_data.get("at", math.inf)

    rank = min(failures, key=order)
    failure = failures[rank]
    who = f"training process {rank} (of {group.size}, from 0)"
    if failure.exitcode < 0 or failure.exitcode == TERMINATED:
        by = failure.signal_name() if failure.exitcode < 0 else "SIGTERM"
        return StageFailed(
            f"{who} was ended by {by}, and the others with it; the same command goes on after the last whole epoch"
        )
    said = failure.error_file_data.get("message")
    if not isinstance(said, dict):
        return StageFailed(f"{who} ended with exit code {failure.exitcode} and said nothing")
    kind = getattr(errors, str(failure.error_file_data.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, PipelineError):
        raised = PipelineError.__new__(kind)  # an UnknownName is made of other things than its text
        raised.args = (said["message"],)
        return raised
    failed = StageFailed(f"{who} failed: {failure.error_file_data.get('kind')}: {said['message']}")
    failed.__cause__ = RuntimeError(said["extraInfo"]["py_callstack"])  # what --debug shows
    return failed


def threads(group: Group) -> int:
    """A process's share of this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // group.devices)
