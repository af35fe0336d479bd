"""Every model in models/: its spec matches its code, it runs, and a few training steps lower its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline import registry, sources, tasks
from pipeline.sources import Model
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")
SMALL = {"mobilenet_v3_small": "mobilenet_v3_small:classes=4,width=0.25"}
"""Smaller variants of models that are large by default."""


def find(name: str) -> Model:
    return sources.find(SMALL.get(name, name))


def kind_of(model: Model) -> str:
    """What its truth is; see `Truth`."""
    return tasks.of(model.spec).truth(model.spec).kind


def torch_losses(model: Model, steps: int) -> list[float]:
    """The losses on one batch before each training step on it."""
    import torch

    from pipeline.frameworks import _normalization, _torch_losses
    from pipeline.frameworks import torch as framework

    torch.manual_seed(0)
    net = framework.network(model).train()
    split = synthetic.split(model.spec, 16)
    inputs = _normalization.network_inputs(torch.from_numpy(split.inputs(range(16))))
    labels = torch.from_numpy(split.labels)
    loss_of = _torch_losses.of(
        replace(model.spec, training=replace(model.spec.training, label_smoothing=0)), split.labels
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        outputs = net(inputs)
        for found, tensor in zip(_normalization.tensors(outputs), model.spec.outputs, strict=True):
            assert found.shape == (16, *tensor.shape) and found.dtype == torch.float32
        loss = loss_of(outputs, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def keras_losses(model: Model, steps: int) -> list[float]:
    """As `torch_losses`, in Keras."""
    import keras
    import tensorflow as tf

    from pipeline.frameworks import _keras, _keras_losses, _keras_tensorflow

    keras.utils.set_random_seed(0)
    net = _keras_tensorflow.with_normalization(_keras.network(model), model.spec)
    split = synthetic.split(model.spec, 16)
    images = split.inputs(range(16))
    images = images.astype(np.float32) if images.dtype == np.uint8 else images
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind_of(model) in ("numbers", "boxes", "anomaly"):
        of_samples = _keras_losses.loss(model.spec, split.labels)
        loss = lambda labels, outputs: tf.reduce_mean(of_samples(labels, outputs))  # noqa: E731
    outputs, optimizer, losses = net(images), keras.optimizers.AdamW(1e-3), []
    for found, tensor in zip(keras.tree.flatten(outputs), model.spec.outputs, strict=True):
        assert found.shape == (16, *tensor.shape)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss(tf.constant(split.labels), net(images, training=True))
        optimizer.apply(tape.gradient(value, net.trainable_variables), net.trainable_variables)
        losses.append(float(value))
    return losses


LOSSES: dict[str, Callable[[Model, int], list[float]]] = {"torch": torch_losses, "keras": keras_losses}
BUILT = [(name, framework) for name in sources.names() for framework in find(name).frameworks if framework in LOSSES]


@pytest.mark.parametrize("name", sources.names())
def test_its_spec_names_an_existing_dataset_and_it_has_a_framework(name: str) -> None:
    model = find(name)
    assert model.spec.dataset in registry.names("datasets")
    assert model.frameworks
    assert model.spec.name.startswith(name)
    assert model.summary
    assert len(model.spec.labels) in (0, 2 if kind_of(model) == "anomaly" else model.spec.classes)


@pytest.mark.parametrize(("name", "framework"), BUILT)
def test_a_few_training_steps_lower_the_loss_from_chance_level(name: str, framework: str) -> None:
    model = find(name)
    losses = LOSSES[framework](model, 5 if model.spec.image and kind_of(model) != "boxes" else 15)
    assert np.isfinite(losses).all()
    if kind_of(model) == "boxes":
        assert losses[-1] < 0.9 * losses[0]
    elif kind_of(model) not in ("numbers", "anomaly"):
        assert losses[0] == pytest.approx(np.log(model.spec.classes), rel=0.5)
        assert losses[-1] < 0.9 * losses[0]
    else:
        assert losses[-1] < losses[0] < 5  # in units of the variance, which a sample of an anomaly detector has too
