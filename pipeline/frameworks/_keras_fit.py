"""Training in Keras on TensorFlow: model.fit, an epoch at a time, with the recipe of the PyTorch loop."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import store
from pipeline.catalog import Model
from pipeline.core import ModelSpec, Preprocessing
from pipeline.datasets import Split
from pipeline.errors import BadOption, Broken, StageFailed
from pipeline.events import Events
from pipeline.frameworks import Settings, _keras
from pipeline.progress import bar, logged, say

if TYPE_CHECKING:
    from numpy.typing import NDArray

IN_MEMORY = 1 << 30
"""Splits of up to this many bytes of pixels are decoded once and kept; larger ones in every epoch."""


# -- data --------------------------------------------------------------------------------------------------------------


class Pictures:
    """A split as tf.data batches of uint8 (n, height, width, channels) with their labels."""

    def __init__(self, split: Split, what: str) -> None:
        self.split = split
        self.shape = split.read(0).shape
        small = split.read(0).nbytes * len(split) <= IN_MEMORY
        self.pixels = tf.constant(_decoded(split, what)) if small else None

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int, order: NDArray[np.int64] | None = None) -> tf.data.Dataset:
        """(images, labels) in this order, or in the split's."""
        order = np.arange(len(self)) if order is None else order
        indices = tf.data.Dataset.from_tensor_slices((order, self.split.labels[order])).batch(batch_size)
        return indices.map(lambda which, labels: (self._read(which), labels), tf.data.AUTOTUNE)

    def _read(self, which: tf.Tensor) -> tf.Tensor:
        if self.pixels is not None:
            return tf.gather(self.pixels, which)
        images = tf.numpy_function(self.split.images, [which], tf.uint8, stateful=False)
        return tf.ensure_shape(images, (None, *self.shape))


def _decoded(split: Split, what: str) -> NDArray[np.uint8]:
    """All pictures of a split, decoded on all cores (PIL works without the GIL)."""
    pixels = np.empty((len(split), *split.read(0).shape), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = split.read(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in bar(pool.map(decode, range(len(split))), f"reading {what}", len(split), "picture"):
            pass
    return pixels


def augmented(images: tf.Tensor, names: Sequence[str], seed: tf.Tensor) -> tf.Tensor:
    """A batch of images (n, height, width, channels), each flipped and shifted at random as `names` say.

    Args:
        seed: int64 (2,): the same seed, the same batch.
    """
    shape = tf.shape(images)
    count, height, width = shape[0], shape[1], shape[2]
    for name in names:
        seed += 1
        if name == "flip":
            flip = tf.random.stateless_uniform([count], seed) < 0.5
            images = tf.where(flip[:, None, None, None], tf.reverse(images, [2]), images)
        elif name.startswith("shift"):
            reach = int(name.removeprefix("shift"))
            padded = tf.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "REFLECT")
            by = tf.random.stateless_uniform([2, count, 1], seed, 0, 2 * reach + 1, tf.int32)
            rows, columns = by[0] + tf.range(height), by[1] + tf.range(width)
            # One row of every picture, or one column, is chosen for each place: whole rows are what gather copies.
            images = tf.gather(padded, rows, batch_dims=1)
            images = tf.transpose(tf.gather(tf.transpose(images, (0, 2, 1, 3)), columns, batch_dims=1), (0, 2, 1, 3))
        else:
            raise BadOption(f"unknown augmentation {name!r} (known: flip, shift1, shift4 …)")
    return images


# -- the machine -------------------------------------------------------------------------------------------------------


def device(accelerator: str) -> str:
    """ "GPU:0" or "CPU:0", for tf.device.

    Raises:
        BadOption: "cuda" is asked for and there is none.
    """
    with logged(Path(os.devnull)):  # where there is no driver, that is written from below Python
        gpus = tf.config.list_physical_devices("GPU") if accelerator != "cpu" else []
    if accelerator == "cuda" and not gpus:
        raise BadOption(
            "--accelerator cuda: TensorFlow sees no GPU here; use cpu, or auto, which takes one where it is"
        )
    for gpu in gpus:
        with contextlib.suppress(RuntimeError):  # it was initialised before, by us
            tf.config.experimental.set_memory_growth(gpu, True)  # else it takes all that there is
    return "GPU:0" if gpus else "CPU:0"


def deployable(net: keras.Model, preprocessing: Preprocessing) -> keras.Model:
    """`net` behind its normalisation, (x - mean) / std as a depthwise 1×1 convolution that is not trained: raw pixels
    (N, height, width, channels) to logits."""
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    image = keras.Input(net.inputs[0].shape[1:])
    layer = keras.layers.DepthwiseConv2D(1, name="normalize", trainable=False)
    model = keras.Model(image, net(layer(image)))
    layer.set_weights([(1 / std).reshape(1, 1, -1, 1), -mean / std])
    return model


def saved_model(net: keras.Model, spec: ModelSpec, out: Path) -> None:
    """Writes `net` behind its normalisation as a SavedModel whose signature takes and gives the spec's names.

    Not by keras.export: it holds variables in a set, and so writes them in another order each time.
    """
    model = deployable(net, spec.preprocessing)
    image = tf.TensorSpec((None, *spec.inputs[0].shape), tf.float32, spec.inputs[0].name)
    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]
    module.serve = tf.function(lambda image: {spec.outputs[0].name: model(image, training=False)}, [image])
    tf.saved_model.save(module, str(out), {"serving_default": module.serve})


