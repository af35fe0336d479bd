"""Cache keys: hashes of everything that a result depends on. No framework is loaded.

What has another key is made again. What failed under another key may work now, so that failure is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline import registry
from pipeline.core import Artifact, Checkpoint, Device, Recipe, to_json
from pipeline.devices import BoundDevice
from pipeline.system import store
from pipeline.system.store import Store, digest

GRAPHS, FILES = "pipeline.stages.quantize", "pipeline.stages._export_process"
"""The modules that make graphs and files, and check them."""


def graph(checkpoint: Checkpoint, recipe: Recipe | None, training: Mapping[str, Any] | None = None) -> str:
    """Key of a captured graph: the float one (`recipe` None), or a static recipe's quantized one.

    Args:
        training: settings and data of a graph that was trained.
    """
    framework = registry.bind("frameworks", checkpoint.framework)
    return digest([
        checkpoint.weights_sha256, to_json(checkpoint.spec), checkpoint.dataset_sha256, to_json(recipe),
        checkpoint.facts.get("train_sha256") if recipe else None, registry.versions(framework.module.TOOLS),
        framework.source_hash, registry.code_hash(GRAPHS), training,
    ])  # fmt: skip


def artifact(build: Store, checkpoint: Checkpoint, recipe: Recipe, target: str) -> str:
    """Key of an exported file. A trained graph counts by its manifest, which has its settings and results."""
    found = registry.bind("targets", target)
    trained = build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name) / "graph.json"
    return digest([
        graph(checkpoint, recipe if recipe.static else None), to_json(recipe), registry.versions(found.module.TOOLS),
        found.source_hash, registry.code_hash(FILES),
        store.sha256(trained) if recipe.training == "qat" and trained.is_file() else None,
    ])  # fmt: skip


def run(build: Store, checkpoint: Checkpoint, file: Artifact, device: BoundDevice, runtime: str) -> str:
    """What a run of a file on a device depends on, as far as it is known without asking the device: the file, the
    samples, what measures, and the device's options. The key of a failure; a measurement's has more."""
    return digest([
        file.sha256, checkpoint.dataset_sha256, runtime, device.identity(build, runtime), to_json(decisive(device)),
    ])  # fmt: skip


def decisive(device: BoundDevice) -> Device:
    """The device with the options that change a figure. How it is reached and described does not."""
    others = {"chunk_samples", "summary", "targets", "runtimes", *device.kind.ROUTE}
    return replace(device.device, options={key: value for key, value in device.options.items() if key not in others})
