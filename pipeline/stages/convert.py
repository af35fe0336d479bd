"""Convert: carry a checkpoint's weights into the same network in another framework."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline import registry, sources
from pipeline.core import Checkpoint
from pipeline.errors import BadOption
from pipeline.frameworks import Framework
from pipeline.registry import Plugin
from pipeline.stages import train
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store


def convert(build: Store, plan: Plan, to: Plugin[Framework]) -> Checkpoint:
    """Converts the checkpoint of a plan with one framework to framework `to`. A missing checkpoint is trained first.

    Raises:
        BadOption: both frameworks are the same.
        BadModel: the model is not written in `to`, or its layers differ in `to`.
        MissingExtra: one of the frameworks is not installed; nothing is trained then.
    """
    (job,) = plan.jobs
    old, new = job.framework, to
    if old.name == new.name:
        known = ", ".join(registry.names("frameworks"))
        raise BadOption(f"--from and --to are both {old.name}: name two of {known}")
    job.model.file(new.name)  # raises if the model is not written in it
    target = replace(job, framework=new)
    existing = train.ready(build, target)
    for framework in (old, new):
        registry.require(framework.module.PACKAGES)
    with store.lock(build, f"conversion of {job.model.spec.name}"):
        origin = train.ensure(build, job)
        if existing is not None and existing.facts.get("converted_sha256") == origin.weights_sha256:
            return existing

        def exchanged(model: sources.Model, _: Job, home: Path, __: Path | None) -> train.New:
            path = home / f"{store.TEMPORARY}converted" / new.module.WEIGHTS
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                weights = build.checkpoint(origin.spec.name, old.name) / origin.weights
                with train.contained(model.spec.name, old.name, f"converting to {new.name}"):
                    new.module.pack(model, old.module.unpack(model, weights), path)
            except BaseException:
                store.remove(path.parent)
                raise
            key = store.digest([model.source(new.name), origin.weights_sha256])
            facts = {"converted_sha256": origin.weights_sha256}
            return train.New(path, f"converted from {old.name}", facts, key)

        data = Path(origin.data) if origin.data else None
        made = train.make(build, replace(target, data=data), exchanged)
    say(f"{origin.spec.name}: {old.name} {origin.accuracy:.2%}, {new.name} {made.accuracy:.2%} on the same images")
    return made
