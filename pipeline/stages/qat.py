"""Quantization-aware training: the graph of a recipe with training "qat", trained from a checkpoint's float graph.

The result is a static graph like that of any other int8 recipe, so export, bench and report treat it as one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline import registry, tasks
from pipeline.core import Checkpoint, Recipe
from pipeline.errors import BadOption, PipelineError, StageFailed, Unsupported
from pipeline.frameworks import QuantizedTraining, Settings
from pipeline.recipes import _exceptions
from pipeline.stages import quantize, train
from pipeline.stages.plan import Job, Plan, TrainingOptions
from pipeline.stages.quantize import Graph
from pipeline.system import store
from pipeline.system.progress import logged, say
from pipeline.system.store import Store

SHARE = 10
"""By default, training has a tenth of the float training's epochs and learning rate. Source of the epochs: Wu et al.,
"Integer Quantization for Deep Learning Inference" (2020), section 5; their learning rate of a hundredth is for SGD with
labels."""


@dataclass(frozen=True)
class Trained:
    """The graph of a recipe, trained from a checkpoint."""

    checkpoint: Checkpoint
    recipe: Recipe
    graph: Graph


def train_quantized(build: Store, plan: Plan) -> list[Trained]:
    """Trains the graph of every recipe of the plan, from the checkpoint of every framework, where it is missing or not
    what the plan asks for. The plan's training options are those of this training; a missing checkpoint is trained with
    the model's own. A recipe or framework that fails does not stop the others.

    Raises:
        BadOption: a recipe is not trained, or several devices are to train.
        Unsupported: the weights of a recipe are not integers.
        StageFailed: a training failed.
    """
    return list(trainings(build, plan))


def trainings(build: Store, plan: Plan) -> Iterator[Trained]:
    """As `train_quantized`, but yields each graph as soon as it exists."""
    check(plan)
    failed: dict[str, PipelineError] = {}
    several = len(plan.jobs) * len(plan.recipes) > 1
    for single, job in ((replace(plan, frameworks=(job.framework,)), job) for job in plan.jobs):
        for recipe in plan.recipes:
            try:
                (checkpoint,) = train.train(build, replace(single, training=_of_checkpoint(plan.training)))
                with store.lock(build, f"training of {plan.model.spec.name}"):
                    graph = ensure(build, job, checkpoint, recipe)
            except train.OWN_FAILURES as error:
                if not several:
                    raise
                failed[f"{job.framework.name} {recipe.name}"] = error
                say(f"{job.framework.name} {recipe.name}: failed: {error}")
                continue
            yield Trained(checkpoint, recipe, graph)
    if failed:
        raise StageFailed("; ".join(f"{name}: {error}" for name, error in failed.items()))


def line(build: Store, trained: Trained) -> str:
    """A trained graph for the terminal."""
    checkpoint, facts = trained.checkpoint, trained.graph.training
    assert facts is not None
    folder = build.graphs(checkpoint.spec.name, checkpoint.framework, trained.recipe.name)
    metric = tasks.of(checkpoint.spec).TITLE
    return (
        f"{folder}: {facts['accuracy']:.2%} {metric} on {facts['samples']} samples (float {checkpoint.accuracy:.2%}); "
        f"validation outputs {facts['snr_db'][facts['best_epoch']]:.1f} dB, {facts['snr_db'][0]:.1f} dB before training"
    )


def check(plan: Plan) -> None:
    """
    Raises:
        BadOption, Unsupported: see `train_quantized`.
    """
    for recipe in plan.recipes:
        if recipe.training != "qat":
            known = [r.RECIPE for r in registry.load_all("recipes")[0].values()]
            names = ", ".join(each.name for each in known if each.training == "qat")
            raise BadOption(f"--recipe {recipe.name}: nothing is trained for this recipe; those that train: {names}")
        if recipe.weights not in quantize.INTEGERS:
            raise Unsupported(f"{recipe.name}: no graph is trained with {recipe.weights} weights")
    for job in plan.jobs:
        if settings(job).group.size > 1:
            raise BadOption("quantization-aware training runs on one device: omit --devices and --num-nodes")


def ensure(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe) -> Graph:
    """The recipe's graph: the existing one, if it has this job's options and its data have not changed, else trained
    now. The caller holds the lock."""
    chosen = settings(job)
    graph = quantize.ready(build, job, checkpoint, recipe)
    splits = {name: train.split_of(checkpoint, job, name) for name in ("train", "validation")}
    train.require_images(splits, str(checkpoint.data or checkpoint.spec.dataset))
    data = {name: split.sha256 for name, split in splits.items()}
    if graph is not None and graph.training is not None:
        asked = {name: getattr(job.training, name) for name in ("epochs", "batch_size", "lr", "seed")}
        used = graph.training["settings"]
        if graph.training["data"] == data and all(
            used[name] == value for name, value in asked.items() if value is not None
        ):
            return graph
    _exceptions.check(recipe, quantize.quantize(build, job, checkpoint, None).operations)
    images, calibration = quantize.calibration_set(job, checkpoint, recipe)
    started = time.perf_counter()
    name, framework = checkpoint.spec.name, job.framework
    decided: dict[str, Any] = {"settings": train.decisive(chosen), "data": data}
    key = quantize.key(job, checkpoint, recipe, decided)
    home = build.home(name, framework.name)
    say(f"training {name} ({framework.name}) for {recipe.name} on {len(splits['train'])} samples")
    final = build.graphs(name, framework.name, recipe.name)
    final.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic(final) as folder:
        folder.mkdir()
        task = QuantizedTraining(recipe, build.graphs(name, framework.name), images, folder, home, key)
        with train.contained(name, framework.name, f"training for {recipe.name}"):
            facts = framework.module.train_quantized(train.model_of(checkpoint, job), splits, chosen, task)
        with logged(quantize.log(build, checkpoint, recipe)):
            test = train.split_of(checkpoint, job)
            facts |= {"accuracy": float(quantize.scores(job, folder, test).mean()), "samples": len(test)}
            graph = Graph(
                **quantize.checked(build, job, checkpoint, recipe, folder),
                calibration=calibration,
                seconds=time.perf_counter() - started,
                key=key,
                tools=registry.versions(framework.module.TOOLS),
                training={**decided, **facts},
            )
            store.write(folder / quantize.MANIFEST, graph)
    store.remove(final.parent / "training")
    if facts["stopped"]:
        say(f"{name} {recipe.name}: {facts['stopped']}")
    elif facts["best_epoch"] == 0:
        say(f"{name} {recipe.name}: no epoch came closer to the float model; the calibrated graph is kept")
    return graph


def settings(job: Job) -> Settings:
    """The job's options, with a share of the model's defaults for those not given.

    Raises:
        BadOption: a value is out of range.
    """
    default = job.model.spec.training
    spec = replace(
        job.model.spec,
        training=replace(default, epochs=max(1, round(default.epochs / SHARE)), lr=default.lr / SHARE),
    )
    return train.settings(replace(job, model=replace(job.model, spec=spec), weights=None))


def _of_checkpoint(options: TrainingOptions) -> TrainingOptions:
    return TrainingOptions(accelerator=options.accelerator)
