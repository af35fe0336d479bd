"""Training's throughput in each framework, against a minimal hand-written loop in that framework: same network,
optimizer, augmentation and batch, the pictures in memory.

    .venv/bin/python benchmarks/training.py [--model NAME] [--pictures N] [--rounds N]

Ours evaluates on the validation split and keeps its whole state after every epoch besides, and that time counts. Each
run is a process of its own; ours and the bare loop take turns. Bound: at least 0.9 of the bare loop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _common
import numpy as np

from pipeline import catalog, plugins
from pipeline.catalog import Model
from pipeline.datasets import Split
from pipeline.frameworks import Settings

EPOCHS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--pictures", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", metavar="FRAMEWORK:HOW", help="be one of the processes")
    options = parser.parse_args()
    model = catalog.find(options.model)
    if options.one:
        framework, how = options.one.split(":")
        print(json.dumps(RATES[how, framework](model, pictures(model, options.pictures))))
        return 0
    rows, kept, ratios = [], {}, {}
    for framework in model.frameworks:
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(options.rounds):
            for how, found in rates.items():
                found.append(alone(framework, how))
        ratio = _common.median([ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)])
        kept[framework], ratios[framework] = rates, ratio
        rows.append([framework, *(f"{_common.median(rates[how]):.0f}" for how in rates), f"{ratio:.2f}"])
    print(_common.table(["framework", "ours, pictures a second", "bare loop", "ratio (median)"], rows))
    held = [_common.verdict(f"{name}: at least 0.9 of the bare loop", ratio >= 0.9) for name, ratio in ratios.items()]
    _common.keep(f"training_{model.spec.name}", {"pictures": options.pictures, "rates": kept, "ratios": ratios})
    return 0 if all(held) else 1


def alone(framework: str, how: str) -> float:
    done = subprocess.run(
        [sys.executable, *sys.argv, "--one", f"{framework}:{how}"], check=True, capture_output=True, text=True
    )
    rate = float(json.loads(done.stdout.splitlines()[-1]))
    print(f"{framework} {how}: {rate:.0f} pictures a second", file=sys.stderr)
    return rate


def pictures(model: Model, count: int) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, *model.spec.inputs[0].shape), np.uint8)
    labels = np.arange(count, dtype=np.int64) % model.spec.classes
    return Split(labels, f"noise-{count}", lambda i: images[i])


def ours(framework: str, model: Model, split: Split) -> float:
    settings = Settings(EPOCHS, model.spec.training.batch_size, model.spec.training.lr, 0, "auto")
    with tempfile.TemporaryDirectory() as folder:
        data = {"train": split, "validation": pictures(model, 512)}
        facts = plugins.load("frameworks", framework).train(model, data, settings, Path(folder), "key")
    return float(facts["samples_per_second"])


def bare_torch(model: Model, split: Split) -> float:
    import torch

    from pipeline.frameworks import _fit
    from pipeline.frameworks import torch as framework

    training, size = model.spec.training, model.spec.training.batch_size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = framework.network(model).to(device, memory_format=torch.channels_last)
    images = torch.from_numpy(split.images(range(len(split)))).permute(0, 3, 1, 2)
    labels = torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(net.parameters(), training.lr, weight_decay=training.weight_decay)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=training.label_smoothing)
    started = time.perf_counter()
    for _ in range(EPOCHS):
        for which in torch.randperm(len(split)).split(size):
            batch = _fit.augmented(images[which].to(device).float(), training.augment)
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = criterion(net(batch.contiguous(memory_format=torch.channels_last)), labels[which].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    float(loss)
    return EPOCHS * len(split) / (time.perf_counter() - started)


def bare_keras(model: Model, split: Split) -> float:
    from pipeline.frameworks.keras import _on_tensorflow

    _on_tensorflow()
    import keras
    import tensorflow as tf

    from pipeline.frameworks import _keras, _keras_fit

    training, size = model.spec.training, model.spec.training.batch_size
    if tf.config.list_physical_devices("GPU"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    net = _keras_fit.deployable(_keras.network(model), model.spec.preprocessing)
    optimizer = keras.optimizers.AdamW(training.lr, weight_decay=training.weight_decay)
    optimizer.build(net.trainable_variables)
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=training.label_smoothing)
    images = tf.constant(split.images(range(len(split))))
    labels = tf.one_hot(split.labels, model.spec.classes)

    @tf.function(reduce_retracing=True)
    def step(which: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        batch = tf.cast(_keras_fit.augmented(tf.gather(images, which), training.augment, seed), tf.float32)
        with tf.GradientTape() as tape:
            loss = criterion(tf.gather(labels, which), net(batch, training=True))
        optimizer.apply(tape.gradient(loss, net.trainable_variables))
        return loss

    started = time.perf_counter()
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(split))
        for start in range(0, len(split), size):
            loss = step(tf.constant(order[start : start + size]), tf.constant([epoch, start], tf.int64))
    float(loss)
    return EPOCHS * len(split) / (time.perf_counter() - started)


RATES = {
    ("ours", "torch"): lambda model, split: ours("torch", model, split),
    ("ours", "keras"): lambda model, split: ours("keras", model, split),
    ("bare", "torch"): bare_torch,
    ("bare", "keras"): bare_keras,
}

if __name__ == "__main__":
    sys.exit(main())
