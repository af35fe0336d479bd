"""Functions of the probe that run stages of the pipeline, the same for both frameworks."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import registry
from pipeline.core import PIXELS, Recipe, from_json
from pipeline.sources import Model
from pipeline.stages import train
from pipeline.stages.plan import Job
from pipeline.system import tensorboard
from pipeline.system.store import Store

CAPTURED, QUANTIZED = "captured", "quantized"


def training(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """Trains as `inv train` does.

    Returns:
        Samples per second; the curve of validation accuracy as [seconds since the start of the first epoch, share];
        the accuracy; the peak memory of the first GPU or of the largest process; the device's name.
    """
    build, job = Store(Path(request["build"])), Job.from_json(request["job"])
    checkpoint = train.ensure(build, job)
    run = build.home(checkpoint.spec.name, checkpoint.framework) / "tensorboard" / checkpoint.key[:12]
    return {
        "samples_per_second": checkpoint.facts["samples_per_second"],
        "curve": tensorboard.tags(run)["accuracy/validation"].points,
        "accuracy": checkpoint.accuracy,
        "peak_bytes": checkpoint.facts.get("peak_gpu_bytes") or _peak_rss_bytes(job.training.devices > 1),
        "device": checkpoint.facts["device"],
    }


def capturing(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    """Captures the float graph and quantizes it. Returns the seconds of both; the first include the imports."""
    import numpy as np

    framework = registry.load("frameworks", request["framework"])
    folder = Path(request["scratch"]) / CAPTURED
    images = np.load(request["images"], allow_pickle=False)
    folder.mkdir(exist_ok=True)
    folder.with_name(QUANTIZED).mkdir(exist_ok=True)
    started = time.perf_counter()
    framework.capture(model, Path(request["weights"]), folder)
    captured = time.perf_counter()
    recipe = from_json(Recipe, request["recipe"])
    framework.quantize(folder, PIXELS, images, folder.with_name(QUANTIZED), recipe)
    quantized = time.perf_counter()
    return {CAPTURED: captured - started, QUANTIZED: quantized - captured}


def _peak_rss_bytes(many: bool, status: Path = Path("/proc/self/status")) -> int:
    """The peak of this process, or of the largest of its child processes if there are `many`.

    Linux counts into ru_maxrss what the process was before exec, so its own status is better; macOS has none.
    """
    if many or not status.exists():
        unit = 1 if sys.platform == "darwin" else 1024  # Source: getrusage(2) of both systems
        return resource.getrusage(resource.RUSAGE_CHILDREN if many else resource.RUSAGE_SELF).ru_maxrss * unit
    lines = status.read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
