"""Turns: the order of measurements, and the results of a framework that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.framework_comparison.parts import _turns
from pipeline.framework_comparison.parts._files import _plan
from pipeline.framework_comparison.parts._turns import Turns, _refuse_different_devices, order
from tests.cli import ROOT


def test_the_order_of_the_frameworks_alternates_between_rounds() -> None:
    assert list(order(3)) == [
        (0, "torch"), (0, "keras"), (1, "keras"), (1, "torch"), (2, "torch"), (2, "keras"),
    ]  # fmt: skip


def test_samples_are_found_by_their_keys_in_every_round() -> None:
    turns = Turns({"torch": [{"eager": {"ms": [1.0, 2.0]}}, {"eager": {"ms": [3.0]}}], "keras": []})
    assert turns.side("torch", "eager", "ms").samples == ((1.0, 2.0), (3.0,))


def test_a_reason_replaces_the_samples() -> None:
    turns = Turns({"torch": [{"compiled": {"reason": "no C++ compiler"}}], "keras": []}, {"keras": "no GPU"})
    assert turns.side("torch", "compiled", "ms").reason == "no C++ compiler"
    assert turns.side("keras", "eager", "ms").reason == "no GPU"


def test_a_gpu_is_not_compared_with_a_cpu() -> None:
    turns = Turns({"torch": [{"device": "NVIDIA H200", "ms": 1.0}], "keras": [{"device": "cpu", "ms": 9.0}]})
    _refuse_different_devices(turns)
    (found,) = {turns.side(name, "ms") for name in turns.found}
    assert not found.samples
    assert "PyTorch on NVIDIA H200 and TensorFlow on cpu" in str(found.reason)
    alike = Turns({name: [{"device": "NVIDIA H200", "ms": 1.0}] for name in turns.found})
    _refuse_different_devices(alike)
    assert alike.side("keras", "ms").samples == ((1.0,),)


def test_tensorflow_runs_in_its_gpu_environment_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _turns.GPU_PYTHON == ROOT / ".venv-gpu" / "bin" / "python"
    monkeypatch.setattr(_turns, "GPU_PYTHON", tmp_path / "python")
    assert _turns.python("keras", "steps") == sys.executable, "there is none yet"
    (tmp_path / "python").touch()
    assert _turns.python("keras", "steps") == str(tmp_path / "python")
    assert {_turns.python("torch", "steps"), _turns.python("keras", "capturing")} == {sys.executable}


def test_the_first_export_of_each_framework_imports_the_converter_and_does_not_count() -> None:
    both = [("torch", "fp32", "onnx"), ("keras", "fp32", "onnx")]
    plan = _plan(both, 2)
    assert [counts for _, counts in plan] == [False, False, True, True, True, True]
    assert {cell for cell, counts in plan if not counts} == set(both)
    assert [cell for cell, counts in plan if counts] == [*both, *both[::-1]]


def test_the_peak_memory_is_known_without_proc_too(tmp_path: Path) -> None:
    from pipeline.framework_comparison.parts._stages import _peak_rss_bytes

    own, without_proc = _peak_rss_bytes(many=False), _peak_rss_bytes(False, tmp_path / "status")
    assert own > 10_000_000
    assert without_proc == pytest.approx(own, rel=0.05)  # the kernel updates the two at different times
