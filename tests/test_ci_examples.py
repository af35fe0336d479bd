"""The commands of the CI examples in docs/ci.md run as they are written."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from tests import bundles
from tests.cli import ROOT, inv


def commands() -> list[list[list[str]]]:
    """The commands of ./inv in each example."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    return [[shlex.split(line) for line in re.findall(r"- (?:run: )?\./inv (.*)", block)] for block in blocks]


def test_both_examples_measure_and_gate() -> None:
    assert [[words[0] for words in example] for example in commands()] == [["bench", "gate"]] * 2


def test_the_gate_of_each_example_passes_and_writes_the_reports_that_the_example_keeps(tmp_path: Path) -> None:
    made = bundles.usual(tmp_path / "build")
    shutil.copytree(bundles.made(made).path, tmp_path / "baseline")
    for _, gate in commands():
        assert inv(made.root, *gate, LASTMILE_FROM=str(tmp_path)).code == 0
        for name in ("gate.xml", "gate.md"):
            assert (tmp_path / name).stat().st_size > 100
            (tmp_path / name).unlink()
