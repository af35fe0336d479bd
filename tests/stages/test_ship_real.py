"""Ship with real files: every target of the tiny model, and outputs that this machine computes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pipeline.core import Artifact, Measurement, from_json, to_json
from pipeline.results import bundle as bundles
from pipeline.stages import ship
from pipeline.stages.ship import Options
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans


def test_every_file_of_the_matrix_that_passed_is_shipped(copied: Store) -> None:
    found = ship.ship(copied, plans.plan(), Options("1.0.0"))
    bundle = found.bundle
    assert bundles.problems(found.path) == []
    assert {cell.target for cell in bundle.cells} == {"coreml", "executorch", "onnx", "tflite"}
    assert [one for one in bundle.left_out if one.status == "failed"] == []
    for cell in bundle.cells:
        artifact = bundles.artifact(found.path, cell)
        assert store.sha256(found.path / cell.file) == artifact.sha256
        golden = [np.load(found.path / "golden" / cell.recipe / cell.target / f"{d}.npy") for d in cell.golden]
        assert [output.shape for output in golden] == [(8, 10)] * len(golden)
        assert (cell.golden == ()) == (cell.target == "coreml")
        assert 0 < cell.tolerance < 10
    again = ship.ship(copied, plans.plan(), Options("1.0.0"))
    assert not again.made


@pytest.mark.parametrize("target", ["onnx", "executorch", "tflite"])
def test_this_machine_runs_a_file_that_only_a_device_has_measured(copied: Store, target: str) -> None:
    folder = copied.cell("tiny", "torch", "int8", target)
    shutil.move(folder / "local", folder / "desk-board")
    path = folder / "desk-board" / "measurement.json"
    measurement = from_json(Measurement, json.loads(path.read_text()))
    device = {**measurement.device, "name": "desk-board", "kind": "ssh"}
    store.write(path, {**to_json(measurement), "device": device})
    found = ship.ship(copied, plans.plan(target, "int8"), Options("1.0.0", every_recipe=False, every_target=False))
    (cell,) = found.bundle.cells
    assert cell.golden == ("host", "desk-board")
    home = found.path / "golden" / "int8" / target
    assert np.array_equal(np.load(home / "host.npy"), np.load(home / "desk-board.npy"))
    assert from_json(Artifact, json.loads((folder / "artifact.json").read_text())).target == target
