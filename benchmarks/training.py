"""Training throughput in each framework against a minimal hand-written loop in that framework: same network, optimizer,
augmentation and batch, with the images in memory.

    .venv/bin/python benchmarks/training.py [--model NAME] [--images N] [--rounds N]
    .venv/bin/python benchmarks/training.py --waiting [--framework NAME] [--model NAME] …

Our loop and the bare loop train in one process with alternating short epochs, and each goes first equally often. A
round's ratio compares two adjacent epochs, so other load on the machine slows both. The interval is that of the median
of the ratios, exact for any distribution (order statistics). Ratios of CPU time are reported too, for machines that
also do other work. The time after an epoch, for evaluation and for saving the state, is not included.
Bound: at least 0.9 of the bare loop's images per second.

--waiting: how long the device waits for data. Our loop is compared with itself on one batch that is already on the
device, so that its time is only the training step; the share of time spent waiting is 1 - time of one batch / our time.
A GPU is used if there is one. TensorFlow needs its own environment for it (docs/scaling.md), hence --framework.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _common
import numpy as np

from pipeline import sources
from pipeline.datasets import Split
from pipeline.frameworks import Group, Settings
from pipeline.sources import Model

BOUND = 0.9
Epoch = Callable[[int], object]
"""Trains on all images once; training is complete when it returns."""
Loops = tuple[Epoch, Epoch, Epoch, Callable[[], dict[str, Any]]]
"""Our loop, a bare loop, our loop with one batch on the device, and the device's facts after training."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--waiting", action="store_true", help="the share of time that the device waits for data")
    parser.add_argument("--framework", help="only this framework")
    parser.add_argument("--one", metavar="FRAMEWORK", help="used internally: measure one framework")
    options = parser.parse_args()
    model = sources.find(options.model)
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            ours, bare, same, facts = LOOPS[options.one](model, noise_images(model, options.images), Path(folder))
            taken = rounds(ours, same if options.waiting else bare, options.rounds)
            print(json.dumps({**taken, **facts()}))
        return 0
    frameworks = [options.framework] if options.framework else model.frameworks
    return waiting(options, frameworks) if options.waiting else throughput(options, model, frameworks)


def waiting(options: argparse.Namespace, frameworks: Sequence[str]) -> int:
    rows, kept = [], {}
    for framework in frameworks:
        taken = alone(framework)
        shares = [1 - same / ours for ours, same in taken["wall"]]
        speeds = [options.images / _common.median([each[i] for each in taken["wall"]]) for i in (0, 1)]
        found = _common.median(shares), *interval(shares)
        where = f"{taken['device']}, {taken['precision']}"
        rows.append([framework, where, *(f"{speed:.0f}" for speed in speeds), shown(found)])
        kept[framework] = {**taken, "share_waiting": found}
    head = ["framework", "device", "images per second", "with one batch", "share of time waiting [95 %]"]
    print(_common.table(head, rows))
    name = "_".join(["waiting", sources.find(options.model).spec.name, *frameworks[: len(frameworks) == 1]])
    _common.keep(name, {"images": options.images, "frameworks": kept})
    return 0


def throughput(options: argparse.Namespace, model: Model, frameworks: Sequence[str]) -> int:
    rows, kept, held = [], {}, []
    for framework in frameworks:
        taken = alone(framework)
        ratios = {clock: [bare / ours for ours, bare in taken[clock]] for clock in ("wall", "cpu")}
        speeds = [options.images / _common.median([each[i] for each in taken["wall"]]) for i in (0, 1)]
        found = {clock: (_common.median(values), *interval(values)) for clock, values in ratios.items()}
        rows.append([framework, *(f"{speed:.0f}" for speed in speeds), *map(shown, found.values())])
        kept[framework] = {"seconds": taken, "ratios": found}
        held.append(_common.verdict(f"{framework}: at least {BOUND} of the bare loop", found["wall"][0] >= BOUND))
    head = ["framework", "ours, images per second", "bare loop", "ratio [95 %]", "ratio of CPU time [95 %]"]
    print(_common.table(head, rows))
    _common.keep(f"training_{model.spec.name}", {"images": options.images, "frameworks": kept})
    return 0 if all(held) else 1


