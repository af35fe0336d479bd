"""Int4 weights and exceptions on a small vision transformer, whose weights are in linear layers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry, stats
from pipeline.core import ModelSpec, Preprocessing, Recipe, Tensor, Training
from pipeline.errors import Unsupported
from pipeline.stages import _parity
from pipeline.system import store
from pipeline.targets import Exported, Source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ExecuTorch reads its files with old functions
ROOT = Path(__file__).parents[2]
SPEC = ModelSpec(
    "vit", "image_classification", (Tensor("image", (16, 16, 3)),), (Tensor("logits", (10,)),), tuple("0123456789"),
    Preprocessing("RGB", 16, 16, (127.5,) * 3, (127.5,) * 3), "digits", Training(1, 32, 1e-3),
)  # fmt: skip
LAYERS = ("q", "k", "v", "out", "up", "down")
LEFT = "the recipe leaves it in float"


def recipe(name: str, **changes: Any) -> Recipe:
    return replace(registry.load("recipes", name).RECIPE, **changes)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, imported: None) -> Path:
    """The float graph of two blocks of 128 channels with random weights."""
    import torch
    from torch import nn

    from pipeline.frameworks import _graphs, _normalization

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
            self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.before(x)
            scores = self.q(y) @ self.k(y).transpose(1, 2) / 16
            x = x + self.out(scores.softmax(-1) @ self.v(y))
            down: torch.Tensor = self.down(nn.functional.gelu(self.up(self.after(x))))
            return x + down

    class Transformer(nn.Module):
        def __init__(self, width: int = 128) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, 4, 4)
            self.blocks = nn.Sequential(Block(width), Block(width))
            self.head = nn.Linear(width, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.blocks(self.patches(image).flatten(2).transpose(1, 2)).mean(1))
            return logits

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    module = _normalization.WithNormalization(Transformer(), SPEC).eval()
    _graphs.save(_graphs.exported(module, SPEC), folder / _graphs.FLOAT)
    return folder


@pytest.fixture
def export(captured: Path, tmp_path: Path) -> Callable[[str, Recipe], tuple[Exported, Path]]:
    """Exports the transformer to a file."""
    from pipeline.frameworks import _graphs

    def made(target: str, wanted: Recipe) -> tuple[Exported, Path]:
        module = registry.load("targets", target)
        out = tmp_path / f"{wanted.name}{module.SUFFIX}"
        return module.export(Source("torch", partial(_graphs.program, captured, None)), SPEC, wanted, out), out

    return made


IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("tflite", "int4_dynamic"),
        ("executorch", "int4_dynamic"),
        ("onnx", "int4_dynamic"),
        ("onnx", "int4_weight_only"),
    ],
)
def test_int4_weights_make_a_small_file_that_computes_nearly_the_same(
    target: str, name: str, captured: Path, export: Callable[[str, Recipe], tuple[Exported, Path]]
) -> None:
    from pipeline.frameworks import _graphs

    made, file = export(target, recipe(name))
    _, float_file = export(target, recipe("fp32"))
    assert store.size(file) < 0.2 * store.size(float_file)
    outputs = _parity.predict(file, registry.load("targets", target), IMAGES)
    parity = stats.parity("float model", _graphs.evaluate(captured, IMAGES), outputs, [None])
    assert parity.snr_db > _parity.LEAST_SNR_DB["int4"]
    assert made.coverage is not None and made.coverage.weights > 0.95
    left = {layer.name for layer in made.coverage.float_layers}
    assert {"normalize", "patches"} <= left and not {"head", "blocks.0.q"} & left


@pytest.mark.parametrize("target", ["tflite", "executorch", "onnx"])
def test_an_exception_leaves_the_layers_of_a_module_in_float(
    target: str, captured: Path, export: Callable[[str, Recipe], tuple[Exported, Path]]
) -> None:
    for name in ("int4_dynamic", "int8_dynamic", "int8_weight_only"):
        made, file = export(target, recipe(name, exceptions=(("blocks.1", "float32"), ("head", "float32"))))
        assert made.coverage is not None
        left = {layer.name for layer in made.coverage.float_layers if layer.reason == LEFT}
        assert left == {f"blocks.1.{layer}" for layer in LAYERS} | {"head"}, name
        assert 0.45 < made.coverage.weights < 0.55
        _parity.predict(file, registry.load("targets", target), IMAGES[:2])


CORE_ML = """
import sys
from functools import partial
from pathlib import Path
from dataclasses import replace
from pipeline import registry
from pipeline.frameworks import _graphs
from pipeline.targets import Source
from tests.targets.test_transformers import SPEC, recipe
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
for name in ("fp32", "int4_weight_only", "palette4", "palette6", "int8_weight_only"):
    wanted = recipe(name, exceptions=(("blocks.1", "float32"),) if name == "int8_weight_only" else ())
    source = Source("torch", partial(_graphs.program, folder, None))
    made = registry.load("targets", "coreml").export(source, SPEC, wanted, out / f"{name}.mlpackage")
    left = [layer.name for layer in made.coverage.float_layers] if made.coverage else []
    print("FOUND", name, *left)
"""


def test_core_ml_has_int4_blocks_palettes_and_exceptions(captured: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CORE_ML, str(captured), str(tmp_path)]  # coremltools needs its own process
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    left = {name: set(names) for name, *names in lines}

    def share(name: str) -> float:
        sizes = [store.size(tmp_path / f"{each}.mlpackage/Data/com.apple.CoreML/weights") for each in (name, "fp32")]
        return sizes[0] / sizes[1]

    assert share("palette4") < 0.16 < share("palette6") < 0.22
    assert share("int4_weight_only") < 0.2
    assert {"patches", "normalize"} <= left["int4_weight_only"] and "head" not in left["int4_weight_only"]
    assert {f"blocks.1.{layer}" for layer in LAYERS} <= left["int8_weight_only"]
    assert "blocks.0.q" not in left["int8_weight_only"]


def test_a_block_that_divides_no_layer_is_unsupported(
    export: Callable[[str, Recipe], tuple[Exported, Path]],
) -> None:
    with pytest.raises(Unsupported, match="256"):
        export("onnx", recipe("int4_weight_only", block=256, exceptions=(("*.down", "float32"),)))
