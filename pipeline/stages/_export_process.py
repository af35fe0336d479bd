"""The process that exports for one target, started by export.py: `python -m pipeline.stages._export_process REQUEST`.

Standard output carries one JSON line a finished recipe. Whatever a converter prints, in Python or below it, goes to
the log beside the file it makes.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, cast

from pipeline import registry
from pipeline.core import Artifact, Checkpoint, Failure, Recipe
from pipeline.errors import DiskFull, PipelineError, Unsupported
from pipeline.sources import Model
from pipeline.stages import quantize as quantizing
from pipeline.stages import train
from pipeline.stages._parity import check
from pipeline.stages.export import FAILURE, LOG, MANIFEST, checked, key, recipes
from pipeline.system import store
from pipeline.system.progress import logged
from pipeline.system.store import Store
from pipeline.targets import Target


def main(request: dict[str, Any]) -> None:
    """Works through one target's recipes, of one model in one or several frameworks, in the order of the request."""
    registry.import_order()
    for fields, name in request["work"]:
        build, job = train.planned(fields)
        checkpoint = train.ready(build, job)
        assert checkpoint is not None  # the caller made it and holds the lock
        model = train.model_of(checkpoint, job)
        (recipe,) = recipes([name])
        try:
            event = _one(build, model, checkpoint, recipe, request["target"])
        except DiskFull as error:
            event = {"disk_full": str(error)}
        print(json.dumps(event), flush=True)


def _one(build: Store, model: Model, checkpoint: Checkpoint, recipe: Recipe, target: str) -> dict[str, Any]:
    """Exports and checks one recipe; what came of it, for the line on the terminal."""
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with logged(folder / LOG):
            artifact = _export(build, model, checkpoint, recipe, target)
    except DiskFull:
        raise
    except Exception as error:  # a converter may raise anything, and the other cells must go on
        if isinstance(error, OSError) and store.is_full(error):
            raise store.full(folder / LOG) from error
        status = "unsupported" if isinstance(error, Unsupported) else "failed"
        reason = _reason(error)
        store.remove(folder / MANIFEST)
        store.write(folder / FAILURE, Failure(status, reason, LOG, key(checkpoint, recipe, target)))
        return {"recipe": recipe.name, "status": status, "says": f"{status}: {reason}"}
    store.remove(folder / FAILURE)
    says = f"{artifact.size_bytes:,} bytes in {artifact.seconds:.1f} s, {checked(artifact)}"
    return {"recipe": recipe.name, "status": "ok", "says": says, "seconds": artifact.seconds}


def _export(build: Store, model: Model, checkpoint: Checkpoint, recipe: Recipe, target: str) -> Artifact:
    """The file, then its check, then its manifest."""
    started = time.perf_counter()
    module = registry.load("targets", target)
    name, framework = checkpoint.spec.name, checkpoint.framework
    captured = build.graphs(name, framework)
    quantized = build.graphs(name, framework, recipe.name) if recipe.static else None
    graph = quantizing.ready(build, checkpoint, recipe if recipe.static else None)
    assert graph is not None  # made before this process was started
    folder = build.cell(name, framework, recipe.name, target)
    weights = build.checkpoint(name, framework) / checkpoint.weights
    path = folder / f"model{module.SUFFIX}"
    with store.atomic(path) as temporary:
        source = registry.load("frameworks", framework).source(model, weights, captured, quantized)
        made = module.export(source, checkpoint.spec, recipe, temporary)
    seconds = time.perf_counter() - started
    parity = None
    if module.UNCHECKED is None or hasattr(module, "predict"):
        parity = check(path, cast(Target, module), recipe, quantized or captured)
    artifact = Artifact(
        model=name,
        framework=framework,
        recipe=recipe.name,
        target=target,
        file=path.name,
        sha256=store.sha256(path),
        size_bytes=store.size(path),
        inputs=made.inputs,
        outputs=made.outputs,
        quantized_by=made.quantized_by,
        calibration=graph.calibration,
        parity=parity,
        unchecked=module.UNCHECKED,
        notes=made.notes,
        spec=checkpoint.spec,
        weights_sha256=checkpoint.weights_sha256,
        seconds=seconds,
        key=key(checkpoint, recipe, target),
        tools=registry.versions(module.TOOLS),
    )
    store.write(folder / MANIFEST, artifact)
    return artifact


def _reason(error: Exception) -> str:
    """An error's first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if isinstance(error, PipelineError) else f"{type(error).__name__}: {text}"[:300]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
