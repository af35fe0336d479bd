"""The process that exports for one target, started by export.py: `python -m pipeline.stages._export_process REQUEST`.

Standard output has one JSON line per finished recipe. Everything that a converter or a model folder prints, from Python
or from native code, goes to the log beside the file, or to standard error.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import errors, registry
from pipeline.core import Artifact, Checkpoint, Failure, Recipe, from_json
from pipeline.errors import Broken, DiskFull, Unsupported
from pipeline.registry import Plugin
from pipeline.stages import export, train
from pipeline.stages import quantize as quantizing
from pipeline.stages._parity import check
from pipeline.stages.export import FAILURE, LOG, MANIFEST
from pipeline.stages.plan import Job
from pipeline.system import store
from pipeline.system.progress import claim_stdout, logged
from pipeline.system.store import Store
from pipeline.targets import Target

RARELY = 100_000, 20, 20
"""Thresholds of the garbage collector: importing converters makes a million objects that stay, and with Python's own
thresholds a fifth of the time is spent on searching them again and again."""

CHANGED = (
    "is not what the command that exports has just made: its files, the model's code or this project's code changed in "
    "the meantime, or another copy of the project was imported; run the command again"
)


def main(request: dict[str, Any]) -> None:
    """Works through one target's recipes, of one model in one or several frameworks, in the order of the request."""
    out = claim_stdout()
    registry.import_order()
    build, target = Store(Path(request["build"])), registry.bind("targets", request["target"])
    for work in request["work"]:
        job, recipe = Job.from_json(work["job"]), from_json(Recipe, work["recipe"])
        checkpoint = train.ready(build, job)
        if checkpoint is None:  # the parent process made it and holds the lock
            raise Broken(f"the checkpoint of {job.model.spec.name} {CHANGED}")
        cell = _Cell(build, job, checkpoint, recipe, target)
        try:
            event = cell.made()
        except DiskFull as error:
            event = {"disk_full": str(error)}
        print(json.dumps(event), file=out, flush=True)


@dataclass(frozen=True)
class _Cell:
    """One file to make."""

    build: Store
    job: Job
    checkpoint: Checkpoint
    recipe: Recipe
    target: Plugin[Target]

    @property
    def folder(self) -> Path:
        names = self.checkpoint.spec.name, self.job.framework.name, self.recipe.name, self.target.name
        return self.build.cell(*names)

    @property
    def key(self) -> str:
        return export.key(self.build, self.job, self.checkpoint, self.recipe, self.target)

    def made(self) -> dict[str, Any]:
        """Exports and checks; returns the event that the parent process prints."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with logged(self.folder / LOG):
                artifact = self._exported()
        except DiskFull:
            raise
        except Exception as error:  # a converter may raise anything, and the other cells must go on
            if isinstance(error, OSError) and store.is_full(error):
                raise store.full(self.folder / LOG) from error
            status = "unsupported" if isinstance(error, Unsupported) else "failed"
            reason = errors.reason(error)
            store.remove(self.folder / MANIFEST)
            store.write(self.folder / FAILURE, Failure(status, reason, LOG, self.key))
            return {"recipe": self.recipe.name, "status": status, "says": f"{status}: {reason}"}
        store.remove(self.folder / FAILURE)
        says = f"{artifact.size_bytes:,} bytes in {artifact.seconds:.1f} s, {export.checked(artifact)}"
        return {"recipe": self.recipe.name, "status": "ok", "says": says, "seconds": artifact.seconds}

    def _exported(self) -> Artifact:
        """Writes the file, checks it, then writes its manifest."""
        started = time.perf_counter()
        job, checkpoint, recipe, module = self.job, self.checkpoint, self.recipe, self.target.module
        model, name, framework = train.model_of(checkpoint, job), checkpoint.spec.name, job.framework.name
        captured = self.build.graphs(name, framework)
        quantized = self.build.graphs(name, framework, recipe.name) if recipe.static else None
        reason = module.supports(recipe, framework)
        if reason:
            raise Unsupported(reason)
        graph = quantizing.ready(self.build, job, checkpoint, recipe if recipe.static else None)
        if graph is None:  # the parent process made it and holds the lock
            raise Broken(f"the graph of {name} {CHANGED}")
        weights = self.build.checkpoint(name, framework) / checkpoint.weights
        path = self.folder / f"model{module.SUFFIX}"
        with store.atomic(path) as temporary:
            source = job.framework.module.source(model, weights, captured, quantized)
            made = module.export(source, checkpoint.spec, recipe, temporary)
        seconds = time.perf_counter() - started
        parity = None
        if module.UNCHECKED is None or hasattr(module, "predict"):
            parity = check(path, module, checkpoint.spec, recipe, quantized or captured)
        artifact = Artifact(
            model=name,
            framework=framework,
            recipe=recipe.name,
            target=self.target.name,
            file=path.name,
            sha256=store.sha256(path),
            size_bytes=store.size(path),
            inputs=made.inputs,
            outputs=made.outputs,
            quantized_by=made.quantized_by,
            calibration=graph.calibration,
            parity=parity,
            graph_parity=graph.parity if recipe.static else None,
            coverage=made.coverage,
            unchecked=module.UNCHECKED,
            notes=(*made.notes, *quantizing.notes(graph)),
            spec=checkpoint.spec,
            weights_sha256=checkpoint.weights_sha256,
            seconds=seconds,
            key=self.key,
            tools=registry.versions(module.TOOLS),
        )
        store.write(self.folder / MANIFEST, artifact)
        return artifact


if __name__ == "__main__":
    gc.set_threshold(*RARELY)
    try:
        main(json.loads(sys.argv[1]))
    except errors.Broken as error:
        sys.exit(str(error))
    # Tearing down converters takes a second or more. Everything is written and printed by now.
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(0)
