"""Makes the build folder of the fixture `matrix`: `python -m tests.make_matrix FOLDER FRAMEWORK`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline import devices
from pipeline.stages import export, measure
from pipeline.system.store import Store
from tests.plans import QUICK, plan

ROOT = Path(__file__).parents[1]


def main(root: Path, framework: str) -> None:
    """Exports the tiny model to every target under every recipe and measures what this machine can run."""
    build, made = Store(root), plan(frameworks=framework)
    outcomes = export.export(build, made)
    measure.measure(build, made, outcomes, devices.find("local"), QUICK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
