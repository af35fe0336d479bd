"""What tests of several rooms share: a tiny model, and a store in which every cell of its matrix was made for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.store import Store
from pipeline.train import Job
from tests.make_matrix import JOB, ROOT, TINY

os.environ.pop("LASTMILE_BUILD", None)
os.environ.pop("LASTMILE_DEVICES", None)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A model folder: an 8×8 digits network that trains in a second."""
    return TINY


@pytest.fixture(scope="session")
def job() -> Job:
    """What `matrix` was made with."""
    return JOB


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which `tiny` was trained, exported to all targets under all recipes, and measured on `local`.

    Look, don't touch: a test that changes files takes `copied`.
    """
    build = Store(tmp_path_factory.mktemp("matrix") / "build")
    command = [sys.executable, "-m", "tests.make_matrix", str(build.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return build


@pytest.fixture
def copied(matrix: Store, tmp_path: Path) -> Store:
    """A copy of `matrix` that a test may change."""
    return Store(shutil.copytree(matrix.root, tmp_path / "build"))


@pytest.fixture(scope="session")
def imported() -> None:
    """Imports PyTorch and what quantizes with it: what the code of others warns of while imported is not ours."""
    from pipeline.worker import _import_order

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import_order()
        import lightning_fabric  # noqa: F401
        import litert_torch.quantize.pt2e_quantizer  # noqa: F401
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401
