"""Keras 3: training on TensorFlow; capture on PyTorch, in a process of its own, and from there as PyTorch's models."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import errors
from pipeline.core import to_json
from pipeline.datasets import Split
from pipeline.errors import BadModel, BadOption, StageFailed
from pipeline.frameworks import Group, Settings
from pipeline.registry import extra, import_order, require
from pipeline.sources import Model
from pipeline.system import proc
from pipeline.system.progress import logged
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = "model.keras"
TOOLS: tuple[str, ...] = ("keras", "tensorflow", "torch", "torchao", "litert-torch")
EXTRA = "keras"
PACKAGES: Mapping[str, str] = {"tensorflow": "keras", "keras": "keras"}
GRAPHS: Mapping[str, str] = {"keras": "keras", "torch": "torch", "torchao": "torch"}
FORMS: tuple[str, ...] = ("program", "saved_model")
SUMMARY = "Keras 3: trained on TensorFlow, captured on PyTorch"


def joined(devices: int) -> Group | None:
    """See `Framework.joined`: one of the workers in TF_CONFIG, as Kubernetes and others set it."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise BadOption("torchrun starts processes of PyTorch; those of TensorFlow are named in TF_CONFIG")
    if "TF_CONFIG" not in os.environ:
        return None
    try:
        told = json.loads(os.environ["TF_CONFIG"])
        jobs, task = dict(told["cluster"]), told["task"]
        nodes, index = sum(map(len, jobs.values())), int(task["index"])
        rank = index + (task["type"] == "worker") * len(jobs.get("chief", ()))
        known = jobs.keys() <= {"chief", "worker"} and task["type"] in jobs and 0 <= rank < nodes
    except (ValueError, KeyError, TypeError) as error:
        raise BadOption(f"TF_CONFIG does not say {{cluster, task: {{type, index}}}}: {error!r}") from error
    if not known:
        raise BadOption("TF_CONFIG: a training is of workers, with a chief or without, and this process is one of them")
    return Group(devices, nodes, rank)


def train(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """See `Framework.train`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras_tensorflow, _tf_distribute, _training_loop

    folder, group = home / "training", settings.group
    _tf_distribute.device_type(settings.accelerator, group)  # refused before anything is started
    if group.size > 1 and group.command:
        _tf_distribute.launch(group)  # its process comes here again, without a command
        return _training_loop.read_facts(folder, group)
    facts = _keras_tensorflow.fit(model, data, settings, home, key)
    return {} if group.follows else _training_loop.write_facts(folder, facts)


def adopt(model: Model, weights: Path, out: Path) -> None:
    """See `Framework.adopt`: a .keras file, of which nothing is run."""
    _on_tensorflow()
    from pipeline.frameworks import _keras

    _keras.save(_keras.adopt(model, weights), out)


def predict(model: Model, weights: Path, split: Split, accelerator: str = "auto") -> NDArray[np.float32]:
    """See `Framework.predict`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.predict(_keras.load(model, weights), model.spec.preprocessing, split, accelerator)


def features(model: Model, weights: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.features`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.features(_keras.load(model, weights), model.spec.preprocessing, images)


def graph(model: Model, weights: Path) -> bytes:
    """See `Framework.graph`: what tf.function traces."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    return _keras_tensorflow.graph(_keras.load(model, weights))


def unpack(model: Model, weights: Path) -> dict[str, NDArray[np.float32]]:
    """See `Framework.unpack`."""
    _on_tensorflow()
    import numpy as np

    from pipeline.frameworks import _keras

    net = _keras.load(model, weights)
    depthwise = _keras.depthwise_layers(net)
    return {
        name: _keras.to_torch(np.asarray(variable), name.rpartition(".")[0] in depthwise)
        for name, variable in _keras.variables(net).items()
    }


def pack(model: Model, tensors: Mapping[str, NDArray[np.float32]], out: Path) -> None:
    """See `Framework.pack`."""
    _on_tensorflow()
    from pipeline.frameworks import _keras

    net = _keras.network(model)
    variables = _keras.variables(net)
    wrong = sorted(variables.keys() ^ tensors.keys())
    if wrong:
        raise BadModel(f"{model.spec.name}'s twins differ: {', '.join(wrong[:3])} is in one of them only")
    depthwise = _keras.depthwise_layers(net)
    for name, variable in variables.items():
        _keras.assign_from_torch(variable, tensors[name], name.rpartition(".")[0] in depthwise)
    _keras.save(net, out)


def capture(model: Model, weights: Path, folder: Path) -> None:
    """See `Framework.capture`: in a process of its own, because Keras takes one backend a process."""
    require(GRAPHS)
    request = {
        "model": str(model.folder), "spec": to_json(model.spec), "weights": str(weights), "folder": str(folder)
    }  # fmt: skip
    argv = [sys.executable, "-m", "pipeline.frameworks._keras_capture", json.dumps(request)]
    done = proc.run(argv, env={"PYTHONHASHSEED": "0"})
    sys.stderr.write(done.err)  # into graphs.log
    if done.code != 0:
        raise StageFailed(f"Keras on PyTorch ended while capturing {model.spec.name}: {done.reason}")
    if done.out.strip():
        said = json.loads(done.out.splitlines()[-1])
        raise errors.again(said["error"], said["says"]) or StageFailed(said["says"])


def quantize(captured: Path, value_range: tuple[float, float], images: NDArray[np.uint8], folder: Path) -> None:
    """See `Framework.quantize`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    _graphs.quantize(captured, value_range, images, folder)


def evaluate(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.evaluate`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.evaluate(folder, images)


def step(folder: Path) -> float | None:
    """See `Framework.step`."""
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.step(folder)


def source(model: Model, weights: Path, captured: Path, quantized: Path | None) -> Source:
    """See `Framework.source`."""
    return Source("keras", partial(_program, captured, quantized), partial(_saved_model, model, weights))


def _program(captured: Path, quantized: Path | None, name: str) -> Any:
    _with_graphs()
    from pipeline.frameworks import _graphs

    return _graphs.program(captured, quantized, name)


def _saved_model(model: Model, weights: Path, out: Path) -> None:
    """The model behind its normalisation as a SavedModel: raw pixels (N, height, width, channels) to logits."""
    _on_tensorflow()
    from pipeline.frameworks import _keras, _keras_tensorflow

    _keras_tensorflow.saved_model(_keras.load(model, weights), model.spec, out)


def _on_tensorflow() -> None:
    """Imports Keras on TensorFlow, quietly.

    Raises:
        MissingExtra: one of them is not installed.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import_order()
    with extra(EXTRA), logged(Path(os.devnull)):  # it greets from below Python, at every import
        import keras
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # whose process this is has used TensorFlow already, in his way
                tf.config.experimental.set_memory_growth(gpu, True)  # else it takes all that there is
    assert keras.backend.backend() == "tensorflow"  # one backend a process, and in ours it is this one


def _with_graphs() -> None:
    """Imports PyTorch, which holds the graphs."""
    import_order()
    with extra("torch"):
        import torch  # noqa: F401
