"""Makes a store for the tests: `python -m tests.make_matrix FOLDER FRAMEWORK`, a process of its own as a user's is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from pipeline import devices, registry
from pipeline.stages import export, measure
from pipeline.stages.train import Job
from pipeline.system.store import Store

ROOT = Path(__file__).parents[1]
TINY = Path(__file__).parent / "models" / "tiny"
JOB = Job(model=str(TINY), accelerator="cpu")
QUICK = measure.Options(min_runs=3, min_seconds=0.0, time_limit=300.0)


def main(root: Path, framework: str) -> None:
    """Exports the tiny model to every target under every recipe, and measures here what runs here."""
    build, job = Store(root), replace(JOB, framework=framework)
    outcomes = export.export(build, job, registry.names("targets"), registry.names("recipes"))
    measure.bench(build, job, devices.find("local"), outcomes, QUICK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