def alone(framework: str) -> Any:
    command = [sys.executable, *sys.argv, "--one", framework]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def shown(figure: tuple[float, float, float]) -> str:
    return f"{figure[0]:.2f} [{figure[1]:.2f}, {figure[2]:.2f}]"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median: the order statistics between which it lies by the binomial distribution."""
    ordered, count = sorted(values), len(values)
    low = 0
    while sum(math.comb(count, i) for i in range(low + 1)) / 2**count <= 0.025:
        low += 1
    low = max(0, low - 1)
    return ordered[low], ordered[-1 - low]


def rounds(ours: Epoch, bare: Epoch, count: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of (ours, bare) in each round, by clock, after one that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {"wall": [], "cpu": []}
    for number in range(count + 1):
        found = {}
        for epoch in (ours, bare) if number % 2 else (bare, ours):
            wall, cpu = time.perf_counter(), time.process_time()
            epoch(number)
            found[epoch] = time.perf_counter() - wall, time.process_time() - cpu
        if number:
            for i, clock in enumerate(("wall", "cpu")):
                taken[clock].append((found[ours][i], found[bare][i]))
    return taken


def noise_images(model: Model, count: int) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, *model.spec.inputs[0].shape), np.uint8)
    labels = np.arange(count, dtype=np.int64) % model.spec.classes
    return Split(labels, f"noise-{count}", lambda i: images[i])


def settings_of(model: Model) -> Settings:
    return Settings(1000, model.spec.training.batch_size, model.spec.training.lr, 0, "auto")


def in_torch(model: Model, split: Split, folder: Path) -> Loops:
    import torch

    from pipeline.frameworks import _torch_training
    from pipeline.frameworks import torch as framework

    training, settings = model.spec.training, settings_of(model)
    engine = _torch_training.fabric("auto", Group())
    engine.launch()
    shown_to = dict.fromkeys(("train", "validation"), _torch_training.SplitDataset(split, None))
    state = _torch_training.State(folder, "key")
    ours = _torch_training.make_loop(engine, framework.network(model), model, settings, shown_to, state)
    first = next(iter(ours.batches(0)))

    class Same(_torch_training._Loop):
        def batches(self, seed: int) -> Any:
            return itertools.repeat(first, self.steps)

    device = engine.device.type
    net = framework.network(model).to(device, memory_format=torch.channels_last)
    images = torch.from_numpy(split.inputs(range(len(split)))).permute(0, 3, 1, 2)
    labels = torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(net.parameters(), training.lr, weight_decay=training.weight_decay)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    draws = torch.Generator(device)

    def bare(_: int) -> float:
        net.train()
        for which in torch.randperm(len(split)).split(settings.batch_size):
            count = len(which)
            batch = images[which].to(device).float()
            batch, _ = _torch_training.augment(batch, labels, training.augment, draws, count, slice(0, count))
            with torch.autocast(device, torch.bfloat16, enabled=_torch_training.precision(device) == "bfloat16"):
                loss = criterion(net(batch.contiguous(memory_format=torch.channels_last)), labels[which].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return ours.epoch, bare, Same(**vars(ours)).epoch, lambda: _torch_training.device_facts(engine)


def in_keras(model: Model, split: Split, folder: Path) -> Loops:
    from pipeline.frameworks.keras import _on_tensorflow

    _on_tensorflow()
    import keras
    import tensorflow as tf

    from pipeline.frameworks import _keras, _keras_tensorflow, _tf_distribute

    training, settings = model.spec.training, settings_of(model)
    kind = _tf_distribute.device_type("auto")
    keras.config.set_dtype_policy(_tf_distribute.policy(kind))
    strategy = _tf_distribute.strategy(Group(), kind)
    shown_to = dict.fromkeys(("train", "validation"), _keras_tensorflow.SplitDataset(split, None))
    ours = _keras_tensorflow.Loop(strategy, model, settings, shown_to, folder, "key")
    first, same = next(ours._iterator(ours._parts_from(0).map(ours.training_part))), copy.copy(ours)

    class Same:
        def __next__(self) -> Any:
            return first

    same.training_batches = Same()

    net = _keras_tensorflow.with_normalization(_keras.network(model), model.spec)
    optimizer = keras.optimizers.AdamW(training.lr, weight_decay=training.weight_decay)
    optimizer.build(net.trainable_variables)
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=training.label_smoothing)
    images = tf.constant(split.inputs(range(len(split))))
    labels = tf.one_hot(split.labels, model.spec.classes)

    @tf.function(reduce_retracing=True)
    def step(which: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        count = tf.shape(which, tf.int64)[0]
        draws = _keras_tensorflow.draw_augmentations(
            training.augment, seed, tf.stack([count, tf.zeros_like(count), count])
        )
        batch, _ = _keras_tensorflow.augment(
            tf.cast(tf.gather(images, which), tf.float32), tf.gather(labels, which), training.augment, draws
        )
        with tf.GradientTape() as tape:
            loss = criterion(tf.gather(labels, which), net(batch, training=True))
        optimizer.apply(tape.gradient(loss, net.trainable_variables))
        return loss

    def bare(epoch: int) -> float:
        order = np.random.default_rng(epoch).permutation(len(split))
        for start in range(0, len(split), settings.batch_size):
            which = tf.constant(order[start : start + settings.batch_size])
            loss = step(which, tf.constant([epoch, start], tf.int64))
        return float(loss)

    return ours.epoch, bare, same.epoch, lambda: _keras_tensorflow.device_facts(kind)


LOOPS = {"torch": in_torch, "keras": in_keras}

if __name__ == "__main__":
    sys.exit(main())
