"""A network that ends with probabilities is named before training: the loss expects logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import registry
from pipeline.frameworks import Settings
from tests import own_models
from tests.frameworks import synthetic

pytestmark = pytest.mark.usefixtures("imported")

TORCH = """
x = self.last(self.convolution(x).flatten(1))
return {}
"""
KERAS = """
import keras


def build(spec):
    image = keras.Input(spec.inputs[0].shape)
    return keras.Model(image, keras.layers.Dense(spec.classes, activation={!r})(keras.layers.Flatten()(image)))
"""


def heads(model: object, framework: str, home: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The heads that a training warns of."""
    module = registry.load("frameworks", framework)
    spec = model.spec  # type: ignore[attr-defined]
    splits = {"train": synthetic.split(spec, 16), "validation": synthetic.split(spec, 10, seed=1)}
    module.train(model, splits, Settings(1, 16, 1e-2, 0, "cpu"), home, "key")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    return [head for line in lines for head in ("softmax", "sigmoid") if f"ends with a {head}" in line]


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ("torch.softmax(x, 1)", ["softmax"]),
        ("torch.sigmoid(x)", ["sigmoid"]),
        ("torch.log_softmax(x, 1)", []),
        ("torch.relu(x)", []),
        ("x", []),
    ],
)
def test_a_head_of_probabilities_is_named_in_pytorch(
    last: str, found: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_models.model(tmp_path / "model", own_models.network(TORCH.format(last)))
    assert heads(model, "torch", tmp_path, capsys) == found


@pytest.mark.filterwarnings("ignore:.*received .from_logits=True:UserWarning")
@pytest.mark.parametrize("last", ["softmax", "sigmoid", "linear"])
def test_a_head_of_probabilities_is_named_in_keras(
    last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_models.model(tmp_path / "model", keras=KERAS.format(last))
    assert heads(model, "keras", tmp_path, capsys) == [last] * (last != "linear")
