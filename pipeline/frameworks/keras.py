"""Keras 3: training on TensorFlow, capture on PyTorch in a separate process; from there on as PyTorch models."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import errors
from pipeline.core import BiasCorrection, Operation, Recipe, Sensitivity, to_json
from pipeline.datasets import Split
from pipeline.errors import BadModel, BadOption, StageFailed
from pipeline.frameworks import Group, QuantizedTraining, Settings
from pipeline.registry import extra, import_order, require
from pipeline.sources import Model
from pipeline.system import proc
from pipeline.system.progress import logged
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs

WEIGHTS = "model.keras"
TOOLS: tuple[str, ...] = ("keras", "tensorflow", "torch", "torchao", "litert-torch")
EXTRA = "keras"
PACKAGES: Mapping[str, str] = {"tensorflow": "keras", "keras": "keras"}
GRAPHS: Mapping[str, str] = {"keras": "keras", "torch": "torch", "torchao": "torch"}
FORMS: tuple[str, ...] = ("program", "saved_model")
SUMMARY = "Keras 3: training on TensorFlow, capture on PyTorch"


def joined(devices: int) -> Group | None:
    """See `Framework.joined`: a worker in TF_CONFIG, which Kubernetes and other launchers set."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise BadOption("torchrun starts PyTorch processes only; TensorFlow needs a launcher that sets TF_CONFIG")
    if "TF_CONFIG" not in os.environ:
        return None
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        jobs, task = dict(config["cluster"]), config["task"]
        nodes, index = sum(map(len, jobs.values())), int(task["index"])
        rank = index + (task["type"] == "worker") * len(jobs.get("chief", ()))
        valid = jobs.keys() <= {"chief", "worker"} and task["type"] in jobs and 0 <= rank < nodes
    except (ValueError, KeyError, TypeError) as error:
        raise BadOption(f"TF_CONFIG is not {{cluster, task: {{type, index}}}}: {error!r}") from error
    if not valid:
        raise BadOption("TF_CONFIG: the cluster may contain workers and a chief only, and the task must be one of them")
    return Group(devices, nodes, rank)


