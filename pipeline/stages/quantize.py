"""Quantize: capture a checkpoint as a float graph, and for static recipes calibrate an int8 graph from it.

All targets lower the same graphs, so int8 means the same numbers everywhere. Each graph is stored with evaluation
samples and its own outputs for them; every exported file is compared with those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import registry, stats, tasks
from pipeline.core import (
    SCHEMA,
    BiasCorrection,
    Calibration,
    Checkpoint,
    Operation,
    Parity,
    Recipe,
    command_options,
)
from pipeline.errors import BadData, ParityFailed, StageFailed, Unsupported
from pipeline.results import keys, predictions
from pipeline.stages.plan import Job
from pipeline.stages.train import model_of, split_of
from pipeline.system import store
from pipeline.system.progress import logged, say
from pipeline.system.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.datasets import Split
    from pipeline.frameworks import Outputs

MANIFEST = "graph.json"
REFERENCE = "reference.npz"
INTEGERS = ("int8", "int4")
"""Weights that a static graph may have."""
SAMPLES = 128
"""Evaluation samples that parity is checked on."""
LEAST_SNR_DB, LEAST_SNR_DB_CPU = 40.0, 80.0
"""Between the captured graph and the framework; float arithmetic on a GPU may have a 10-bit mantissa (TF32)."""
LEAST_QUANTIZED_SNR_DB = 10.0
"""Between a quantized graph and the float graph, as for an int8 file. int8 leaves 20 to 45 dB; a graph that computes
something else has less than 5 dB."""
LEAST_QUANTIZED_AGREEMENT = 0.5
"""Share of samples on which a quantized graph must have the float graph's top-1. Outputs with a large common part may
have a good signal-to-noise ratio and yet another order."""
CHUNK = 512
LEAST_CALIBRATION = 8
MOST_SHARED = 0.01
"""Share of the calibration images that may be test images too: large datasets contain a few images twice."""
LOG = "graphs.log"


@dataclass(frozen=True)
class Graph:
    """The manifest of a graphs folder.

    Attributes:
        files: content hashes by file name.
        bias_correction: whether the biases of a static graph are corrected, and what that changes.
        steps: each output's quantization step; None for a float output.
        operations: of the float graph: its operators, which the exceptions of recipes are about.
        training: of a recipe that trains: settings, the data's hashes, and facts; see `Framework.train_quantized`.
        parity: the float graph compared with its framework, or a quantized graph with the float graph.
    """

    files: Mapping[str, str]
    calibration: Calibration | None
    parity: Parity
    steps: tuple[float | None, ...]
    seconds: float
    key: str
    tools: Mapping[str, str]
    training: Mapping[str, Any] | None = None
    operations: tuple[Operation, ...] = ()
    bias_correction: BiasCorrection | None = None
    schema: int = SCHEMA


def ready(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe | None) -> Graph | None:
    """The existing graph, if it belongs to this checkpoint and its files are intact. Loads no framework."""
    folder = _folder(build, checkpoint, recipe)
    graph = store.read_or_warn(Graph, folder / MANIFEST)
    if graph is None or graph.key != key(job, checkpoint, recipe, graph.training):
        return None
    for name, expected in graph.files.items():
        if not (folder / name).is_file() or store.sha256(folder / name) != expected:
            say(f"{folder / name} does not match its manifest: capturing again")
            return None
    return graph


def quantize(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe | None) -> Graph:
    """The graph of a checkpoint: float (`recipe` None), or under a static recipe, calibrated on the training split.

    Raises:
        ParityFailed: the graph's outputs differ too much from the framework's or the float graph's.
        StageFailed: the recipe trains its graph, which only `inv train` does.
        Unsupported: the recipe's activations are int8 and its weights are not.
        Exception: whatever the model's code, torch.export or the quantizer raises.
    """
    graph = ready(build, job, checkpoint, recipe)
    if graph is not None:
        return graph
    if recipe is not None and recipe.training == "qat":
        raise untrained(job, recipe)
    if recipe is not None and recipe.weights not in INTEGERS:
        raise Unsupported(f"no graph has {recipe.weights} weights with {recipe.activations} activations")
    started = time.perf_counter()
    framework = job.framework.module
    calibration = correction = None
    final = _folder(build, checkpoint, recipe)
    final.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic(final) as folder, logged(log(build, checkpoint, recipe)):
        folder.mkdir()
        if recipe is None:
            weights = build.checkpoint(checkpoint.spec.name, checkpoint.framework) / checkpoint.weights
            framework.capture(model_of(checkpoint, job), weights, folder)
        else:
            images, calibration = calibration_set(job, checkpoint, recipe)
            captured = build.graphs(checkpoint.spec.name, checkpoint.framework)
            correction = framework.quantize(captured, checkpoint.spec.input_range, images, folder, recipe)
        graph = Graph(
            **checked(build, job, checkpoint, recipe, folder),
            calibration=calibration,
            seconds=time.perf_counter() - started,
            key=key(job, checkpoint, recipe),
            tools=registry.versions(framework.TOOLS),
            operations=framework.operations(folder) if recipe is None else (),
            bias_correction=correction,
        )
        store.write(folder / MANIFEST, graph)
    what = f"quantized ({recipe.name}, {calibration.samples} samples)" if recipe and calibration else "captured"
    if correction is not None:
        before, after = correction.without_snr_db, correction.with_snr_db
        kept = "biases corrected" if correction.used else "biases not corrected"
        what += f", {kept} ({before:.1f} dB without, {after:.1f} dB with)"
    say(f"{checkpoint.spec.name}: {what} in {graph.seconds:.1f} s")
    return graph


def calibration_set(job: Job, checkpoint: Checkpoint, recipe: Recipe) -> tuple[NDArray[Any], Calibration]:
    """The images that a static recipe is calibrated on, the first of the training split, and their identity.

    Raises:
        BadData: see `_calibration_inputs`.
    """
    training = split_of(checkpoint, job, "train")
    images = _calibration_inputs(training, split_of(checkpoint, job), recipe)
    digest = store.digest([training.sha256, len(images)])
    return images, Calibration(checkpoint.spec.dataset, "train", len(images), digest)


def scores(job: Job, folder: Path, split: Split) -> NDArray[np.float64]:
    """The score of each sample of a split by the graph in `folder`; see `Task`. A chunk of inputs is in memory."""
    framework = job.framework.module
    chunks = (range(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK))
    batches = (framework.evaluate(folder, split.inputs(places)) for places in chunks)
    return tasks.scores(tasks.of(job.model.spec), batches, split.labels)


def checked(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe | None, folder: Path) -> dict[str, Any]:
    """Compares the graph in `folder` with what it was made from, and writes its reference samples.

    Raises:
        ParityFailed: its outputs differ too much.

    Returns:
        The graph's files, parity and steps, for its manifest.
    """
    import numpy as np

    framework, test = job.framework.module, split_of(checkpoint, job)
    samples = test.inputs(range(min(SAMPLES, len(test))))
    outputs = framework.evaluate(folder, samples)
    parity = _parity(build, checkpoint, recipe, outputs)
    np.savez(folder / REFERENCE, samples=samples, **predictions.arrays(outputs))
    files = {path.name: store.sha256(path) for path in sorted(folder.iterdir())}
    return {"files": files, "parity": parity, "steps": framework.steps(folder)}


def notes(graph: Graph) -> tuple[str, ...]:
    """What a user of a file should know about the training of its graph."""
    if graph.training is None:
        return ()
    best, epochs = graph.training["best_epoch"], graph.training["settings"]["epochs"]
    if best == 0:
        return (
            f"calibrated only: none of {graph.training['epoch']} epochs of training came closer to the float model",
        )
    return (f"trained with simulated quantization: epoch {best} of {epochs}",)


def untrained(job: Job, recipe: Recipe) -> StageFailed:
    """The error of a recipe whose graph is missing or out of date, and must be trained."""
    options = command_options(job.model.word, job.framework.name)
    return StageFailed(
        f"{job.model.spec.name} has no graph trained for {recipe.name} from these weights by this version: "
        f"inv train{options} --recipe {recipe.name}"
    )


def _calibration_inputs(training: Split, test: Split, recipe: Recipe) -> NDArray[Any]:
    """The first inputs of the training split.

    Raises:
        BadData: they tell nothing about the values to expect, or they are test samples too.
    """
    count = min(recipe.calibration, len(training))
    if count < LEAST_CALIBRATION:
        raise BadData(
            f"{count} samples cannot calibrate {recipe.name}: it needs at least {LEAST_CALIBRATION} training samples"
        )
    known = set(test.contents)
    shared = sum(content in known for content in training.contents[:count])
    if shared > MOST_SHARED * count:
        raise BadData(
            f"{shared} of the {count} samples that calibrate {recipe.name} are test samples too: the accuracy in int8 "
            "would be too high; give the test split its own samples"
        )
    inputs = training.inputs(range(count))
    if (inputs == inputs[:1]).all():
        raise BadData(f"the {count} samples that calibrate {recipe.name} are all equal: they give no range of values")
    return inputs


def _parity(build: Store, checkpoint: Checkpoint, recipe: Recipe | None, outputs: Outputs) -> Parity:
    """Compares a graph's outputs: those of the float graph with the framework's from when it evaluated the weights,
    those of a quantized graph with the float graph's.

    Raises:
        ParityFailed: they differ too much.
    """
    import numpy as np

    classes = tasks.of(checkpoint.spec).CLASSES
    if recipe is None:
        folder = build.checkpoint(checkpoint.spec.name, checkpoint.framework)
        kept, _ = predictions.read(folder, checkpoint.predictions, checkpoint.predictions_sha256)
        first = [each[: len(outputs[0])] for each in kept]
        parity = stats.parity("framework", first, outputs, [None] * len(outputs), classes)
        least = LEAST_SNR_DB_CPU if checkpoint.facts.get("device") == "cpu" else LEAST_SNR_DB
        if parity.snr_db < least:
            raise ParityFailed(
                f"the captured graph's outputs differ from {checkpoint.framework}'s: {parity.snr_db:.1f} dB, and a "
                f"correct graph has at least {least:g} dB"
            )
        return parity
    with np.load(_folder(build, checkpoint, None) / REFERENCE, allow_pickle=False) as reference:
        kept = predictions.of(reference)
        parity = stats.parity("float model", kept, outputs, [None] * len(outputs), classes)
    disagrees = parity.top1_agreement is not None and parity.top1_agreement < LEAST_QUANTIZED_AGREEMENT
    if parity.snr_db < LEAST_QUANTIZED_SNR_DB or disagrees:
        needed = f"{LEAST_QUANTIZED_SNR_DB:g} dB" + (f" and {LEAST_QUANTIZED_AGREEMENT:.0%}" if classes else "")
        agreement = tasks.agreement(checkpoint.spec, parity.top1_agreement)
        raise ParityFailed(
            f"the quantized graph's outputs differ from the float model's: {parity.snr_db:.1f} dB{agreement}, and a "
            f"usable graph has at least {needed}; likely causes: calibration samples unlike the test samples, or a "
            "layer with a few values far outside the others' range"
        )
    return parity


def log(build: Store, checkpoint: Checkpoint, recipe: Recipe | None) -> Path:
    """The log of a graph, beside its folder."""
    return _folder(build, checkpoint, recipe).with_name(LOG)


def key(job: Job, checkpoint: Checkpoint, recipe: Recipe | None, training: Mapping[str, Any] | None = None) -> str:
    """See `keys.graph`. Of a graph's training, the settings and the data decide what it is."""
    decided = {name: training[name] for name in ("settings", "data")} if training else None
    return keys.graph(checkpoint, recipe, decided)


def _folder(build: Store, checkpoint: Checkpoint, recipe: Recipe | None) -> Path:
    return build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name if recipe else None)
