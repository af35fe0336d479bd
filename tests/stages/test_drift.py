"""Drift: every layer of a cell in the graphs, in the file and on a device."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import Artifact, to_json
from pipeline.results.drift import Drift, Start
from pipeline.stages import drift
from pipeline.stages.quantize import MANIFEST, Graph
from pipeline.system import store
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
    assert all(25 < layer.snr_db["graph"] < 60 for layer in found.layers)
    # The converter of TFLite merges the reshape of a grey image into the first layers.
    known = found.layers[2:] if target == "tflite" else found.layers
    assert all(layer.snr_db["host"] > 40 and layer.not_mapped == {} for layer in known)
    assert all(layer.snr_db.get("host", 999) > 40 for layer in found.layers)
    assert (found.first, found.first_not_finite, found.problems) == (None, None, ())
    assert found.file_snr_db is not None and found.file_snr_db > 60
    assert list(found.places) == ["float", "graph", "host"]


def test_a_bug_in_the_file_is_named_by_its_layer(build: Store) -> None:
    import onnx

    folder = build.cell("tiny", "torch", "int8", "onnx")
    artifact = store.read(Artifact, folder / "artifact.json")
    assert artifact is not None
    path = folder / artifact.file
    original = path.read_bytes()
    model = onnx.load_from_string(original)
    (weight,) = [each for each in model.graph.initializer if each.name == "_frozen_param2"]
    weight.raw_data = weight.raw_data[::-1]
    try:
        path.write_bytes(model.SerializeToString())
        store.write(folder / "artifact.json", replace(artifact, sha256=store.sha256(path)))
        found = drifted(build, "onnx")
    finally:
        path.write_bytes(original)
        store.write(folder / "artifact.json", artifact)
    assert found.first == Start("features.3", "host")


def test_a_spoilt_scale_is_named_by_its_layer(build: Store) -> None:
    from pipeline.frameworks import _graphs

    folder = build.graphs("tiny", "torch", "int8")
    manifest = store.read(Graph, folder / MANIFEST)
    assert manifest is not None
    original = (folder / _graphs.FOLDED).read_bytes()
    program = _graphs.load(folder / _graphs.FOLDED)
    (scale,) = [name for name in program.state_dict if name.endswith("_scale_2")]
    program.state_dict[scale].mul_(4)
    try:
        _graphs.save(program, folder / _graphs.FOLDED)
        files = {**manifest.files, _graphs.FOLDED: store.sha256(folder / _graphs.FOLDED)}
        store.write(folder / MANIFEST, replace(manifest, files=files))
        found = drifted(build, "executorch")
    finally:
        (folder / _graphs.FOLDED).write_bytes(original)
        store.write(folder / MANIFEST, manifest)
    assert found.first == Start("features.3", "graph")
    assert all(layer.snr_db["host"] > 30 for layer in found.layers)
    assert found.file_snr_db is not None and found.file_snr_db < 20  # the exported file has the right scale


def test_the_page_and_the_json_have_every_layer(build: Store) -> None:
    found = drifted(build, "onnx", "fp32")
    page = drift.write(build, found)
    assert all(name in page.read_text() for name in LAYERS)
    assert json.loads(Path(page).with_name("drift.json").read_text()) == json.loads(json.dumps(to_json(found)))
