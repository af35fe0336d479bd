"""Fixtures: a bundle of the tiny model without packages, for tests that write them."""

from __future__ import annotations

import shutil

import pytest

from pipeline.packages import Contents
from pipeline.results import bundle
from pipeline.stages import ship
from pipeline.system.store import Store
from tests.plans import plan

TARGETS = ["tflite", "onnx", "executorch", "coreml"]
RECIPES = ["fp32", "int8"]
VERSION = "1.2.0"


@pytest.fixture(scope="session")
def contents(matrix: Store, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What a package is written from: the matrix's fp32 and int8 files. Read only."""
    build = Store(shutil.copytree(matrix.root, tmp_path_factory.mktemp("shipped") / "build"))
    options = ship.Options(VERSION, licence="Apache-2.0", every_recipe=False)
    return bundle.contents(ship.ship(build, plan(TARGETS, RECIPES), options).path)
