"""TensorFlow SavedModel with the signature for TensorFlow Serving; from Keras only, in float."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import ModelSpec, Recipe
from pipeline.errors import Unsupported
from pipeline.registry import extra
from pipeline.targets import Exported, Source, frameworks, ports

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIX = ".savedmodel"
RUNTIME: str | None = None
UNCHECKED: str | None = "not measured: no runtime on phones and boards reads a SavedModel"
LAYOUT = "NHWC"
TOOLS: tuple[str, ...] = ("tensorflow", "keras")
EXTRA = "keras"
SUMMARY = "TensorFlow SavedModel: TensorFlow Serving, from Keras"

VERSION = "1"
"""TensorFlow Serving looks for subfolders with numeric names and serves the highest number."""


def supports(recipe: Recipe, framework: str) -> str | None:
    """Only fp32, from frameworks that write a SavedModel."""
    if framework not in frameworks("saved_model"):
        return f"a SavedModel needs TensorFlow operations, which {framework} models lack; inv convert to keras first"
    if (recipe.weights, recipe.activations) != ("float32", "float32"):
        return "a SavedModel contains float variables; for quantized files of TensorFlow use the target tflite"
    return None


def export(source: Source, spec: ModelSpec, recipe: Recipe, out: Path) -> Exported:
    """Writes the folder <out>/1 that TensorFlow Serving loads from <out>; see `Target.export`."""
    if source.saved_model is None:
        raise Unsupported(f"{source.framework} cannot write a SavedModel")
    source.saved_model(out / VERSION)
    (out / VERSION / "fingerprint.pb").unlink(missing_ok=True)  # contains a random number; loaders do not need it
    return Exported(
        *ports(spec, LAYOUT),
        notes=("takes any batch size; the signature is serving_default",),
    )


def predict(path: Path, samples: NDArray[Any], names: Sequence[str]) -> list[NDArray[np.float32]]:
    """Runs the signature on `samples` (N, …) in TensorFlow and returns the outputs of these names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with extra(EXTRA):
        import tensorflow as tf
    served = tf.saved_model.load(str(path / VERSION)).signatures["serving_default"]
    ((name, dtype),) = ((name, spec.dtype) for name, spec in served.structured_input_signature[1].items())
    outputs = served(**{name: tf.constant(samples, dtype)})
    return [outputs[key].numpy() for key in names]
