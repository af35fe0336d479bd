"""The process that captures a Keras model as a torch program: `python -m pipeline.frameworks._keras_capture REQUEST`.

Keras runs on PyTorch here, and takes one backend a process. What fails in a way that a user can mend is one line of
JSON on standard output: {"error": "BadModel", "says": "…"}.
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


def main(request: dict[str, Any]) -> None:
    """Writes the graph of a model with a checkpoint's weights into a folder."""
    os.environ["KERAS_BACKEND"] = "torch"
    import_order()
    import torch

    from pipeline.frameworks import _channels_first, _graphs, _keras, _normalization, _simplify

    model = Model(Path(request["model"]), from_json(ModelSpec, request["spec"]))
    model.code(
        "keras"
    )  # it may import tensorflow; Keras itself would, to look whether it is there, and has no use for it
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]
    net = _channels_first.channels_first(_keras.load(model, Path(request["weights"])))

    class Inference(torch.nn.Module):
        """The network as a torch module that is not training."""

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
    try:
        main(json.loads(sys.argv[1]))
    except PipelineError as error:
        print(json.dumps({"error": type(error).__name__, "says": str(error)}))