def predict(net: keras.Model, preprocessing: Preprocessing, split: Split, accelerator: str) -> NDArray[np.float32]:
    """Float outputs (N, classes) for a whole split."""
    with tf.device(device(accelerator)):
        return _outputs(deployable(net, preprocessing), Pictures(split, "evaluation"))


def features(net: keras.Model, preprocessing: Preprocessing, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.features`."""
    last = next(layer for layer in reversed(net.layers) if layer.weights)
    inner = deployable(keras.Model(net.inputs, last.input), preprocessing)
    found = inner.predict(images.astype(np.float32), batch_size=64, verbose=0)
    return np.asarray(found, np.float32).reshape(len(images), -1)


def graph(net: keras.Model) -> bytes:
    """See `Framework.graph`."""
    traced = tf.function(net).get_concrete_function(tf.TensorSpec(net.inputs[0].shape, tf.float32))
    return bytes(traced.graph.as_graph_def().SerializeToString())


def _outputs(model: keras.Model, pictures: Pictures) -> NDArray[np.float32]:
    return np.asarray(model.predict(pictures.batches(256).map(_images), verbose=0), np.float32)


def _images(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32)


# -- the loop ----------------------------------------------------------------------------------------------------------


class Cosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """Up to its peak over a tenth of the steps, down to nothing on a cosine."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.warmup, self.rest = peak, max(1, steps // 10), max(1, steps - max(1, steps // 10))

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        fall = 0.5 * (1 + tf.cos(math.pi * (step - self.warmup) / self.rest))
        return self.peak * tf.where(step < self.warmup, (step + 1) / self.warmup, fall)


class Progress(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """A bar on a terminal, a batch at a time."""

    def __init__(self, what: str, steps: int) -> None:
        super().__init__()
        self.ticks = iter(bar(range(steps), what, steps, "batch"))
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras may say one in several batches."""
        for _ in range(self.seen, batch + 1):
            next(self.ticks, None)
        self.seen = batch + 1


def fit(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """Trains and leaves the best epoch's network as home/training/model.keras; see `Framework.train`.

    After every epoch the whole state is kept, so an interrupted training goes on with the next epoch. Order and
    augmentation of an epoch depend on seed and epoch alone: interrupted or not, the result is the same.
    """
    if settings.group.size > 1:
        raise BadOption(
            "--devices and --num-nodes: Keras trains on one device here; PyTorch (--framework torch) on many"
        )
    place = device(settings.accelerator)
    keras.config.set_dtype_policy("mixed_bfloat16" if place.startswith("GPU") else "float32")
    try:
        with tf.device(place):
            return _fit(model, data, settings, home, key) | {"device": _name(place)}
    finally:
        keras.config.set_dtype_policy("float32")


def _fit(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    training, folder = model.spec.training, home / "training"
    trainset, validation = Pictures(data["train"], "train"), Pictures(data["validation"], "validation")
    steps = math.ceil(len(trainset) / settings.batch_size)
    net = _seeded(model, settings.seed)
    network = deployable(net, model.spec.preprocessing)
    schedule = Cosine(settings.lr, settings.epochs * steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=training.weight_decay, epsilon=1e-8)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=training.label_smoothing)
    network.compile(optimizer=optimizer, loss=loss, jit_compile=False, steps_per_execution=min(steps, 16))
    optimizer.build(network.trainable_variables)
    kept = [*network.variables, *optimizer.variables]
    facts: dict[str, Any] = {"epoch": 0, "best_epoch": 0, "best_accuracy": -1.0, "seconds": 0.0, "losses": []}
    if settings.resume and _resume(folder, key, kept, facts):
        say(f"resuming after epoch {facts['epoch']} of {settings.epochs}")
    else:
        store.remove(folder)
    with Events(home / "tensorboard" / key[:12], facts["epoch"] * steps) as events:
        for epoch in range(facts["epoch"], settings.epochs):
            started = time.perf_counter()
            batches = _epoch(trainset, settings, epoch, training.augment, model.spec.classes)
            watched = Progress(f"epoch {epoch + 1}/{settings.epochs}", steps)
            history = network.fit(batches, shuffle=False, verbose=0, callbacks=[watched]).history
            mean_loss = float(history["loss"][0])
            labels = data["validation"].labels
            reached = float((_outputs(network, validation).argmax(1) == labels).mean())
            facts["epoch"] = epoch + 1
            facts["seconds"] += time.perf_counter() - started
            facts["losses"].append(mean_loss)
            if not math.isfinite(mean_loss):
                raise StageFailed(
                    f"the loss is {mean_loss} in epoch {epoch + 1}: try a smaller --lr than {settings.lr:g}"
                )
            if reached >= facts["best_accuracy"]:  # of equals the later: its learning rate was lower
                facts |= {"best_epoch": epoch + 1, "best_accuracy": reached}
                _save(folder / "best.npz", net.variables, {})
            _save(folder / "state.npz", kept, facts | {"key": key})
            done = (epoch + 1) * steps
            events.scalars({"loss/train": mean_loss, "accuracy/validation": reached, "lr": float(schedule(done))}, done)
            events.histograms({_neutral(each.path): np.asarray(each) for each in net.trainable_variables}, done)
            say(f"epoch {epoch + 1}/{settings.epochs}: loss {mean_loss:.4f}, validation accuracy {reached:.4f}")
    keras.config.set_dtype_policy("float32")
    best = _keras.network(model)
    _load(folder / "best.npz", best.variables)
    _keras.save(best, folder / "model.keras")
    rate = settings.epochs * len(trainset) / facts["seconds"]
    done = settings.epochs * steps
    return facts | {"samples_per_second": round(rate, 1), "steps": done, "devices": 1, "nodes": 1}


def _seeded(model: Model, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return _keras.network(model)


def _epoch(pictures: Pictures, settings: Settings, epoch: int, augment: Sequence[str], classes: int) -> tf.data.Dataset:
    """An epoch's batches: float images as they are seen, one-hot labels."""
    seed = settings.seed * 1_000_003 + epoch
    order = np.random.default_rng(seed).permutation(len(pictures))

    def seen(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = batch
        images = augmented(images, augment, tf.stack([tf.constant(seed, tf.int64), step * 16]))
        return tf.cast(images, tf.float32), tf.one_hot(labels, classes)

    batches = pictures.batches(settings.batch_size, order).enumerate()
    return batches.map(seen, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _save(path: Path, variables: Sequence[Any], facts: Mapping[str, Any]) -> None:
    with store.atomic(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {str(i): np.asarray(variable) for i, variable in enumerate(variables)}
        np.savez(file, facts=np.array(json.dumps(dict(facts))), **arrays)


def _load(path: Path, variables: Sequence[Any]) -> dict[str, Any]:
    """Assigns what `_save` kept; its facts."""
    with np.load(path, allow_pickle=False) as kept:
        for i, variable in enumerate(variables):
            variable.assign(kept[str(i)])
        facts: dict[str, Any] = json.loads(str(kept["facts"]))
        return facts


def _resume(folder: Path, key: str, variables: Sequence[Any], facts: dict[str, Any]) -> bool:
    """Puts the kept state of the same training into `variables` and `facts`; False where there is none."""
    path = folder / "state.npz"
    if not path.is_file() or not (folder / "best.npz").is_file():
        return False
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            found = json.loads(str(kept["facts"]))
        if found.pop("key") != key:
            return False
        _load(path, variables)
    except Exception as error:
        raise Broken(f"{path} cannot be read ({error}); train afresh with --no-resume") from error
    facts.update(found)
    return True


def _neutral(path: str) -> str:
    """A variable's name as PyTorch's twin has it in TensorBoard, where PyTorch has such a thing."""
    layer, leaf = path.split("/")[-2:]
    return f"{layer}.{_keras.LEAVES.get(leaf, leaf)}"


def _name(place: str) -> str:
    if place.startswith("CPU"):
        return "cpu"
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return str(details.get("device_name", "gpu"))
