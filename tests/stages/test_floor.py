"""The floor: an empty model, converted by a target and measured on a device."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import Floor
from pipeline.results import latency_meaning
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import inv


def test_the_command_records_the_floor_of_a_runtime(tmp_path: Path) -> None:
    build = Store(tmp_path / "build")
    done = inv(build.root, "devices.floor", "--device", "local", "--target", "onnx", "--processes", "2")
    floor = store.read(Floor, latency_meaning.path(build, "local", "onnxruntime"))
    assert floor is not None and len(done.lines) == 1
    assert (floor.runtime, floor.processes, floor.includes_input_copy) == ("onnxruntime", 2, False)
    assert floor.ns > 0
    (model,) = build.root.glob("floors/models/onnx-*/model.onnx")
    made = model.stat().st_mtime_ns
    again = inv(build.root, "devices.floor", "--device", "local", "--target", "onnx", "--processes", "1")
    assert again.code == 0 and model.stat().st_mtime_ns == made, "the model is converted once"


def test_a_target_that_no_runtime_runs_has_no_floor(tmp_path: Path) -> None:
    assert inv(tmp_path, "devices.floor", "--device", "local", "--target", "coreml").complaint
    assert inv(tmp_path, "devices.floor", "--device", "local", "--processes", "0").complaint
