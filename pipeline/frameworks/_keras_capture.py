"""Captures a Keras model as a torch.export program: `python -m pipeline.frameworks._keras_capture REQUEST`.

A process of its own, because Keras runs on PyTorch here and allows one backend per process. An error that the user can
fix is printed as one line of JSON on standard output: {"error": "BadModel", "message": "…"}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, from_json
from pipeline.errors import PipelineError
from pipeline.registry import import_order
from pipeline.sources import Model
from pipeline.system.progress import claim_stdout


def main(request: dict[str, Any]) -> None:
    """Writes the graph of a model with a checkpoint's weights to a folder."""
    os.environ["KERAS_BACKEND"] = "torch"
    import_order()
    import torch

    from pipeline.frameworks import _channels_first, _graphs, _keras, _normalization, _simplify

    model = Model(Path(request["model"]), from_json(ModelSpec, request["spec"]))
    model.code("keras")  # may import tensorflow itself, so it comes before the next line
    # Keras would import TensorFlow only to see whether it is installed.
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    net = _channels_first.channels_first(_keras.load(model, Path(request["weights"])))

    class Inference(torch.nn.Module):
        """The network as a torch module in inference mode."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = net

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layers(image, training=False)
            return logits

    program = _graphs.exported(
        _normalization.WithNormalization(Inference(), model.spec.preprocessing).eval(), model.spec
    )
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    _graphs.save(_graphs.exported(_simplify.simplified(program), model.spec), folder / _graphs.FLOAT)


if __name__ == "__main__":
    out = claim_stdout()
    try:
        main(json.loads(sys.argv[1]))
    except PipelineError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), file=out, flush=True)
