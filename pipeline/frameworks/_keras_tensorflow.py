"""Keras on TensorFlow: training on one device or several, prediction, and SavedModels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import tasks
from pipeline.core import ModelSpec, Tokens
from pipeline.datasets import Split
from pipeline.errors import Broken
from pipeline.frameworks import Settings, _build, _keras, _keras_losses, _tf_distribute, _training_loop
from pipeline.frameworks._process_group import Part
from pipeline.sources import Model
from pipeline.system import store
from pipeline.system.progress import bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.frameworks import Outputs

CHUNK = 16
"""Training steps per call into TensorFlow."""
Elements = tuple["NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float32]"]


# -- data --------------------------------------------------------------------------------------------------------------


class SplitDataset:
    """A split for tf.data; see `Split`."""

    def __init__(self, split: Split, what: str | None) -> None:
        self.split = split
        first = split.read(0)
        self.shape, self.dtype = first.shape, first.dtype
        pixels = _training_loop.decode_all(split, what)
        with tf.device("CPU:0"):  # tf.data runs on the CPU
            self.pixels = None if pixels is None else tf.constant(pixels)
            self.labels = tf.constant(split.labels)

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Batches of the network's inputs in the split's order."""
        indices = tf.data.Dataset.range(len(self)).batch(batch_size)
        return indices.map(self.read, tf.data.AUTOTUNE).map(_floats)

    def read(self, indices: tf.Tensor) -> tf.Tensor:
        """The inputs at these indices."""
        if self.pixels is not None:
            return tf.gather(self.pixels, indices)
        images = tf.numpy_function(self.split.inputs, [indices], self.dtype, stateful=False)
        return tf.ensure_shape(images, (None, *self.shape))


def _floats(images: tf.Tensor) -> tf.Tensor:
    """Bytes of images as float32; other inputs as they are."""
    return tf.cast(images, tf.float32) if images.dtype == tf.uint8 else images


