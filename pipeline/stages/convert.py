"""Convert: a checkpoint of one framework becomes the same network's checkpoint in another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline import registry, sources
from pipeline.core import Checkpoint
from pipeline.errors import BadOption
from pipeline.stages import train
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store


def convert(build: Store, job: train.Job, to: str) -> Checkpoint:
    """The checkpoint of `job`, made first where it is not there, with its weights in the model's twin in `to`.

    Raises:
        BadOption: both are one framework.
        BadModel: the model has no twin there, or the twins differ.
        MissingExtra: one of the frameworks is not installed; nothing is trained then.
    """
    refuse_same(job.framework, to)
    target = replace(job, framework=to)
    there = train.ready(build, target)
    for name in (job.framework, to):
        registry.require(registry.load("frameworks", name).PACKAGES)
    origin = train.train(build, job)
    if there is not None and there.facts.get("converted_sha256") == origin.weights_sha256:
        return there

    def exchanged(model: sources.Model, _: train.Job, home: Path, __: Path | None) -> train.New:
        old, new = registry.load("frameworks", job.framework), registry.load("frameworks", to)
        path = home / f"{store.TEMPORARY}converted" / new.WEIGHTS
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            weights = build.checkpoint(origin.spec.name, job.framework) / origin.weights
            new.pack(model, old.unpack(model, weights), path)
        except BaseException:
            store.remove(path.parent)
            raise
        key = store.digest([model.source(to), origin.weights_sha256])
        return train.New(path, f"converted from {job.framework}", {"converted_sha256": origin.weights_sha256}, key)

    made = train.make(build, replace(target, data=Path(origin.data) if origin.data else None), exchanged)
    say(f"{origin.spec.name}: {job.framework} {origin.accuracy:.2%}, {to} {made.accuracy:.2%} on the same pictures")
    return made


def refuse_same(one: str, other: str) -> None:
    """
    Raises:
        BadOption: both are one framework.
    """
    if one == other:
        raise BadOption(f"--from and --to are both {one}: name two of {', '.join(registry.names('frameworks'))}")
