"""Quantize: a checkpoint becomes captured graphs: the float one, and for static recipes the calibrated int8 one.

All targets lower these same graphs, so int8 means the same numbers everywhere. Beside each graph lie evaluation
samples and the graph's own outputs for them, which every exported file is compared with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import registry, sources
from pipeline.core import SCHEMA, Calibration, Checkpoint, Recipe, to_json
from pipeline.errors import ParityFailed
from pipeline.system import store
from pipeline.system.progress import logged, say
from pipeline.system.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANIFEST = "graph.json"
REFERENCE = "reference.npz"
SAMPLES = 128
"""Evaluation samples that every exported file is compared on."""
LEAST_SNR_DB = 40.0
"""Between the captured graph and the framework, whose float arithmetic on a GPU has a 10-bit mantissa."""


@dataclass(frozen=True)
class Graph:
    """What is in a graphs folder.

    Attributes:
        files: content hashes by file name.
        step: the output's quantization step; None for the float graph.
    """

    files: Mapping[str, str]
    calibration: Calibration | None
    step: float | None
    seconds: float
    key: str
    tools: Mapping[str, str]
    schema: int = SCHEMA


def ready(build: Store, checkpoint: Checkpoint, recipe: Recipe | None) -> Graph | None:
    """The graph that is there, if it is of this checkpoint and whole. Loads no framework."""
    folder = _folder(build, checkpoint, recipe)
    graph = store.read_or_warn(Graph, folder / MANIFEST)
    if graph is None or graph.key != key(checkpoint, recipe):
        return None
    for name, expected in graph.files.items():
        if not (folder / name).is_file() or store.sha256(folder / name) != expected:
            say(f"{folder / name} is not what its manifest says; made anew")
            return None
    return graph


def quantize(build: Store, model: sources.Model, checkpoint: Checkpoint, recipe: Recipe | None) -> Graph:
    """The graph of a checkpoint: float (`recipe` None), or under a static recipe, calibrated on the training split."""
    graph = ready(build, checkpoint, recipe)
    if graph is not None:
        return graph
    import numpy as np

    from pipeline.stages.train import test_split

    started = time.perf_counter()
    framework = registry.load("frameworks", checkpoint.framework)
    test = test_split(checkpoint)
    samples = test.images(range(min(SAMPLES, len(test))))
    calibration = None
    final = _folder(build, checkpoint, recipe)
    final.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic(final) as folder, logged(final.with_name("graphs.log")):
        folder.mkdir()
        if recipe is None:
            weights = build.checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.weights
            framework.capture(model, weights, folder)
        else:
            training = test_split(checkpoint, "train")
            images = training.images(range(min(recipe.calibration, len(training))))
            calibration = Calibration(
                checkpoint.spec.dataset, "train", len(images), store.digest([training.sha256, len(images)])
            )
            captured = build.graphs(checkpoint.spec.name, checkpoint.framework)
            value_range = checkpoint.spec.inputs[0].value_range or (0.0, 255.0)
            framework.quantize(captured, value_range, images, folder)
        answers = framework.evaluate(folder, samples)
        if recipe is None:
            _check(build, checkpoint, answers)
        np.savez(folder / REFERENCE, samples=samples, output_0=answers)
        graph = Graph(
            files={path.name: store.sha256(path) for path in sorted(folder.iterdir())},
            calibration=calibration,
            step=framework.step(folder),
            seconds=time.perf_counter() - started,
            key=key(checkpoint, recipe),
            tools=registry.versions(framework.TOOLS),
        )
        store.write(folder / MANIFEST, graph)
    what = f"quantized ({recipe.name}, {calibration.samples} samples)" if recipe and calibration else "captured"
    say(f"{checkpoint.spec.name}: {what} in {graph.seconds:.1f} s")
    return graph


def _check(build: Store, checkpoint: Checkpoint, answers: NDArray[np.float32]) -> None:
    """Compares the captured graph's answers with what the framework itself answered when it evaluated the weights.

    Raises:
        ParityFailed: they are another model's.
    """
    from pipeline import stats
    from pipeline.results import predictions

    folder = build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    kept, _ = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
    parity = stats.parity("framework", [kept[0][: len(answers)]], [answers], [None])
    if parity.snr_db < LEAST_SNR_DB:
        raise ParityFailed(
            f"the captured graph does not answer as {checkpoint.framework} does: {parity.snr_db:.1f} dB where a right "
            f"one has {LEAST_SNR_DB:g} dB or more"
        )


def key(checkpoint: Checkpoint, recipe: Recipe | None) -> str:
    """Hash of all that decides what the graph is."""
    framework = registry.load("frameworks", checkpoint.framework)
    return store.digest([
        checkpoint.weights_sha256, to_json(checkpoint.spec), checkpoint.dataset_sha256, to_json(recipe), SAMPLES,
        registry.versions(framework.TOOLS), registry.source_hash("frameworks", checkpoint.framework),
    ])  # fmt: skip


def _folder(build: Store, checkpoint: Checkpoint, recipe: Recipe | None) -> Path:
    return build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name if recipe else None)
