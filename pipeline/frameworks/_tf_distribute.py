"""Data-parallel training with TensorFlow: tf.distribute's strategies, and the process that runs under one.

MirroredStrategy on one machine, MultiWorkerMirroredStrategy on several; a machine has one process for all its devices.
Keras's own batch normalisation takes its statistics over the whole batch when it is told to.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import BadOption, StageFailed
from pipeline.frameworks import Group, _process_group, _rendezvous, _training_loop
from pipeline.frameworks._process_group import Exit, Part
from pipeline.system import packages, proc
from pipeline.system.progress import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

GPU_UNUSED = (
    "an NVIDIA driver is here, but TensorFlow sees no GPU: it needs an environment without PyTorch, which "
    "docs/scaling.md says how to make"
)
GRACE_SECONDS = 10
"""How long a process may take to clean up after SIGTERM."""


# -- the machine -------------------------------------------------------------------------------------------------------


def device_type(accelerator: str, group: Group = Group()) -> str:  # noqa: B008  # frozen
    """ "GPU" or "CPU", for --accelerator, --devices and --num-nodes.

    Raises:
        BadOption: a GPU is asked for and there is none, or more than there are; or a machine is to be several CPUs
            where there are several machines.
    """
    if accelerator == "cpu":
        # Where this process has used TensorFlow already, what that took of a GPU is its own.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    gpus = tf.config.get_visible_devices("GPU") if accelerator != "cpu" else []
    if accelerator == "cuda" and not gpus:
        why = "TensorFlow sees no GPU here; use cpu, or auto, which takes one where it is"
        raise BadOption(f"--accelerator cuda: {GPU_UNUSED if packages.nvidia_driver() else why}")
    if accelerator == "auto" and not gpus and packages.nvidia_driver():
        _report_unused_gpu()
    if gpus and group.devices > len(gpus):
        raise BadOption(
            f"--devices {group.devices}: TensorFlow sees {len(gpus)} GPU{'s' * (len(gpus) > 1)} here; or use "
            f"--accelerator cpu"
        )
    if not gpus and min(group.devices, group.nodes) > 1:
        raise BadOption(
            f"--devices {group.devices} --num-nodes {group.nodes}: where there are several machines, "
            f"TensorFlow takes the CPU of each as one device; leave --devices out"
        )
    return "GPU" if gpus else "CPU"


@functools.cache  # once is enough
def _report_unused_gpu() -> None:
    say(f"training on the CPU: {GPU_UNUSED}")


def precision(kind: str) -> str:
    """See `_training_loop.precision`; `kind` is `device`'s."""
    if kind == "CPU":
        return _training_loop.precision(None)
    details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[0])
    return _training_loop.precision(details.get("compute_capability"))


def policy(kind: str) -> str:
    """Keras's name for `precision`."""
    return "mixed_bfloat16" if precision(kind) == "bfloat16" else "float32"


def strategy(group: Group, kind: str) -> tf.distribute.Strategy:
    """The strategy for a process of the group; TF_CONFIG names the other machines where there are any.

    Devices are made or chosen here, so it must be the first thing that a process of several does with TensorFlow.
    """
    if group.size == 1:
        return tf.distribute.OneDeviceStrategy(f"{kind}:0")
    if kind == "GPU":
        tf.config.set_visible_devices(tf.config.list_physical_devices("GPU")[: group.devices], "GPU")
    if group.nodes > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "CPU":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * group.devices)
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(group.devices)])


def parts(group: Group) -> list[Part]:
    """The parts of every batch that this machine's devices take."""
    first = group.node_rank * group.devices
    return [Part(first + i, group.size) for i in range(group.devices)]


def synchronize_batch_norm(network: keras.Model) -> None:
    """Lets batch normalisation take its statistics over all devices' parts."""
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def broadcast(strategy: tf.distribute.Strategy, value: NDArray[Any]) -> NDArray[Any]:
    """Process 0's value, in all; each brings one of the same shape and dtype."""
    wide = value.astype(np.int64) if value.dtype.kind in "bui" else value  # what every engine sums
    found = strategy.run(_sum_of_first, (tf.constant(wide),))
    return np.asarray(strategy.experimental_local_results(found)[0]).astype(value.dtype)


def broadcast_text(strategy: tf.distribute.Strategy, text: str) -> str:
    """As `from_first`, of texts of any length."""
    mine = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast(strategy, np.array(len(mine))))
    return broadcast(strategy, np.resize(mine, length)).tobytes().decode()


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _sum_of_first(mine: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    first = tf.equal(context.replica_id_in_sync_group, 0)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, mine, tf.zeros_like(mine)))


# -- processes ---------------------------------------------------------------------------------------------------------


def launch(group: Group) -> None:
    """Runs `group.command` as this machine's process of the group to the end; it writes to this process's streams.

    Where another machine's fails, this one's is ended.

    Raises:
        PipelineError: what one of them raised; StageFailed where one was ended or raised anything else, or another
            machine did not come.
    """
    with _rendezvous.meet(group) as meeting, tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
        file = Path(folder) / "error.json"
        variables = {**os.environ, _process_group.ERROR_FILE: str(file)}
        if meeting.addresses:
            task = {"type": "worker", "index": group.node_rank}
            variables["TF_CONFIG"] = json.dumps({"cluster": {"worker": meeting.addresses}, "task": task})
        with _process(group.command, variables) as process:
            elsewhere: dict[int, Exit] = {}
            while process.poll() is None and not elsewhere:
                elsewhere = meeting.failures(0.1)
            ended = process.poll()
        for rank, end in elsewhere.items():
            meeting.tell(rank, end)
        if ended is not None:
            mine = Exit(ended, json.loads(file.read_text()) if file.is_file() else {})
            meeting.tell(group.node_rank, mine)
            if ended:
                elsewhere[group.node_rank] = mine
        if elsewhere:
            raise _process_group.root_cause(elsewhere, group.nodes)


@contextlib.contextmanager
def _process(command: tuple[str, ...], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone afterwards."""
    process = None
    try:
        with proc.unbroken():
            process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL)
        yield process
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:  # TensorFlow waits for another machine, below Python
                process.kill()
                process.wait()


@contextlib.contextmanager
def connection_errors(group: Group) -> Iterator[None]:
    """
    Raises:
        StageFailed: the connection to another machine broke.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if group.nodes == 1:
            raise
        raise StageFailed(
            "the connection to another machine of this training broke; the same command goes on after the last whole "
            "epoch"
        ) from error
