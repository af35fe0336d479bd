"""A network that takes token ids, and casts a mask to float32, on every target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry, sources, stats
from pipeline.core import ModelSpec, Tensor
from pipeline.stages import _parity
from pipeline.targets import Source

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # coremltools narrows the limit of a clamp that has none, and leaves the folder that it wrote to the collector.
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]
TEXT = sources.find("text_tiny_transformer").spec
assert TEXT.tokens is not None
SPEC: ModelSpec = replace(
    TEXT,
    inputs=(Tensor("ids", (8,), "int32", value_range=(0.0, 31.0)),),
    preprocessing=replace(TEXT.tokens, length=8),
)
IDS = np.random.default_rng(0).integers(0, 32, (16, 8), np.int32)
IDS[:, 5:] = 0


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, imported: None) -> Path:
    """The float graph of an embedding with random weights, and the mean of what is no padding."""
    import torch
    from torch import nn

    from pipeline.frameworks import _graphs, _normalization

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(32, 16), nn.Linear(16, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found = self.table(ids)
            used = torch.not_equal(ids, 0).to(found.dtype)[:, :, None]  # as Keras writes `ids != 0`
            logits: torch.Tensor = self.head((found * used).sum(1) / used.sum(1).clamp(min=1))
            return logits

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ids")
    module = _normalization.WithNormalization(Mean(), SPEC).eval()
    _graphs.save(_graphs.exported(module, SPEC), folder / _graphs.FLOAT)
    return folder


@pytest.mark.parametrize("name", ["tflite", "executorch", "onnx", "coreml"])
def test_a_half_precision_file_takes_integers_and_has_its_mask_in_half_precision(
    name: str, captured: Path, tmp_path: Path
) -> None:
    from pipeline.frameworks import _graphs

    target = registry.load("targets", name)
    out = tmp_path / f"model{target.SUFFIX}"
    source = Source("torch", partial(_graphs.program, captured, None))
    made = target.export(source, SPEC, registry.load("recipes", "fp16").RECIPE, out)
    (port,) = made.inputs
    assert (port.name, port.shape, port.dtype, port.layout) == ("ids", (1, 8), "int32", None)
    if target.RUNTIME:
        outputs = _parity.predict(out, target, IDS)
        parity = stats.parity("float model", _graphs.evaluate(captured, IDS), outputs, [None])
        assert parity.snr_db > 50
