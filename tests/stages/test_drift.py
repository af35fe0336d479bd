"""Drift: every layer of a cell in the graphs, in the file and on a device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.core import to_json
from pipeline.results.drift import Drift
from pipeline.stages import drift
from pipeline.system.store import Store
from tests import plans

LAYERS = ["normalize", "features.0", "features.3", "classifier"]


@pytest.fixture(scope="module")
def build(matrix: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of `matrix`: drift writes beside the files."""
    return Store(shutil.copytree(matrix.root, tmp_path_factory.mktemp("drift") / "build"))


def drifted(build: Store, target: str, recipe: str = "int8", **more: object) -> Drift:
    (found,) = drift.drift(build, plans.plan([target], [recipe], **more))
    return found


@pytest.mark.parametrize("target", ["tflite", "executorch", "onnx"])
def test_every_layer_is_mapped_and_agrees(build: Store, target: str) -> None:
    found = drifted(build, target)
    assert [layer.name for layer in found.layers] == LAYERS
    assert [layer.not_mapped for layer in found.layers] == [{}] * 4
    assert all(25 < layer.snr_db["graph"] < 60 and layer.snr_db["host"] > 40 for layer in found.layers)
    assert (found.first, found.first_not_finite, found.problems) == (None, None, ())
    assert found.file_snr_db is not None and found.file_snr_db > 60
    assert list(found.places) == ["float", "graph", "host"]


def test_the_page_and_the_json_have_every_layer(build: Store) -> None:
    found = drifted(build, "onnx", "fp32")
    page = drift.write(build, found)
    assert all(name in page.read_text() for name in LAYERS)
    assert json.loads(Path(page).with_name("drift.json").read_text()) == json.loads(json.dumps(to_json(found)))
