"""Trace: compare one image stage by stage on host and device: where do they first differ, and by how much?

A device that decodes images itself, as an app does, is compared at every stage. The others get the host's pixels, so
only the input tensor and the outputs can differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import devices
from pipeline.core import Artifact, Checkpoint, Recipe, to_json
from pipeline.datasets import _images
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, StageFailed
from pipeline.results import image_trace, predictions
from pipeline.results.image_trace import Side, Trace
from pipeline.stages import quantize, train
from pipeline.stages.export import export, raise_if_failed
from pipeline.stages.plan import Job, Plan
from pipeline.stages.push import Runnable, runnable
from pipeline.system import store
from pipeline.system.store import Store

HOST = "local"
SECONDS = 600.0


def trace(build: Store, plan: Plan, image: Path) -> list[Trace]:
    """Exports what is missing of a plan, then traces an image through every artifact that its one device runs.

    Raises:
        BadOption, BadData: the image cannot be read, or the device runs none of the artifacts.
        StageFailed: an export failed, or a side could not run the file.
    """
    if len(plan.devices) != 1:
        raise BadOption("inv trace compares this machine with one device: name one with --device")
    (device,) = plan.devices
    read(image)  # raises before anything is exported
    outcomes = export(build, plan)
    raise_if_failed(outcomes)
    pairs = [(job, one) for job in plan.jobs for one in runnable(plan, job, outcomes, device)]
    if not pairs:
        cells = ", ".join(f"{target.name} {recipe.name}" for target in plan.targets for recipe in plan.recipes)
        raise BadOption(f"{device.name} runs none of {cells}")
    return [_traced(build, plan, job, device, one, image) for job, one in pairs]


def _traced(build: Store, plan: Plan, job: Job, device: BoundDevice, one: Runnable, image: Path) -> Trace:
    checkpoint = train.ready(build, job)
    assert checkpoint is not None  # it was exported
    content, preprocessing = read(image), checkpoint.spec.image
    if preprocessing is None:
        raise BadOption(f"inv trace follows an image, and {checkpoint.spec.name} takes none")
    decoded, resized = _images.stages(content, str(image), preprocessing)
    pixels = {"decoded": decoded, "resized": resized}
    import numpy as np

    work = store.unfinished(build.root / "trace")
    work.mkdir()
    try:
        np.save(work / "images.npy", resized[np.newaxis])
        copy = work / f"image{image.suffix}"
        copy.write_bytes(content)
        cell = _Cell(build, job, checkpoint, _recipe(plan, one.artifact), one, work, copy)
        host = devices.find(HOST)
        local = _run(replace(cell, one=replace(one, runtime=_host_runtime(plan, one, host))), host, pixels)
        other = local if device.name == HOST else _run(cell, device, pixels)
        reference = _framework(cell, local, pixels) if device.device.kind == HOST else local
    finally:
        store.remove(work)
    stages = image_trace.differences(reference, other, device.kind.DECODES)
    return Trace(one.artifact, reference, other, tuple(stages))


def _recipe(plan: Plan, artifact: Artifact) -> Recipe:
    return next(recipe for recipe in plan.recipes if recipe.name == artifact.recipe)


def _host_runtime(plan: Plan, one: Runnable, host: BoundDevice) -> str:
    """The runtime of the host for the file; the device may run it with another one."""
    runtime = host.runtime(next(target for target in plan.targets if target.name == one.artifact.target))
    assert runtime is not None  # the device runs the target's files, and so does the host
    return runtime


def read(image: Path) -> bytes:
    """
    Raises:
        BadOption: there is no such file, or it may not be read.
    """
    try:
        return image.read_bytes()
    except OSError as error:
        raise BadOption(f"--image {image}: {error.strerror}") from error


@dataclass(frozen=True)
class _Cell:
    """The file that an image is traced through.

    Attributes:
        work: a temporary folder with images.npy: the image resized and cropped.
        image: a copy of the image file, for a device that decodes it.
    """

    build: Store
    job: Job
    checkpoint: Checkpoint
    recipe: Recipe
    one: Runnable
    work: Path
    image: Path


def _run(cell: _Cell, device: BoundDevice, pixels: dict[str, Any]) -> Side:
    """A device's side, by edge-bench; an app gets the image file and decodes it."""
    import numpy as np

    one, build = cell.one, cell.build
    out = cell.work / f"{device.name}.npz"
    common: list[str | Path] = ["--runtime", one.runtime, "--out", out]
    if one.artifact.inputs[0].layout:
        common += ["--layout", one.artifact.inputs[0].layout]
    if device.kind.DECODES:
        preprocessing = json.dumps(to_json(cell.checkpoint.spec.preprocessing))
        words: list[str | Path] = ["trace", one.path, "--image", cell.image, "--preprocessing", preprocessing, *common]
        sent = [one.path, cell.image]
    else:
        images = cell.work / "images.npy"
        words = ["predict", one.path, "--inputs", images, "--keep-input", *common]
        sent = [one.path, images]
    with device.exclusive(build):
        device.setup(build, one.runtime)
        device.push(build, sent)
        done = device.call(build, one.runtime, words, SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: {done.reason.removeprefix('edge-bench: ')}")
    runtime = done.result("runtime")["runtime"]
    with np.load(out, allow_pickle=False) as kept:
        arrays = {**pixels, **{name: kept[name] for name in kept.files}}
    return Side(f"{runtime['name']} {runtime['version']} on {device.name}", arrays)


def _framework(cell: _Cell, local: Side, pixels: dict[str, Any]) -> Side:
    """The model's own framework: the float model, or the quantized graph that the file was made from."""
    import numpy as np

    checkpoint, recipe, framework = cell.checkpoint, cell.recipe, cell.job.framework.module
    graph = cell.build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name if recipe.static else None)
    if store.read(quantize.Graph, graph / quantize.MANIFEST) is None:
        raise StageFailed(f"{graph} has no graph to compare with: run inv export --recipe {recipe.name}")
    outputs = framework.evaluate(graph, pixels["resized"][np.newaxis])
    version = checkpoint.tools.get(checkpoint.framework, "")
    what = "quantized graph" if recipe.static else "float model"
    arrays = {**pixels, "input_0": local.arrays["input_0"], **predictions.arrays(outputs)}
    return Side(f"{checkpoint.framework} {version}, the {what}", arrays)
