"""The public Python API: what docs/python-api.md shows runs, and `import pipeline` costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from tests.cli import ROOT, environment

PAGE = (ROOT / "docs" / "python-api.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The output of the page's examples, run as one script in an empty folder."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "page.py").write_text("\n".join(EXAMPLES))
    command = [sys.executable, "page.py"]
    env = environment(folder / "unused", PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_examples_export_measure_and_read_what_they_say(printed: list[str]) -> None:
    exported, (parity, shape, measured), rest = printed[:4], printed[4:7], printed[7:]
    assert [line.split()[:2] for line in exported] == [
        ["tflite", "fp32"], ["onnx", "fp32"], ["tflite", "int8"], ["onnx", "int8"],
    ]  # fmt: skip
    assert all(int(line.split()[2]) > 1000 for line in exported)
    assert float(parity.split()[0]) > 20 and parity.endswith("dB against the quantized graph")
    assert "int8" in shape or "float32" in shape
    assert re.fullmatch(r"p50 [\d.]+ ms, accuracy 9\d\.\d+%", measured)
    drop, shipped, trained, error = rest
    assert shipped == "digits_cnn-1.0.0 ['models/int8/tflite/model.tflite']"
    assert drop.startswith("tflite int8 drop ")
    assert re.fullmatch(r"[\d.]+% of 504 images", trained)
    assert error.startswith("unknown target 'tflight'; did you mean 'tflite'?")


def test_the_page_names_every_stage_and_no_other_name() -> None:
    named = set(re.findall(r"`(\w+)(?:\.resolve)?\(", PAGE))
    assert named <= set(pipeline.__all__) and {"train", "export", "push", "bench", "trace", "cells"} <= named


@pytest.mark.parametrize("name", pipeline.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    assert getattr(pipeline, name).__doc__


def test_importing_the_package_loads_nothing_and_planning_loads_no_framework(tmp_path: Path) -> None:
    code = "import sys, pipeline\nprint([m for m in sys.modules if m.startswith('pipeline.')])\n"
    code += "pipeline.Plan.resolve('digits_cnn', frameworks='all', recipes='all', devices='local')\n"
    code += "print([m for m in ('torch', 'keras', 'tensorflow', 'numpy') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plan'"):
        pipeline.plan  # noqa: B018
