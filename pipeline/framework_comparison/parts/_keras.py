"""TensorFlow through Keras: training steps (eager, tf.function, XLA), and the messages that mistakes produce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from pipeline.framework_comparison.parts._clock import Clock, cleaned, noise
from pipeline.frameworks import _keras, _keras_tensorflow, _tf_distribute
from pipeline.sources import Model

Step = Callable[[tf.Tensor, tf.Tensor], float]


def device(model: Model, request: dict[str, Any]) -> str:
    """The device for an accelerator.

    Raises:
        BadOption: it is not available.
    """
    return _tf_distribute.device_type(request["accelerator"])


def steps(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """Times training steps on random inputs, with a new network for each way: eager, tf.function as Keras itself uses
    it ("compiled"), and tf.function with jit_compile ("xla").

    Returns:
        For each way the result of `Clock.times` and `graphs`, how often Python was traced; or {"reason": …}.
    """
    place = _tf_distribute.device_type(request["accelerator"])
    keras.config.set_dtype_policy(_tf_distribute.policy(place))
    found: dict[str, Any] = {"device": _keras_tensorflow.device_name(place)}
    clock = Clock(request)

    def batch(count: int) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = noise(model.spec, count)
        return tf.constant(images), tf.one_hot(labels, model.spec.classes)

    with tf.device(place):
        for way in ("eager", "compiled", "xla"):
            keras.utils.set_random_seed(0)
            inner = _step(model)
            step: Any = inner
            if way != "eager":
                step = tf.function(inner, reduce_retracing=True, jit_compile=way == "xla")

            def timed(images: tf.Tensor, labels: tf.Tensor, step: Any = step) -> float:
                return float(step(images, labels))

            try:
                found[way] = clock.times(timed, batch)
            except tf.errors.OpError as error:
                if way != "xla":
                    raise
                found[way] = {"reason": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
                continue
            found[way]["graphs"] = 0 if way == "eager" else step.experimental_get_tracing_count()
    return found


def _step(model: Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A training step like the training loop's, on a new network."""
    training = model.spec.training
    net = _keras_tensorflow.with_normalization(_keras.network(model), model.spec)
    optimizer = keras.optimizers.AdamW(training.lr, weight_decay=training.weight_decay, epsilon=1e-8)
    optimizer.build(net.trainable_variables)
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=training.label_smoothing)

    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = criterion(labels, net(images, training=True))
        optimizer.apply(tape.gradient(loss, net.trainable_variables))
        return loss

    return step


# -- mistakes ----------------------------------------------------------------------------------------------------------


def mistakes(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """The messages for a layer that expects one channel more than it gets ("shape"), for a layer whose output is the
    logarithm of negative numbers ("nan"), and for the latter with the framework's NaN check on ("nan, looked for").

    Returns:
        For each case and mode: `message`, empty if there is none; `layer`, the names by which a message may call the
        layer; `when` the error was raised.
    """
    _tf_distribute.device_type("cpu")  # as in _torch.py
    found: dict[str, Any] = {}
    for mode in request["modes"]:
        for case in ("shape", "nan", "nan, looked for"):
            keras.utils.set_random_seed(0)
            name = _second(_keras.network(model))
            if case == "nan, looked for":
                tf.debugging.enable_check_numerics()
            try:
                when, message = _provoked(model, name, case, mode == "compiled")
            finally:
                if case == "nan, looked for":
                    tf.debugging.disable_check_numerics()
            found[f"{case}, {mode}"] = {"message": cleaned(message), "layer": [name], "when": when}
    return found


def _provoked(model: Model, name: str, case: str, compiled: bool) -> tuple[str, str]:
    """When an error is raised, and its text; empty if there is none."""
    when = "while the network is built"
    images, labels = noise(model.spec, model.spec.training.batch_size)
    try:
        net = _broken(model, name, case)
        when = "in the first step"

        def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(labels, net(images, training=True), True)
            return tape.gradient(loss, net.trainable_variables)

        (tf.function(step) if compiled else step)(tf.constant(images), tf.constant(labels))
    except Exception as error:
        return when, f"{type(error).__name__}: {error}"
    return when, ""


def _second(net: keras.Model) -> str:
    """The name of the second layer that mixes channels."""
    layers = [layer.name for layer in net.layers if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D)]
    return str(layers[min(1, len(layers) - 1)])


def _broken(model: Model, name: str, case: str) -> keras.Model:
    """The network with the mistake in this layer."""

    def clone(layer: keras.Layer) -> keras.Layer:
        if layer.name != name:
            return layer.__class__.from_config(layer.get_config())
        if case == "shape":
            wrong = layer.__class__.from_config(layer.get_config())
            shape = layer.input.shape
            wrong.build((*shape[:-1], shape[-1] + 1))
            return wrong

        class Logarithm(layer.__class__):  # type: ignore[misc]
            """The layer, followed by the logarithm of a negative number."""

            def call(self, inputs: Any) -> Any:
                return keras.ops.log(-keras.ops.abs(super().call(inputs)) - 1)

        return Logarithm.from_config(layer.get_config())

    return keras.models.clone_model(_keras.network(model), clone_function=clone)
