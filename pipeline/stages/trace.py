"""Trace: one picture, stage by stage, here and on a device: at which stage they first differ, and by how much.

A device that decodes pictures itself, as an app does, is compared in every stage. To the others go the pixels that were
made here, so that only the input tensor and the outputs can differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import devices, stats
from pipeline.core import Artifact, Checkpoint, Recipe, to_json
from pipeline.datasets import _images
from pipeline.devices import BoundDevice
from pipeline.errors import BadOption, StageFailed
from pipeline.stages import quantize, train
from pipeline.stages.export import export, raise_if_failed
from pipeline.stages.plan import Job, Plan
from pipeline.stages.push import Runnable, runnable
from pipeline.system import store
from pipeline.system.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOST = "local"
SECONDS = 600.0
STAGES = {"decoded": "decoded pixels", "resized": "resized, cropped", "input_0": "input tensor"}


@dataclass(frozen=True)
class Side:
    """What one side did.

    Attributes:
        name: for people: where, and by which runtime.
        arrays: decoded and resized (height, width, channels), input_0 and output_0, output_1, … (1, …).
    """

    name: str
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """A stage of both sides.

    Attributes:
        equal: share of values that are the same bits; None where the shapes differ.
        largest: absolute difference; in levels of 0–255 for pixels.
        snr_db: of the outputs.
        given: nobody made it there: it was sent.
    """

    stage: str
    here: tuple[int, ...]
    there: tuple[int, ...]
    equal: float | None
    largest: float | None
    snr_db: float | None = None
    given: bool = False


@dataclass(frozen=True)
class Trace:
    """An image traced through one artifact."""

    artifact: Artifact
    here: Side
    there: Side
    stages: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first stage in which the sides differ."""
        return next((stage for stage in self.stages if stage.equal != 1.0), None)


def trace(build: Store, plan: Plan, image: Path) -> list[Trace]:
    """Exports what is missing of a plan, then traces an image through every artifact that its one device runs.

    Raises:
        BadOption, BadData: the image cannot be read, or the device runs none of the artifacts.
        StageFailed: an export failed, or a side could not run the file.
    """
    (device,) = plan.devices
    read(image)  # refused before anything is made for it
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
    content = read(image)
    decoded, resized = _images.stages(content, str(image), checkpoint.spec.preprocessing)
    pixels = {"decoded": decoded, "resized": resized}
    import numpy as np

    with store.lock(build, f"trace on {device.name}"):
        work = build.root / f"{store.TEMPORARY}trace"
        store.remove(work)
        work.mkdir()
        try:
            np.save(work / "images.npy", resized[np.newaxis])
            copy = work / f"image{image.suffix}"
            copy.write_bytes(content)
            cell = _Cell(build, job, checkpoint, _recipe(plan, one.artifact), one, work, copy)
            host = devices.find(HOST)
            local = _run(replace(cell, one=replace(one, runtime=_host_runtime(plan, one, host))), host, pixels)
            there = local if device.name == HOST else _run(cell, device, pixels)
            here = _framework(cell, local, pixels) if device.device.kind == HOST else local
        finally:
            store.remove(work)
    return Trace(one.artifact, here, there, tuple(_differences(here, there, device.kind.DECODES)))


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
    said = json.loads(done.out)["runtime"]
    with np.load(out, allow_pickle=False) as kept:
        arrays = {**pixels, **{name: kept[name] for name in kept.files}}
    return Side(f"{said['name']} {said['version']} on {device.name}", arrays)


def _framework(cell: _Cell, local: Side, pixels: dict[str, Any]) -> Side:
    """The model's own framework: the float model, or the quantized graph that the file was made from."""
    import numpy as np

    checkpoint, recipe, framework = cell.checkpoint, cell.recipe, cell.job.framework.module
    graph = cell.build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name if recipe.static else None)
    if store.read(quantize.Graph, graph / quantize.MANIFEST) is None:
        raise StageFailed(f"{graph} holds no graph to compare with: run inv export --recipe {recipe.name}")
    outputs = framework.evaluate(graph, pixels["resized"][np.newaxis])
    version = checkpoint.tools.get(checkpoint.framework, "")
    what = "quantized graph" if recipe.static else "float model"
    arrays = {**pixels, "input_0": local.arrays["input_0"], "output_0": outputs}
    return Side(f"{checkpoint.framework} {version}, the {what}", arrays)


def _differences(here: Side, there: Side, decodes: bool) -> Iterator[Difference]:
    names = [*STAGES, *sorted(name for name in here.arrays if name.startswith("output_"))]
    for name in names:
        if name not in there.arrays:
            raise StageFailed(f"{there.name} kept no {name}")
        given = name in ("decoded", "resized") and not decodes
        yield _difference(name, here.arrays[name], there.arrays[name], given)


def _difference(name: str, here: NDArray[Any], there: NDArray[Any], given: bool) -> Difference:
    import numpy as np

    if here.shape != there.shape:
        return Difference(name, here.shape, there.shape, None, None)
    one, other = here.astype(np.float64), there.astype(np.float64)
    largest = float(np.abs(one - other).max(initial=0.0))
    equal = float(np.mean((here == there) | (np.isnan(one) & np.isnan(other))))
    outputs = name.startswith("output_")
    snr = stats.parity(name, [here], [there], [None]).snr_db if outputs else None
    return Difference(name, here.shape, there.shape, equal, largest, snr, given)


# -- for people --------------------------------------------------------------------------------------------------------


def table(found: Trace, labels: Sequence[str]) -> str:
    """A trace as text: where the sides first differ, then every stage, then what each answers."""
    rows = [("stage", "shape", "equal", "largest difference"), *map(_texts, found.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    artifact = found.artifact
    head = f"{artifact.model} ({artifact.framework}), {artifact.target} {artifact.recipe}"
    answers = [f"{side.name}: {_answer(side, labels)}" for side in (found.here, found.there)]
    return "\n".join([head, f"here {found.here.name}; there {found.there.name}", _verdict(found), *lines, *answers])


def _verdict(found: Trace) -> str:
    first = found.first
    if first is None:
        return "no difference: every stage is the same, bit for bit"
    name = STAGES.get(first.stage, first.stage)
    if first.equal is None:
        return f"they first differ in: {name}, whose shape is {_shape(first.here)} here and {_shape(first.there)} there"
    return f"they first differ in: {name}, in {1 - first.equal:.2%} of its values, by {first.largest:.3g} at most"


def _texts(stage: Difference) -> tuple[str, ...]:
    name = STAGES.get(stage.stage, stage.stage)
    if stage.equal is None:
        return name, f"{_shape(stage.here)}, there {_shape(stage.there)}", "–", "another shape"
    if stage.given:
        return name, _shape(stage.here), "–", "made here, and sent"
    snr = f" ({stage.snr_db:.1f} dB)" if stage.snr_db is not None and stage.equal < 1 else ""
    return name, _shape(stage.here), f"{stage.equal:.2%}", f"{stage.largest:.3g}{snr}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _answer(side: Side, labels: Sequence[str]) -> str:
    """The first output's best value, by its label."""
    import numpy as np

    row = np.asarray(side.arrays["output_0"]).reshape(-1)
    best = int(row.argmax())
    return f"{labels[best] if best < len(labels) else best} ({row[best]:.4g})"
