"""Captures a Keras model as a torch.export program: `python -m pipeline.frameworks._keras_capture REQUEST`.

A process of its own, because Keras runs on PyTorch here and allows one backend per process. An error that the user can
fix is printed as one line of JSON on standard output: {"error": "BadModel", "message": "…"}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core import ModelSpec, from_json
from pipeline.errors import BadModel, ParityFailed, PipelineError
from pipeline.registry import import_order
from pipeline.sources import Model
from pipeline.system.progress import claim_stdout

NOTE = "layer"
"""The key of the note at a node."""


def main(request: dict[str, Any]) -> None:
    """Writes the graph of a model with a checkpoint's weights to a folder.

    Raises:
        BadModel: PyTorch cannot run or export the model's code.
        ParityFailed: the graph differs from the network on TensorFlow.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import_order()
    import numpy as np
    from keras.src.utils import module_utils

    from pipeline.frameworks import _graphs, _keras, _simplify

    model = Model(Path(request["model"]), from_json(ModelSpec, request["spec"]))
    module_utils.tensorflow._available = False  # otherwise Keras imports it only to see whether it is installed
    with _keras.recorded(values=False) as calls:
        try:
            net = _keras.load(model, Path(request["weights"]))
        except BadModel as error:
            layer = "" if calls.failed is None else f"layer {calls.failed[0]}: "
            raise BadModel(f"{layer}Keras on PyTorch, which captures the network: {error}") from error
    with np.load(request["reference"]) as reference:
        network = _Network(model, net, dict(reference))
    trained = [variable.numpy() for variable in net.weights]
    _keras.randomize(net)
    program = network.traced()
    network.check(_simplify.simplified(program), "random")
    for variable, value in zip(net.weights, trained, strict=True):
        variable.assign(value)
    captured = _graphs.exported(_simplify.simplified(program), model.spec)
    network.check(captured.module(), "trained")
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    _graphs.save(captured, folder / _graphs.FLOAT)


class _Network:
    """A Keras model on PyTorch, and what it returns on TensorFlow."""

    def __init__(self, model: Model, net: Any, reference: dict[str, Any]) -> None:
        from pipeline.frameworks import _keras

        self.model, self.net, self.reference = model, net, reference
        self.images = _keras.probe(model.spec)

    def traced(self) -> Any:
        """The network with its normalisation as a decomposed torch.export program, which shares its weights."""
        import torch

        from pipeline.frameworks import _graphs, _keras, _normalization

        class Inference(torch.nn.Module):
            """The network as a torch module in inference mode, from inputs as the graph takes them."""

            def __init__(self, net: Any) -> None:
                super().__init__()
                self.layers = net

            def forward(self, image: torch.Tensor) -> Any:
                given = image.permute(0, 2, 3, 1) if image.dim() == 4 else image
                return self.layers(given, training=False)

        module = _normalization.WithNormalization(Inference(self.net), self.model.spec).eval()
        with _keras.recorded(values=False) as calls, _layers_noted():
            try:
                program = _graphs.traced(module, self.model.spec)
                _name_modules(program)
                return program.run_decompositions({})
            except BadModel as error:
                if calls.failed is None:
                    raise
                layer, reason = calls.failed
                raise BadModel(f"torch.export cannot export layer {layer}: {reason}") from error

    def check(self, graph: Any, weights: str) -> None:
        """Compares the graph with the network on TensorFlow.

        Raises:
            ParityFailed: they differ; names the first layer that differs.
        """
        import torch

        from pipeline.frameworks import _keras, _normalization

        with torch.no_grad():
            outputs = _normalization.joined([graph(_normalization.network_inputs(torch.from_numpy(self.images)))])
        found = min(_snr_db(self.reference[f"{weights}_output_{i}"], each) for i, each in enumerate(outputs))
        if found >= _keras.LEAST_SNR_DB:
            return
        differs = f"{self.model.spec.name}: the captured graph differs from Keras on TensorFlow with {weights} weights"
        raise ParityFailed(
            f"{differs}: {self._first_difference(weights)}; outputs agree to {found:.1f} dB, and a correct graph to at "
            f"least {_keras.LEAST_SNR_DB:g} dB"
        )

    def _first_difference(self, weights: str) -> str:
        import torch

        from pipeline.frameworks import _keras

        images = _keras.normalized(self.images, self.model.spec)
        with torch.no_grad(), _keras.recorded() as calls:
            self.net(images, training=False)
        for i, (name, result) in enumerate(zip(calls.names, calls.results, strict=True)):
            expected = self.reference.get(f"{weights}_{i}")
            if expected is None or calls.names[: i + 1] != [*self.reference[f"{weights}_names"]][: i + 1]:
                return f"the call of {name} has no counterpart on TensorFlow"
            if (found := _snr_db(expected, result)) < _keras.LEAST_SNR_DB:
                return f"layer {name} computes something else on PyTorch ({found:.1f} dB)"
        return "every layer agrees, but the rewritten graph does not"


@contextmanager
def _layers_noted() -> Iterator[None]:
    """Within the context, torch.export notes at each node which layer of Keras computed it: "block.conv"."""
    import keras
    from torch.fx import traceback

    original, path = keras.Operation.__call__, list[str]()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, keras.Layer):
            return original(self, *args, **kwargs)
        path.append(self.name)
        try:
            with traceback.annotate({NOTE: ".".join(path[1:])}):  # the first one is the model
                return original(self, *args, **kwargs)
        finally:
            path.pop()

    keras.Operation.__call__ = call
    try:
        with traceback.preserve_node_meta():
            yield
    finally:
        keras.Operation.__call__ = original


def _name_modules(program: Any) -> None:
    """Makes the layers of Keras what modules are in PyTorch: Keras calls them in a way that torch.export cannot see."""
    for node in program.graph.nodes:
        name = node.meta.pop("custom", {}).get(NOTE)
        if name:
            node.meta["nn_module_stack"] = {name: (f"net.{name}", "keras.Layer")}


def _snr_db(reference: Any, outputs: Any) -> float:
    """The signal-to-noise ratio; infinite or NaN values must be the same in both."""
    import numpy as np

    if reference.shape != outputs.shape or not (np.isfinite(reference) == np.isfinite(outputs)).all():
        return -999.0
    valid = np.isfinite(reference)
    reference, outputs = (np.where(valid, array, 0).astype(np.float64) for array in (reference, outputs))
    noise = float(((reference - outputs) ** 2).sum())
    return float(10 * np.log10(max(float((reference**2).sum()), 1e-300) / noise)) if noise else float("inf")


if __name__ == "__main__":
    out = claim_stdout()
    try:
        main(json.loads(sys.argv[1]))
    except PipelineError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), file=out, flush=True)
