"""The process that computes a graph's layers and converts it with their values as more outputs, started by drift.py:
`python -m pipeline.stages._drift_process REQUEST`.

Standard output has one JSON object: see `main`. What converters and model folders print goes to standard error.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline import errors, registry
from pipeline.core import Checkpoint, Recipe, from_json
from pipeline.errors import Broken, Unsupported
from pipeline.results.drift import DEVICE, FLOAT, GRAPH, HOST
from pipeline.stages import quantize as quantizing
from pipeline.stages import train
from pipeline.stages._export_process import CHANGED
from pipeline.stages.plan import Job
from pipeline.system.progress import claim_stdout
from pipeline.system.store import Store
from pipeline.targets import Source

VALUES, IMAGES = "values.npz", "images.npy"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Writes the values of a cell's layers in the float and in the quantized graph (`VALUES`: float_0, graph_0, …), and
    the file with more outputs.

    Returns:
        layers: name, operators, the place of the layer's values (see `_same_operators.Place`), why it is not mapped.
        file, problem: the file to run, or why it could not be made: the exported file with more outputs, if its format
            has room for them (`exported`), or else the one that the converter made from the graph with more outputs.
    """
    import numpy as np

    from pipeline.targets import _taps

    build, work = Store(Path(request["build"])), Path(request["work"])
    job, recipe = Job.from_json(request["job"]), from_json(Recipe, request["recipe"])
    target = registry.bind("targets", request["target"]).module
    checkpoint = train.ready(build, job)
    if checkpoint is None:  # the parent process made it and holds the lock
        raise Broken(f"the checkpoint of {job.model.spec.name} {CHANGED}")
    source = _source(build, job, checkpoint, recipe, work)
    images = np.load(work / IMAGES)
    layers = _taps.taps(source.program)
    values, why = {}, [dict[str, str]() for _ in layers]
    for place, name in ((FLOAT, "program"), *([(GRAPH, "quantized")] if recipe.static else [])):
        program, found = _taps.tapped(source.open(name), layers)
        outputs = _taps.run(program, images)
        for i, output in enumerate(found):
            if output is None:
                why[i][place] = f"the {place} graph has no operator that was made from it"
            else:
                values[f"{place}_{i}"] = outputs[output]
    np.savez(work / VALUES, allow_pickle=False, **values)
    common = _taps.common(source, layers)
    file, problem, outputs_of = f"layers{target.SUFFIX}", None, {}
    try:
        program, indices = _taps.tapped(source.program, common)
        outputs_of = dict(zip(common, indices, strict=True))
        spec = _taps.spec(checkpoint.spec, program)
        target.export(_taps.source(source, common), spec, recipe, work / file)
    except Exception as error:  # a converter may raise anything
        problem = f"the graph with more outputs cannot be converted: {errors.reason(error)}"
    places: dict[Any, Any] = {tap: (output, None) for tap, output in outputs_of.items()}
    exported = request["exported"]
    if exported and not problem and hasattr(target, "with_outputs"):
        made = target.with_outputs(
            Path(exported), work / file, list(outputs_of.values()), work / f"outputs{target.SUFFIX}"
        )
        file, places = f"outputs{target.SUFFIX}", dict(zip(common, made, strict=True))
    for tap, reasons in zip(layers, why, strict=True):
        if tap not in common:
            reasons[HOST] = reasons[DEVICE] = "a graph that the file is made from has no operator that was made from it"
        elif places.get(tap) is None and not problem:
            reasons[HOST] = reasons[DEVICE] = "the file has no tensor that is known to hold its values"
    described = [
        {"name": tap.name, "operators": tap.operators, "place": places.get(tap), "not_mapped": reasons}
        for tap, reasons in zip(layers, why, strict=True)
    ]
    return {
        "layers": described,
        "file": None if problem else file,
        "exported": file.startswith("outputs"),
        "problem": problem,
    }


def _source(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe, work: Path) -> Source:
    """The graphs of a cell. One that was not kept, because its outputs are wrong, is made again in `work`."""
    name, framework = checkpoint.spec.name, job.framework.module
    reason = None if "program" in framework.FORMS else f"{job.framework.name} has no torch.export programs"
    if reason:
        raise Unsupported(reason)
    weights = build.checkpoint(name, checkpoint.framework) / checkpoint.weights
    model = train.model_of(checkpoint, job)
    captured, quantized = build.graphs(name, checkpoint.framework), None
    if quantizing.ready(build, job, checkpoint, None) is None:
        captured = work / "captured"
        framework.capture(model, weights, captured)
    if recipe.static:
        quantized = build.graphs(name, checkpoint.framework, recipe.name)
        if quantizing.ready(build, job, checkpoint, recipe) is None:
            quantized = work / "quantized"
            images, _ = quantizing.calibration_set(job, checkpoint, recipe)
            framework.quantize(captured, checkpoint.spec.input_range, images, quantized, recipe)
    return framework.source(model, weights, captured, quantized)


if __name__ == "__main__":
    out = claim_stdout()
    registry.import_order()
    try:
        answer = main(json.loads(sys.argv[1]))
    except errors.PipelineError as error:
        sys.exit(str(error))
    except Exception as error:  # the user's code, torch.export and the quantizer may raise anything
        sys.exit(errors.reason(error))
    print(json.dumps(answer), file=out, flush=True)
    # Tearing down converters takes a second or more. Everything is written and printed by now.
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(0)
