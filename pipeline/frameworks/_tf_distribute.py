"""Data-parallel training with TensorFlow: the devices, tf.distribute's strategies, and the training process.

MirroredStrategy on one machine, MultiWorkerMirroredStrategy on several. A machine runs one process for all its devices.
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
    "this machine has an NVIDIA driver, but TensorFlow sees no GPU: it needs an environment without PyTorch; see "
    "docs/scaling.md"
)
GRACE_SECONDS = 10
"""How long a process may take to clean up after SIGTERM."""
BROKEN = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
"""What TensorFlow raises where the connection to another machine breaks."""


# -- devices -----------------------------------------------------------------------------------------------------------


def device_type(accelerator: str, group: Group = Group()) -> str:  # noqa: B008  # frozen
    """ "GPU" or "CPU", for --accelerator, --devices and --num-nodes.

    Raises:
        BadOption: fewer GPUs are available than requested; or several CPU devices per machine are requested on several
            machines.
    """
    if accelerator == "cpu":
        # Fails if this process has already used TensorFlow; then its GPUs are already initialised.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    gpus = tf.config.get_visible_devices("GPU") if accelerator != "cpu" else []
    if accelerator == "cuda" and not gpus:
        reason = "TensorFlow sees no GPU on this machine; use cpu, or auto, which takes a GPU only if there is one"
        raise BadOption(f"--accelerator cuda: {GPU_UNUSED if packages.nvidia_driver() else reason}")
    if accelerator == "auto" and not gpus and packages.nvidia_driver():
        _report_unused_gpu()
    if gpus and group.devices > len(gpus):
        raise BadOption(
            f"--devices {group.devices}: TensorFlow sees only {len(gpus)} GPU{'s' * (len(gpus) > 1)}; "
            f"use fewer devices or --accelerator cpu"
        )
    if not gpus and min(group.devices, group.nodes) > 1:
        raise BadOption(
            f"--devices {group.devices} --num-nodes {group.nodes}: on several machines, TensorFlow uses the CPU of "
            f"each as one device; omit --devices"
        )
    return "GPU" if gpus else "CPU"


@functools.cache  # reported once per process
def _report_unused_gpu() -> None:
    say(f"training on the CPU: {GPU_UNUSED}")


def precision(kind: str) -> str:
    """See `_training_loop.precision`; `kind` is what `device_type` returns."""
    if kind == "CPU":
        return _training_loop.precision(None)
    details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[0])
    return _training_loop.precision(details.get("compute_capability"))


def policy(kind: str) -> str:
    """Keras's dtype policy for `precision`."""
    return "mixed_bfloat16" if precision(kind) == "bfloat16" else "float32"


def strategy(group: Group, kind: str) -> tf.distribute.Strategy:
    """The strategy for a process of the group; on several machines, TF_CONFIG names the others.

    Configures the devices, so in a group it must be the first use of TensorFlow in the process.
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
    """The parts of every batch for this machine's devices."""
    first = group.node_rank * group.devices
    return [Part(first + i, group.size) for i in range(group.devices)]


def synchronize_batch_norm(network: keras.Model) -> None:
    """Makes batch normalisation take its statistics over the whole batch."""
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def broadcast(strategy: tf.distribute.Strategy, value: NDArray[Any]) -> NDArray[Any]:
    """Returns process 0's value in all processes; each passes one of the same shape and dtype."""
    wide = value.astype(np.int64) if value.dtype.kind in "bui" else value  # all-reduce does not sum every integer type
    found = strategy.run(_sum_of_first, (tf.constant(wide),))
    return np.asarray(strategy.experimental_local_results(found)[0]).astype(value.dtype)


def broadcast_text(strategy: tf.distribute.Strategy, text: str) -> str:
    """As `broadcast`, for a text, whose length may differ between processes."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast(strategy, np.array(len(encoded))))
    return broadcast(strategy, np.resize(encoded, length)).tobytes().decode()


def wait_for_all(strategy: tf.distribute.Strategy, group: Group) -> None:
    """Waits until every machine has finished its last step.

    The first machine needs nothing of the others after that: one whose connection is gone has finished and exited.
    """
    try:
        broadcast(strategy, np.array(0))
    except BROKEN:
        if group.node_rank > 0:
            raise


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _sum_of_first(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    first = tf.equal(context.replica_id_in_sync_group, 0)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(first, value, tf.zeros_like(value)))


# -- processes ---------------------------------------------------------------------------------------------------------


def launch(group: Group) -> None:
    """Runs `group.command` as this machine's process of the group, and waits for it.

    It shares this process's standard streams. If another machine's process fails, this one is ended.

    Raises:
        PipelineError: raised by one of the processes.
        StageFailed: a process was killed or raised another exception, or another machine did not connect.
    """
    with _rendezvous.meet(group) as rendezvous, tempfile.TemporaryDirectory(prefix="lastmile-") as folder:
        error_file = Path(folder) / "error.json"
        env = {**os.environ, _process_group.ERROR_FILE: str(error_file)}
        if rendezvous.addresses:
            task = {"type": "worker", "index": group.node_rank}
            env["TF_CONFIG"] = json.dumps({"cluster": {"worker": rendezvous.addresses}, "task": task})
        with _process(group.command, env) as process:
            failures: dict[int, Exit] = {}
            while process.poll() is None and not failures:
                failures = rendezvous.failures(0.1)
            code = process.poll()
        for rank, failure in failures.items():
            rendezvous.send(rank, failure)
        if code is not None:
            exited = Exit(code, json.loads(error_file.read_text()) if error_file.is_file() else {})
            rendezvous.send(group.node_rank, exited)
            if code:
                failures[group.node_rank] = exited
        if failures:
            raise _process_group.root_cause(failures, group.nodes)


@contextlib.contextmanager
def _process(command: tuple[str, ...], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended on exit."""
    process = None
    try:
        with proc.unbroken():
            process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
        yield process
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:  # TensorFlow waits for another machine in native code
                process.kill()
                process.wait()


@contextlib.contextmanager
def connection_errors(group: Group) -> Iterator[None]:
    """Raises StageFailed if the connection to another machine breaks."""
    try:
        yield
    except BROKEN as error:
        if group.nodes == 1:
            raise
        raise StageFailed(
            "the connection to another machine of this training broke; run the same command to resume after the last "
            "full epoch"
        ) from error
