"""Parity: an exported file's outputs compared with those of the graph it was made from. A wrong export is a failure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import stats, tasks
from pipeline.core import ModelSpec, Parity, Recipe
from pipeline.errors import ParityFailed, StageFailed
from pipeline.results import predictions
from pipeline.stages.quantize import MANIFEST, REFERENCE, Graph
from pipeline.system import proc, store
from pipeline.targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_SNR_DB = {"float32": 60.0, "float16": 35.0, "int8": 10.0, "palette6": 10.0, "int4": 8.0, "palette4": 5.0}
"""By the recipe's weights. Rounding to float16 leaves about 60 dB, rounding to int8 about 35 dB and to int4 15 to 30
dB, less in a deep network; a wrong layout or order gives 0 dB or less."""

ENOUGH_SNR_DB = 30.0
"""A static int8 file may not be further from the quantized graph than the graph is from the float model, up to this
bound: a right file of `digits_cnn` under int8_mixed was at 34.5 dB on onnxruntime, its graph at 38.1 dB. Runtimes round
ties differently. One step early in a network grows towards its end, so the number of output steps says nothing; the
noise that quantization itself causes is the measure."""

AGREEMENT_MARGIN = 0.05
"""The file may have the graph's top-1 on this share of the samples less than the graph has the float model's."""


def check(path: Path, target: Target, spec: ModelSpec, recipe: Recipe, graph: Path) -> Parity:
    """Runs the file on the samples in the folder `graph` and compares all outputs with the graph's.

    Raises:
        ParityFailed: the outputs differ too much.
        StageFailed: the runtime cannot run the file.
    """
    import numpy as np

    with np.load(graph / REFERENCE, allow_pickle=False) as kept:
        samples, reference = kept["samples"], predictions.of(kept)
    made = store.read(Graph, graph / MANIFEST)
    own = getattr(target, "predict", None)
    outputs = own(path, samples, [output.name for output in spec.outputs]) if own else predict(path, target, samples)
    against = "quantized graph" if recipe.static else "float model"
    classes = tasks.of(spec).CLASSES
    steps = made.steps if made else (None,) * len(reference)
    parity = stats.parity(against, reference, outputs, steps, classes)
    least, agreement, seen = LEAST_SNR_DB[recipe.weights], 0.0, parity.top1_agreement
    if recipe.static and made is not None:
        least = max(least, min(made.parity.snr_db, ENOUGH_SNR_DB))
        agreement = (made.parity.top1_agreement or 0.0) - AGREEMENT_MARGIN
    if parity.snr_db < least or (seen is not None and seen < agreement):
        needed = f" of {agreement:.1%} needed" if agreement > 0 else ""
        raise ParityFailed(
            f"outputs differ from the {against}'s: {parity.snr_db:.1f} dB, and a correct export has at least "
            f"{least:.4g} dB{tasks.agreement(spec, seen)}{needed}"
        )
    return parity


def predict(path: Path, target: Target, samples: NDArray[Any]) -> list[NDArray[np.float32]]:
    """All outputs of a file for `samples` (N, …), computed by edge-bench in another process.

    Raises:
        StageFailed: the runtime cannot run the file.
    """
    import numpy as np

    inputs, outputs = (store.unfinished(path.with_name(name)) for name in ("samples.npy", "outputs.npz"))
    assert target.RUNTIME is not None  # the caller checked that the file can run on this machine
    try:
        np.save(inputs, samples)
        words: list[str | Path] = ["predict", path, "--inputs", inputs, "--out", outputs]
        words += ["--runtime", target.RUNTIME, *(["--layout", target.LAYOUT] if samples.ndim == 4 else [])]
        done = proc.run([sys.executable, "-m", "edge_bench", *words], own_group=False)
        if done.code != 0:
            raise StageFailed(f"{target.RUNTIME} cannot run the file: {done.reason.removeprefix('edge-bench: ')}")
        count = len(done.result("outputs")["outputs"])
        with np.load(outputs, allow_pickle=False) as kept:
            return [kept[f"output_{i}"] for i in range(count)]
    finally:
        store.remove(inputs)
        store.remove(outputs)
