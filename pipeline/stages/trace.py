"""Trace: one picture, stage by stage, here and on a device: at which stage they first differ, and by how much.

A device that decodes pictures itself, as an app does, is compared in every stage. To the others go the pixels that were
made here, so that only the input tensor and the outputs can differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import devices, registry, stats
from pipeline.core import Artifact, Checkpoint, Device, to_json
from pipeline.datasets import _images
from pipeline.errors import BadOption, StageFailed
from pipeline.stages import quantize, train
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
    """A picture's way through one artifact."""

    artifact: Artifact
    here: Side
    there: Side
    stages: tuple[Difference, ...]

    @property
    def first(self) -> Difference | None:
        """The first stage in which the sides differ."""
        return next((stage for stage in self.stages if stage.equal != 1.0), None)


def trace(build: Store, job: train.Job, device: Device, artifact: Artifact, path: Path, picture: Path) -> Trace:
    """Traces a picture through an artifact.

    Raises:
        BadOption, BadData: the picture cannot be read.
        StageFailed: a side could not run it.
    """
    checkpoint = train.ready(build, job)
    assert checkpoint is not None  # what was exported has one
    content = read(picture)
    decoded, resized = _images.stages(content, str(picture), checkpoint.spec.preprocessing)
    pixels = {"decoded": decoded, "resized": resized}
    import numpy as np

    with store.lock(build, f"trace on {device.name}"):
        work = build.root / f"{store.TEMPORARY}trace"
        store.remove(work)
        work.mkdir()
        try:
            np.save(work / "images.npy", resized[np.newaxis])
            copy = work / f"picture{picture.suffix}"
            copy.write_bytes(content)
            place = _Place(build, checkpoint, artifact, path, work, copy)
            local = _run(place, devices.find(HOST), pixels)
            there = local if device.name == HOST else _run(place, device, pixels)
            here = _framework(place, local, pixels) if device.kind == HOST else local
        finally:
            store.remove(work)
    decodes = registry.load("devices", device.kind).DECODES
    return Trace(artifact, here, there, tuple(_differences(here, there, decodes)))


def read(picture: Path) -> bytes:
    """
    Raises:
        BadOption: there is no such file, or it may not be read.
    """
    try:
        return picture.read_bytes()
    except OSError as error:
        raise BadOption(f"--image {picture}: {error.strerror}") from error


@dataclass(frozen=True)
class _Place:
    """What is traced.

    Attributes:
        work: a folder for a while, with images.npy: the picture resized and cropped.
        picture: the file, for a device that decodes it.
    """

    build: Store
    checkpoint: Checkpoint
    artifact: Artifact
    path: Path
    work: Path
    picture: Path


def _run(place: _Place, device: Device, pixels: dict[str, Any]) -> Side:
    """A device's side: edge-bench there, or the app, which gets the picture's file."""
    import numpy as np

    kind = registry.load("devices", device.kind)
    runtime = devices.runtime(device, place.artifact.target)
    assert runtime is not None  # the caller asked whether the device can run it
    out = place.work / f"{device.name}.npz"
    common: list[str | Path] = ["--runtime", runtime, "--out", out]
    if place.artifact.inputs[0].layout:
        common += ["--layout", place.artifact.inputs[0].layout]
    if kind.DECODES:
        told = json.dumps(to_json(place.checkpoint.spec.preprocessing))
        words: list[str | Path] = ["trace", place.path, "--image", place.picture, "--preprocessing", told, *common]
        sent = [place.path, place.picture]
    else:
        images = place.work / "images.npy"
        words = ["predict", place.path, "--inputs", images, "--keep-input", *common]
        sent = [place.path, images]
    with kind.exclusive(place.build, device):
        kind.setup(place.build, device, runtime)
        kind.push(place.build, device, sent)
        done = kind.call(place.build, device, runtime, words, SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: {done.reason.removeprefix('edge-bench: ')}")
    said = json.loads(done.out)["runtime"]
    with np.load(out, allow_pickle=False) as kept:
        arrays = {**pixels, **{name: kept[name] for name in kept.files}}
    return Side(f"{said['name']} {said['version']} on {device.name}", arrays)


def _framework(place: _Place, local: Side, pixels: dict[str, Any]) -> Side:
    """The model's own framework: the float model, or the quantized graph that the file was made from."""
    import numpy as np

    checkpoint, artifact = place.checkpoint, place.artifact
    framework = registry.load("frameworks", checkpoint.framework)
    recipe = registry.load("recipes", artifact.recipe).RECIPE
    graph = place.build.graphs(checkpoint.spec.name, checkpoint.framework, recipe.name if recipe.static else None)
    if store.read(quantize.Graph, graph / quantize.MANIFEST) is None:
        raise StageFailed(f"{graph} holds no graph to compare with; inv export --recipe {recipe.name} makes it")
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