def train(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """See `Framework.train`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras_tensorflow, _tf_distribute, _training_loop

    folder, group = home / "training", settings.group
    _tf_distribute.device_type(settings.accelerator, group)  # check the options before starting processes
    if group.size > 1 and group.command:
        _tf_distribute.launch(group)  # the new process calls train() too, without a command
        return _training_loop.read_facts(folder, group)
    facts = _keras_tensorflow.fit(model, data, settings, home, key)
    return {} if group.follows else _training_loop.write_facts(folder, facts)


def adopt(model: Model, weights: Path, out: Path) -> None:
    """See `Framework.adopt`: a .keras file; runs no code in it."""
    _on_tensorflow()
    from pipeline.frameworks import _keras

    _keras.save(_keras.adopt(model, weights), out)


def predict(model: Model, weights: Path, split: Split, accelerator: str = "auto") -> Outputs:
    """See `Framework.predict`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.predict(_keras.load(model, weights), model.spec, split, accelerator)


def features(model: Model, weights: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.features`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.features(_keras.load(model, weights), model.spec, images)


def graph(model: Model, weights: Path) -> bytes:
    """See `Framework.graph`: what tf.function traces."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.graph(_keras.load(model, weights), model.spec)


def unpack(model: Model, weights: Path) -> dict[str, NDArray[np.float32]]:
    """See `Framework.unpack`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras

    net = _keras.load(model, weights)
    depthwise = _keras.depthwise_layers(net)
    return {
        name: _keras.to_torch(variable, name.rpartition(".")[0] in depthwise)
        for name, variable in _keras.variables(net).items()
    }


def pack(model: Model, tensors: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    """See `Framework.pack`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras

    net = _keras.network(model)
    variables = _keras.variables(net)
    unmatched = sorted(variables.keys() ^ tensors.keys())
    if unmatched:
        raise BadModel(
            f"the Keras and PyTorch models of {model.spec.name} differ: only one of them has {', '.join(unmatched[:3])}"
        )
    depthwise = _keras.depthwise_layers(net)
    for name, variable in variables.items():
        _keras.assign_from_torch(variable, tensors[name], name.rpartition(".")[0] in depthwise)
    _keras.save(net, out)


def capture(model: Model, weights: Path, folder: Path) -> None:
    """See `Framework.capture`: in a separate process, because Keras allows one backend per process.

    That process compares its graph with what this one computes on TensorFlow.
    """
    require(GRAPHS)
    _on_tensorflow()
    from pipeline.frameworks import _keras_tensorflow

    with tempfile.TemporaryDirectory() as temporary:
        reference = Path(temporary) / "reference.npz"
        _keras_tensorflow.reference(model, weights, reference)
        request = {
            "model": str(model.folder), "spec": to_json(model.spec), "weights": str(weights), "folder": str(folder),
            "reference": str(reference),
        }  # fmt: skip
        argv = [sys.executable, "-m", "pipeline.frameworks._keras_capture", json.dumps(request)]
        done = proc.run(argv, env={"PYTHONHASHSEED": "0"})
    sys.stderr.write(done.err)  # goes to graphs.log
    if done.code != 0:
        raise StageFailed(f"capturing {model.spec.name} with Keras on PyTorch failed: {done.reason}")
    if done.out.strip():
        failure = json.loads(done.out.splitlines()[-1])
        raise errors.again(failure["error"], failure["message"]) or StageFailed(failure["message"])


def quantize(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], folder: Path, recipe: Recipe
) -> BiasCorrection | None:
    """See `Framework.quantize`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.quantize(captured, value_range, images, folder, recipe)


def sensitivity(
    captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], recipe: Recipe
) -> Sensitivity:
    """See `Framework.sensitivity`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.sensitivity(captured, value_range, images, recipe)


def train_quantized(
    model: Model, data: Mapping[str, Split], settings: Settings, task: QuantizedTraining
) -> dict[str, Any]:
    """See `Framework.train_quantized`."""
    _with_graphs()
    from pipeline.frameworks import _qat

    return _qat.train(model, data, settings, task)


def operations(captured: Path) -> tuple[Operation, ...]:
    """See `Framework.operations`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.operations(captured)


def evaluate(folder: Path, images: NDArray[Any]) -> Outputs:
    """See `Framework.evaluate`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.evaluate(folder, images)


def steps(folder: Path) -> tuple[float | None, ...]:
    """See `Framework.steps`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.steps(folder)


def source(model: Model, weights: Path, captured: Path, quantized: Path | None) -> Source:
    """See `Framework.source`."""
    return Source("keras", partial(_program, captured, quantized), partial(_saved_model, model, weights))


def _program(captured: Path, quantized: Path | None, name: str) -> Any:
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.program(captured, quantized, name)


def _saved_model(model: Model, weights: Path, out: Path) -> None:
    """Writes the model with its normalisation as a SavedModel: raw pixels (N, height, width, channels) to logits."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    _keras_tensorflow.saved_model(_keras.load(model, weights), model.spec, out)


def _on_tensorflow() -> None:
    """Imports Keras on TensorFlow, without TensorFlow's messages.

    Raises:
        MissingExtra: one of them is not installed.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import_order()
    with extra(EXTRA), logged(Path(os.devnull)):  # native code prints messages at every import
        import keras
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # TensorFlow is already initialised, with the caller's settings
                tf.config.experimental.set_memory_growth(gpu, True)  # otherwise it allocates all GPU memory
    assert keras.backend.backend() == "tensorflow"


def _with_graphs() -> None:
    """Imports PyTorch, which graphs need."""
    import_order()
    with extra("torch"):
        import torch  # noqa: F401
