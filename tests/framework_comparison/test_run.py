"""`inv frameworks`: counted lines, cached parts, and refused options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import registry
from pipeline.framework_comparison import parts, run
from pipeline.framework_comparison.parts import FRAMEWORKS, Comparison
from pipeline.framework_comparison.parts.writing import code_lines
from pipeline.system.store import Store
from tests.cli import inv
from tests.plans import TINY, plan

PARTS = ["writing", "graphs", "training", "debugging", "visualisation", "deployment"]
OPTIONS = run.Options(rounds=1, epochs=1)
PLAN = plan("tflite", ["fp32", "int8"], frameworks="all")


def test_every_module_of_the_folder_is_a_part_with_the_same_functions() -> None:
    modules: list[Comparison] = [registry.load("framework_comparison.parts", name) for name in parts.parts()]  # type: ignore[misc]
    assert parts.parts() == PARTS
    assert [module.ORDER for module in modules] == [1, 2, 3, 4, 5, 6]
    assert all(callable(module.prepare) and callable(module.measure) and module.ABOUT for module in modules)


def test_lines_of_both_networks_are_counted_once(tmp_path: Path) -> None:
    build = Store(tmp_path / "build")
    page = run.compare(build, PLAN, ["writing"], OPTIONS)
    judged: dict[str, Any] = json.loads((page.parent / "report.json").read_text())
    row = judged["parts"][0]["rows"][0]
    assert (row["what"], row["unit"]) == ("the network", "lines")
    lines = [code_lines((TINY / f"{name}.py").read_text()) for name in FRAMEWORKS]
    assert [row["sides"][name]["samples"] for name in FRAMEWORKS] == [[[float(count)]] for count in lines]
    assert "the network" in page.read_text() and "the network" in (page.parent / "report.md").read_text()
    before = (page.parent / "writing.json").stat().st_mtime_ns
    run.compare(build, PLAN, ["writing"], OPTIONS)
    assert (page.parent / "writing.json").stat().st_mtime_ns == before


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--parts", "graph"), "'graphs'"),
        (("--rounds", "0"), "--rounds"),
        (("--rounds", "many"), "'many'"),
        (("--accuracy", "120"), "--accuracy"),
        (("--target", "tflit"), "'tflite'"),
        (("--accelerator", "tpu"), "'tpu'"),
    ],
)
def test_wrong_options_give_one_line(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    done = inv(tmp_path / "build", "frameworks", "--model", TINY, *options)
    assert named in done.only
    assert not (tmp_path / "build").exists()


def test_a_missing_gpu_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    options = ("--model", TINY, "--parts", "graphs", "--rounds", "1", "--accelerator", "cuda")
    done = inv(tmp_path / "build", "frameworks", *options, CUDA_VISIBLE_DEVICES="")
    assert done.only.startswith("--accelerator cuda:") and "GPU" in done.only
    assert not (tmp_path / "build").exists()


def test_a_model_of_one_framework_only_is_refused(tmp_path: Path) -> None:
    alone = shutil.copytree(TINY, tmp_path / "alone")
    (alone / "keras.py").unlink()
    done = inv(tmp_path / "build", "frameworks", "--model", alone)
    assert "keras.py" in done.only