def batch_parts(order: NDArray[np.int64], batch_size: int, parts: Sequence[Part], seed: int = 0) -> Elements:
    """The given parts of each batch of `order`, one after another.

    Everything that depends on the epoch is in these arrays, so that TensorFlow need not retrace in every epoch.

    Returns:
        indices of the images, int64, padded to one length; place, int64 (5,): the batch's number and size, start and
        end of the part in it, and the seed; weight of the part, float32.
    """
    places, weights, indices = [], [], []
    batches = [order[batch] for batch in _training_loop.batches(len(order), batch_size)]
    longest = max(map(len, batches))
    for number, batch in enumerate(batches):
        for part in parts:
            own = part.of(len(batch))
            places.append((number, len(batch), own.start, own.stop, seed))
            weights.append(part.weight(len(batch)))
            indices.append(np.resize(batch[own], -(-longest // part.world)))
    return np.array(indices, np.int64), np.array(places, np.int64), np.array(weights, np.float32)


def draw_augmentations(names: Sequence[str], seed: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Draws the random numbers for `augment`, one tensor per name: bool (n,) for flips, int32 (2, n, 1) for shifts.

    Args:
        seed: int64 (2,), which determines all draws for the batch.
        place: int64 (3,): the batch's size, and start and end of the part in it. Numbers are drawn for the whole batch,
            so that they do not depend on the number of processes.
    """
    size, start, end = place[0], place[1], place[2]
    draws = []
    for name in names:
        seed += 1
        shift = _training_loop.max_shift(name)
        if shift is None:
            draws.append((tf.random.stateless_uniform([size], seed) < 0.5)[start:end])
        else:
            by = tf.random.stateless_uniform([2, size, 1], seed, 0, 2 * shift + 1, tf.int32)
            draws.append(by[:, start:end])
    return tuple(draws)


def augment(
    images: tf.Tensor, labels: tf.Tensor, names: Sequence[str], draws: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips and shifts float images (n, height, width, channels) by the numbers of `draw_augmentations`; masks and
    boxes move with them.

    Runs on the training device; takes floats because TensorFlow cannot pad or gather bytes on a GPU.
    """
    if not names:
        return images, labels  # of any kind
    height, width = images.shape[1:3]
    if labels.dtype == tf.uint8:  # masks are one more channel
        masked = tf.concat([images, tf.cast(labels, images.dtype)[..., None]], 3)
        masked, _ = augment(masked, tf.cast(labels[:, 0, 0], tf.int64), names, draws)
        return masked[..., :-1], tf.cast(masked[..., -1], tf.uint8)
    boxes = labels.shape.rank == 3
    for name, by in zip(names, draws, strict=True):
        shift = _training_loop.max_shift(name)
        if shift is None:
            upright = name == _training_loop.VERTICAL
            images = tf.where(by[:, None, None, None], tf.reverse(images, [1 if upright else 2]), images)
            if boxes:
                labels = tf.where(by[:, None, None], _flipped(labels, upright), labels)
        else:
            padded = tf.pad(images, [[0, 0], [shift, shift], [shift, shift], [0, 0]], "REFLECT")
            rows, columns = by[0] + tf.range(height), by[1] + tf.range(width)
            # Gathers whole rows, then whole columns; gathering single pixels would be slow.
            images = tf.gather(padded, rows, batch_dims=1)
            images = tf.transpose(tf.gather(tf.transpose(images, (0, 2, 1, 3)), columns, batch_dims=1), (0, 2, 1, 3))
            if boxes:
                labels = _moved(labels, tf.cast(shift - tf.stack([by[0], by[1]], 2), tf.float32) / (height, width))
    return images, labels


def _flipped(boxes: tf.Tensor, upright: bool) -> tf.Tensor:
    """Boxes (n, most, 6) in images that are flipped left-right, or upside down."""
    name, top, left, bottom, right, ignored = tf.unstack(boxes, axis=2)
    if upright:
        top, bottom = 1 - bottom, 1 - top
    else:
        left, right = 1 - right, 1 - left
    return tf.stack([name, top, left, bottom, right, ignored], 2)


def _moved(boxes: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    """Boxes (n, most, 6) moved down and right by these shares of an image (n, 1, 2). What leaves it is no box."""
    sides = tf.clip_by_value(boxes[..., 1:5] + tf.tile(by, (1, 1, 2)), 0, 1)
    inside = tf.reduce_all(sides[..., 2:] > sides[..., :2], 2)
    return tf.concat([tf.where(inside, boxes[..., 0], -1.0)[..., None], sides, boxes[..., 5:]], 2)


# -- finished networks -------------------------------------------------------------------------------------------------


def with_normalization(net: keras.Model, spec: ModelSpec) -> keras.Model:
    """`net` with its normalisation (x - mean) / std in front: raw inputs (N, …) to outputs.

    Of images it is a frozen depthwise 1×1 convolution. Token ids are not normalised.
    """
    image = keras.Input(spec.inputs[0].shape, dtype=spec.inputs[0].dtype)
    if isinstance(spec.preprocessing, Tokens):
        return keras.Model(image, net(image))
    mean, std = np.array(spec.preprocessing.mean, np.float32), np.array(spec.preprocessing.std, np.float32)
    if not spec.image:
        return keras.Model(image, net(keras.layers.Rescaling(1 / std, -mean / std, name="normalize")(image)))
    layer = keras.layers.DepthwiseConv2D(1, name="normalize", trainable=False)
    model = keras.Model(image, net(layer(image)))
    layer.set_weights([(1 / std).reshape(1, 1, -1, 1), -mean / std])
    return model


def saved_model(net: keras.Model, spec: ModelSpec, out: Path) -> None:
    """Writes `net` with its normalisation as a SavedModel whose signature uses the spec's names.

    Does not use keras.export, which keeps variables in a set and so writes them in a different order each time.
    """
    model = with_normalization(net, spec)
    image = tf.TensorSpec((None, *spec.inputs[0].shape), spec.inputs[0].dtype, spec.inputs[0].name)
    module = tf.Module()
    module.tracked = [variable.value for variable in model.variables]
    names = [output.name for output in spec.outputs]
    module.serve = tf.function(
        lambda image: dict(zip(names, _tuple(model(image, training=False)), strict=True)), [image]
    )
    tf.saved_model.save(module, str(out), {"serving_default": module.serve})


def predict(net: keras.Model, spec: ModelSpec, split: Split, accelerator: str) -> Outputs:
    """The float outputs for a whole split."""
    with tf.device(_tf_distribute.device_type(accelerator)):
        batches = SplitDataset(split, "evaluation").batches(256)
        outputs = with_normalization(net, spec).predict(batches, verbose=0)
        return tuple(np.asarray(each, np.float32) for each in _tuple(outputs))


def features(net: keras.Model, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """See `Framework.features`."""
    batches = []
    for start in range(0, len(images), 64):
        with _keras.recorded(values=False) as calls:
            net(_keras.normalized(images[start : start + 64], spec), training=False)
        batches.append(np.asarray(calls.last_input, np.float32).reshape(len(calls.last_input), -1))
    return np.concatenate(batches)


def graph(net: keras.Model, spec: ModelSpec) -> bytes:
    """See `Framework.graph`."""
    image = tf.TensorSpec((None, *spec.inputs[0].shape), spec.inputs[0].dtype)
    traced = tf.function(lambda image: net(image, training=False)).get_concrete_function(image)
    return bytes(traced.graph.as_graph_def().SerializeToString())


def reference(model: Model, weights: Path, out: Path) -> None:
    """Writes what the network returns for `_keras.probe`, with its weights and with random ones, on the CPU.

    `_keras_capture` compares its graph with these, and looks in the results of every layer for the first difference.
    """
    images = _keras.normalized(_keras.probe(model.spec), model.spec)
    found: dict[str, Any] = {}
    with tf.device("CPU:0"):
        net = _keras.load(model, weights)
        for kind in _keras.WEIGHTS_TO_COMPARE:
            if kind == "random":
                _keras.randomize(net)
            with _keras.recorded() as calls:
                outputs = _tuple(net(images, training=False))
            found |= {f"{kind}_output_{i}": np.asarray(each, np.float32) for i, each in enumerate(outputs)}
            found[f"{kind}_names"] = np.array(calls.names)
            found |= {f"{kind}_{i}": result for i, result in enumerate(calls.results)}
    np.savez(out, **found)


def _tuple(outputs: Any) -> tuple[Any, ...]:
    """What a network returns as a tuple, of one tensor or several."""
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


# -- the loop ----------------------------------------------------------------------------------------------------------


class Rates(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """The learning rate schedule of `_training_loop.learning_rate`."""

    def __init__(self, peak: float, steps: int) -> None:
        self.rates = tf.constant(
            [peak * _training_loop.learning_rate(step, steps) for step in range(steps)], tf.float32
        )

    def __call__(self, step: Any) -> Any:
        return tf.gather(self.rates, tf.cast(step, tf.int64))


def fit(model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str) -> dict[str, Any]:
    """Trains and writes the best epoch's network to home/training/model.keras; see `Framework.train`.

    The full state is saved after every epoch, so an interrupted training resumes with the next one. An epoch's sample
    order and augmentation depend only on the seed and the epoch: each step sees the same images whether training was
    interrupted or not, in one process or many. Only the first process writes files and prints.

    Raises:
        BadData: this process has different data, code or settings from the first.
        StageFailed: the loss is NaN or infinite, or the connection to another machine broke.

    Returns:
        The facts of `_training_loop.run_epochs` and `device_facts`.
    """
    group = settings.group
    kind = _tf_distribute.device_type(settings.accelerator, group)
    strategy = _tf_distribute.strategy(group, kind)
    keras.config.set_dtype_policy(_tf_distribute.policy(kind))
    if kind == "GPU":
        tf.config.experimental.reset_memory_stats("GPU:0")
    first, folder = group.node_rank == 0, home / "training"
    try:
        with _tf_distribute.connection_errors(group):
            if group.nodes > 1:
                _training_loop.check_same_key(key, _tf_distribute.broadcast_text(strategy, key), group.node_rank)
            splits = {name: SplitDataset(data[name], name if first else None) for name in ("train", "validation")}
            loop = Loop(strategy, model, settings, splits, folder, key)
            facts = _training_loop.initial_facts() | loop.resumed()
            run = home / "tensorboard" / key[:12] if first else None
            facts = _training_loop.run_epochs(loop, facts, settings, len(splits["train"]), run, tasks.of(model.spec))
            if group.nodes > 1:
                _tf_distribute.wait_for_all(strategy, group)
    finally:
        keras.config.set_dtype_policy("float32")
    if first:
        best = _keras.network(model)
        _load(folder / "best.npz", best.variables)
        _keras.save(best, folder / "model.keras")
    return facts | device_facts(kind)


class Loop:
    """See `_training_loop.Loop`.

    Replaces model.fit, which cannot run under MultiWorkerMirroredStrategy (Keras issue 20585) and cannot run several
    steps at a time under MirroredStrategy.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, model: Model, settings: Settings, splits: Mapping[str, SplitDataset],
        folder: Path, key: str,
    ) -> None:  # fmt: skip
        self.strategy, self.settings, self.splits, self.folder, self.key = strategy, settings, splits, folder, key
        self.training, self.classes = model.spec.training, model.spec.classes
        self.steps = _training_loop.steps_per_epoch(len(splits["train"]), settings)
        keras.utils.set_random_seed(settings.seed)
        self.net = _keras.network(model, strategy.scope)
        if settings.group.node_rank == 0:
            images = splits["train"].read(tf.range(min(2, len(splits["train"])), dtype=tf.int64))
            outputs = tuple(
                tf.cast(each, tf.float32).numpy() for each in _tuple(self.net(_floats(images), training=False))
            )
            tensors = getattr(self.net, "outputs", None)  # a subclassed model has none
            last = tensors[0]._keras_history.operation if tensors else None
            sigmoid = getattr(last, "activation", None) is keras.activations.sigmoid
            _build.warn_of_probabilities(model, "keras", outputs, sigmoid)
        if settings.group.size > 1:
            _tf_distribute.synchronize_batch_norm(self.net)
        with strategy.scope():
            self.network = with_normalization(self.net, model.spec)
            rates = Rates(settings.lr, settings.epochs * self.steps)
            self.optimizer = keras.optimizers.AdamW(rates, weight_decay=self.training.weight_decay, epsilon=1e-8)
            self.optimizer.build(self.network.trainable_variables)
        self.loss = _keras_losses.loss(model.spec, splits["train"].split.labels)
        self.task = tasks.of(model.spec)
        if not self.task.POOLED:
            self.scores = _keras_losses.scores(model.spec, splits["validation"].split.labels)
        self.state = [*self.network.variables, *self.optimizer.variables]
        self.predicted = tf.function(lambda images: self.network(images, training=False))
        self.training_part, self.validation_part = tf.function(self._training_part), tf.function(self._validation_part)
        self.run_steps, self.total_score = tf.function(self._run_steps), tf.function(self._total_score)
        self.training_batches = self.validation_batches = None

    def epoch(self, epoch: int) -> float:
        """See `_training_loop.Loop`."""
        settings = self.settings
        # One iterator for all epochs, because starting one takes as long as many steps.
        if self.training_batches is None:
            self.training_batches = self._iterator(self._parts_from(epoch).map(self.training_part, tf.data.AUTOTUNE))
        chunks: Iterable[int] = range(0, self.steps, CHUNK)
        if settings.group.node_rank == 0:
            name, count = f"epoch {epoch + 1}/{settings.epochs}", -(-self.steps // CHUNK)
            chunks = bar(chunks, name, count, f"{CHUNK} batches")
        total = 0.0
        for start in chunks:
            total += float(self.run_steps(self.training_batches, tf.constant(min(CHUNK, self.steps - start))))
        return total / self.steps

    def accuracy(self) -> float:
        """See `_training_loop.Loop`; each device evaluates its part, or all of a metric that pools all samples."""
        validation, size = self.splits["validation"], 256 * self.settings.group.size
        if self.task.POOLED:
            batches = (self._outputs(images) for images in validation.batches(256))
            return float(tasks.scores(self.task, batches, validation.split.labels).mean())
        if self.validation_batches is None:
            own = batch_parts(np.arange(len(validation)), size, _tf_distribute.parts(self.settings.group))
            batches = tf.data.Dataset.from_tensor_slices(own).repeat().map(self.validation_part, tf.data.AUTOTUNE)
            self.validation_batches = self._iterator(batches)
        count = len(_training_loop.batches(len(validation), size))
        return float(self.total_score(self.validation_batches, tf.constant(count))) / len(validation)

    def _outputs(self, images: tf.Tensor) -> Outputs:
        return tuple(tf.cast(each, tf.float32).numpy() for each in _tuple(self.predicted(images)))

    def weights(self) -> dict[str, NDArray[Any]]:
        """See `_training_loop.Loop`."""
        return {_exchange_name(variable.path): variable.numpy() for variable in self.net.trainable_variables}

    def save(self, facts: Mapping[str, Any], best: bool) -> None:
        """See `_training_loop.Loop`."""
        if best:
            _save(self.folder / "best.npz", self.net.variables, {})
        _save(self.folder / "state.npz", self.state, {**facts, "key": self.key})

    def resumed(self) -> dict[str, Any]:
        """Restores the saved state of the same training in all processes and returns its facts.

        Without a saved state, empties the folder and returns {}.
        """
        first, many = self.settings.group.node_rank == 0, self.settings.group.nodes > 1
        found = _resume(self.folder, self.key, self.state) if first and self.settings.resume else {}
        if first and not found:
            store.remove(self.folder)
        if many:
            found = json.loads(_tf_distribute.broadcast_text(self.strategy, json.dumps(found)))
        if many and found:
            for variable in self.state:
                variable.assign(_tf_distribute.broadcast(self.strategy, variable.numpy()))
        return dict(found)

    def _parts_from(self, epoch: int) -> tf.data.Dataset:
        """This machine's parts of the training batches, from the first of this epoch to the last of all epochs."""
        group, size = self.settings.group, self.settings.batch_size

        def of(epoch: NDArray[np.int64]) -> Elements:
            seed = _training_loop.epoch_seed(self.settings, int(epoch))
            order = np.random.default_rng(seed).permutation(len(self.splits["train"]))
            return batch_parts(order, size, _tf_distribute.parts(group), seed)

        def elements(epoch: tf.Tensor) -> tf.data.Dataset:
            indices, places, weights = tf.numpy_function(of, [epoch], (tf.int64, tf.int64, tf.float32))
            shapes = (None, None), (None, 5), (None,)
            elements = tuple(map(tf.ensure_shape, (indices, places, weights), shapes))
            return tf.data.Dataset.from_tensor_slices(elements)

        return tf.data.Dataset.range(epoch, self.settings.epochs).flat_map(elements)

    def _training_part(self, indices: tf.Tensor, place: tf.Tensor, weight: tf.Tensor) -> tuple[Any, ...]:
        """A training part: inputs, labels (of classes one-hot), weight, draws for augmentation.

        Images stay bytes, because copying floats to a GPU would take four times as long.
        """
        images, labels = self._part("train", indices, place)
        draws = draw_augmentations(self.training.augment, tf.stack([place[4], place[0] * 16]), place[1:4])
        return images, tf.one_hot(labels, self.classes) if self.task.CLASSES else labels, weight, draws

    def _validation_part(self, indices: tf.Tensor, place: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """A validation part: inputs (images as bytes), labels, weight."""
        return *self._part("validation", indices, place), weight

    def _part(self, split: str, indices: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dataset, indices = self.splits[split], indices[: place[3] - place[2]]
        return dataset.read(indices), tf.gather(dataset.labels, indices)

    def _iterator(self, batches: tf.data.Dataset) -> Any:
        """An iterator over the elements, one per device of this machine, each copied to its device in advance."""
        batches = batches.prefetch(tf.data.AUTOTUNE)
        devices = self.strategy.extended.worker_devices
        if len(devices) == 1 and "CPU" in devices[0] and self.settings.group.size == 1:
            return iter(batches)  # the same elements, and faster
        return iter(self.strategy.distribute_datasets_from_function(lambda _: batches))

    def _run_steps(self, batches: Any, count: tf.Tensor) -> tf.Tensor:
        """Takes `count` training steps and returns the sum of their losses."""
        total = tf.constant(0.0)
        for _ in tf.range(count):
            total += self.strategy.reduce("SUM", self.strategy.run(self._step, next(batches)), axis=None)
        return total

    def _step(self, images: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, draws: Sequence[tf.Tensor]) -> tf.Tensor:
        """One device's part of a training step; returns its share of the batch's mean loss."""
        world = self.settings.group.size
        images, labels = augment(_floats(images), labels, self.training.augment, draws)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.loss(labels, self.network(images, training=True))) * weight / world
            loss += sum(self.network.losses) / world
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _total_score(self, batches: Any, count: tf.Tensor) -> tf.Tensor:
        """The sum of the samples' scores in `count` batches."""
        total = tf.constant(0.0, tf.float64)
        for _ in tf.range(count):
            total += self.strategy.reduce("SUM", self.strategy.run(self._score_of_part, next(batches)), axis=None)
        return total

    def _score_of_part(self, images: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        scores = self.scores(labels, self.network(_floats(images), training=False))
        return tf.reduce_sum(tf.where(weight > 0, scores, tf.zeros_like(scores)))


def _save(path: Path, variables: Sequence[Any], facts: Mapping[str, Any]) -> None:
    with store.atomic(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {str(i): variable.numpy() for i, variable in enumerate(variables)}
        np.savez(file, facts=np.array(json.dumps(dict(facts))), **arrays)


def _load(path: Path, variables: Sequence[Any]) -> None:
    """Assigns the values that `_save` wrote."""
    with np.load(path, allow_pickle=False) as saved:
        for i, variable in enumerate(variables):
            variable.assign(saved[str(i)])


def _resume(folder: Path, key: str, variables: Sequence[Any]) -> dict[str, Any]:
    """Restores `variables` from the saved state of the same training and returns its facts; {} without such a state."""
    path = folder / "state.npz"
    if not path.is_file() or not (folder / "best.npz").is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            found: dict[str, Any] = json.loads(str(saved["facts"]))
        if found.pop("key") != key:
            return {}
        _load(path, variables)
    except Exception as error:
        raise Broken(f"cannot read {path} ({error}); start over with --no-resume") from error
    return found


def _exchange_name(path: str) -> str:
    """A variable's name in `Framework.unpack`, if PyTorch has such a variable, else Keras's own."""
    layer, leaf = path.split("/")[-2:]
    return f"{layer}.{_keras.LEAVES.get(leaf, leaf)}"


def device_facts(kind: str) -> dict[str, Any]:
    """Facts: the device, the training precision and, on a GPU, the peak memory of tensors."""
    facts: dict[str, Any] = {"device": device_name(kind), "precision": _tf_distribute.precision(kind)}
    if kind == "GPU":
        facts["peak_gpu_bytes"] = int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return facts


def device_name(kind: str) -> str:
    if kind == "CPU":
        return "cpu"
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return str(details.get("device_name", "gpu"))
