"""A graph that cannot be captured or quantized fails the cells that need it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import Artifact, Failure
from pipeline.results import collect
from pipeline.stages import export
from pipeline.stages.export import Outcome
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans

SPEC = """
from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="{name}",
    task="image_classification",
    inputs=(Tensor("image", (8, 8, 1)),),
    outputs=(Tensor("logits", (10,)),),
    labels=tuple("0123456789"),
    preprocessing=Preprocessing(color="L", resize=8, crop=8, mean=(0.0,), std=(255.0,)),
    dataset="digits",
    training=Training(epochs=1, batch_size=64, lr=1e-2),
)
"""

OFFSET = """
import torch
from torch import nn


class Offset(nn.Module):
    \"\"\"Adds 300 to features of about 1 and subtracts it again: 8 bits for 300 leave nothing of the features.\"\"\"

    def __init__(self):
        super().__init__()
        self.see, self.wide, self.end = nn.Conv2d(1, 4, 3, 2, 1), nn.Linear(64, 32), nn.Linear(32, 10, bias=False)
        self.wide.bias.data.fill_(300.0)

    def forward(self, x):
        return self.end(self.wide(self.see(x).relu().flatten(1))) - 300 * self.end.weight.sum(1)


def build(spec):
    return Offset()
"""

BRANCH = """
import torch
from torch import nn


class Branch(nn.Module):
    \"\"\"Decides by the values of the image, which no graph can.\"\"\"

    def __init__(self):
        super().__init__()
        self.end = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        if x.mean() > 0.5:
            x = 2 * x
        return self.end(x)


def build(spec):
    return Branch()
"""


def exported(home: Path, name: str, code: str, recipes: list[str]) -> tuple[Store, dict[tuple[str, str], Outcome]]:
    """Exports a model with this code."""
    folder = home / name
    folder.mkdir()
    (folder / "__init__.py").write_text(SPEC.format(name=name))
    (folder / "torch.py").write_text(code)
    build = Store(home / "build")
    outcomes = export.export(build, plans.plan(["onnx", "coreml"], recipes, model=folder))
    return build, {(outcome.target, outcome.recipe): outcome for outcome in outcomes}


def test_a_graph_that_quantization_breaks_fails_the_static_cells_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, found = exported(tmp_path, "offset", OFFSET, ["fp32", "int8"])
    statuses = {"fp32": "ok", "int8": "failed"}
    assert {cell: outcome.status for cell, outcome in found.items()} == {
        (target, recipe): status for target in ("onnx", "coreml") for recipe, status in statuses.items()
    }
    for target in ("onnx", "coreml"):
        folder = build.cell("offset", "torch", "int8", target)
        failure = store.read(Failure, folder / "failure.json")
        assert failure is not None and failure.reason == found[target, "int8"].reason
        assert "dB" in failure.reason and "10 dB" in failure.reason and "\n" not in failure.reason
        assert (
            (folder / failure.log).resolve() == found[target, "int8"].log == build.root / "offset.torch/int8/graphs.log"
        )
        assert store.read(Artifact, folder / "artifact.json") is None
    assert "offset (torch)" in capsys.readouterr().err
    cells = {(cell.target, cell.recipe): cell for cell in collect.cells(build)}
    assert cells["onnx", "int8"].status == "failed" and cells["onnx", "fp32"].size_bytes


def test_a_model_that_cannot_be_captured_fails_every_cell_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    build, found = exported(tmp_path, "branch", BRANCH, ["fp32", "int8"])
    assert {outcome.status for outcome in found.values()} == {"failed"}
    (reason,) = {outcome.reason for outcome in found.values()}
    assert reason is not None and "torch.export" in reason and "torch.py:" in reason and "\n" not in reason
    assert (build.checkpoint("branch", "torch") / "checkpoint.json").is_file()
