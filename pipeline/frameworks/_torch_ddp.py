"""Data-parallel training with PyTorch: starts the processes, and synchronizes batch normalisation between them.

Every process takes its part of each batch, and gradients are averaged, so the number of processes does not change the
batch. Batch normalisation also takes its statistics over the whole batch; otherwise the number of processes would
change the trained network. What still differs is rounding, and the masks of dropout.
"""

from __future__ import annotations

import copy
import logging
import signal
import tempfile

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_reduce  # differentiable, unlike dist.all_reduce
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.errors import BadModel
from pipeline.frameworks import Group, _process_group
from pipeline.frameworks._process_group import Exit

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals whose handlers the launcher replaces and does not restore."""

PLAIN = nn.modules.batchnorm._BatchNorm
OWN = (PLAIN.forward, nn.SyncBatchNorm.forward)


# -- batch normalisation -----------------------------------------------------------------------------------------------


def synchronize_batch_norm(network: nn.Module, gpu: bool) -> nn.Module:
    """The network with batch normalisation over all processes; the names in its state_dict do not change.

    Raises:
        BadModel: a layer is a subclass of batch normalisation that computes something else, such as timm's
            BatchNormAct2d with its activation; the replacement would leave that out.
    """
    for name, module in network.named_modules():
        if isinstance(module, PLAIN) and type(module).forward not in {
            kind.forward for kind in (PLAIN, nn.SyncBatchNorm)
        }:
            raise BadModel(
                f"the layer {name} is a {type(module).__name__}, a batch normalisation with a forward() of its own, "
                "which cannot be synchronized between processes: train with --devices 1"
            )
    if gpu:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for name, module in list(network.named_modules()):
        if isinstance(module, PLAIN):
            synchronized = copy.copy(module)
            synchronized.__class__ = BatchNorm
            network.set_submodule(name, synchronized)
    return network


class BatchNorm(PLAIN):
    """Batch normalisation over all processes on CPUs; nn.SyncBatchNorm supports GPUs only.

    Takes (N, channels, …). Gradients flow through the statistics, as they do in a single process.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = _all_sum(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _all_sum(x.sum(axes)) / count
        centred = x - mean.reshape(shape)
        variance = _all_sum(centred.square().sum(axes)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal: torch.Tensor = centred * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.affine:
            normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normal

    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Updates the running statistics with a batch's."""
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accepts any rank: the layer that this one replaces has checked its input."""


def _all_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; differentiable."""
    assert dist.group.WORLD is not None  # Fabric has initialised it
    total: torch.Tensor = all_reduce(x, "sum", dist.group.WORLD)
    return total


# -- processes ---------------------------------------------------------------------------------------------------------


def launch(group: Group) -> None:
    """Runs `group.command` as this machine's processes of the group, with PyTorch's launcher, and waits for them.

    They share this process's standard streams. If one fails, the others are ended.

    Raises:
        PipelineError: raised by one of the processes.
        StageFailed: a process was killed or raised another exception, or another machine did not connect.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the exception raised here contains all of it
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        with tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
            program, *arguments = group.command
            elastic_launch(_config(group, folder), program)(*arguments)
    except ChildFailedError as error:
        failures = {rank: Exit(failure.exitcode, failure.error_file_data) for rank, failure in error.failures.items()}
        raise _process_group.root_cause(failures, group.size) from error
    except SignalException as error:
        received = error.sigval
    except dist.DistError as error:
        raise _process_group.rendezvous_failed(group) from error
    else:
        return
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    signal.raise_signal(received)


def leave_group() -> int:
    """Leaves the process group, if there is one, and returns this process's rank in it."""
    if not dist.is_initialized():
        return 0
    rank = dist.get_rank()
    dist.destroy_process_group()
    return rank


def _config(group: Group, folder: str) -> LaunchConfig:
    one_machine = group.nodes == 1
    return LaunchConfig(
        min_nodes=group.nodes,
        max_nodes=group.nodes,
        nproc_per_node=group.devices,
        run_id="lastmile",
        rdzv_backend="c10d" if one_machine else "static",
        rdzv_endpoint="localhost:0" if one_machine else _process_group.endpoint(group),
        rdzv_configs={} if one_machine else {"rank": group.node_rank, "timeout": _process_group.JOIN_SECONDS},
        local_addr="localhost" if one_machine else None,
        signals_to_handle=",".join(number.name for number in HANDLED),
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        shutdown_timeout=10,
    )
