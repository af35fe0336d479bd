"""Fixtures: the app's own tests run once per session, in one JVM, with the matrix's model."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pipeline.errors import NeedsTool
from pipeline.system import packages, store
from pipeline.system.store import Store
from tests.android import jvm
from tests.make_matrix import ROOT

RECIPES = ("fp32", "fp16", "int8_dynamic", "int8_weight_only", "int8")
TARGETS = ("tflite", "executorch")
MODEL = ("tiny", "torch")


@pytest.fixture(scope="session")
def tools() -> None:
    """Checks for the programs that build the app. If one is missing, the test is skipped, or fails if CI=true."""
    try:
        packages.require_all(["android", "native"])
    except NeedsTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kept(tools: None) -> Store:
    """A store that keeps compiled code between sessions."""
    return Store(ROOT / "build" / "android-tests")


@pytest.fixture(scope="session")
def cells(matrix: Store) -> list[tuple[str, str]]:
    """(recipe, target) of everything that was exported for the app's runtimes."""
    pairs = [(recipe, target) for recipe in RECIPES for target in TARGETS]
    return [pair for pair in pairs if (matrix.cell(*MODEL, *pair) / "artifact.json").is_file()]


@pytest.fixture(scope="session")
def ran(matrix: Store, kept: Store, cells: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> jvm.Ran:
    """The results of all of the app's tests and of the requests that `jvm.request_all` writes."""
    folder = tmp_path_factory.mktemp("phone")
    images = next((matrix.root / "data").glob("*/images.npy"))
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    for name in ("images.npy", "labels.npy"):
        (evaluation / name).write_bytes((images.parent / name).read_bytes())
    requests = jvm.Requests(folder)
    jvm.request_all(requests, matrix, cells, images, MODEL)
    models = [matrix.cell(*MODEL, *pair) for pair in cells if pair[0] in ("fp32", "int8")]
    with store.lock(kept, "the tests of the app"):
        return jvm.run(kept, models, folder, ROOT / "build" / "android" / "screens")


@pytest.fixture(scope="session")
def labels(matrix: Store) -> np.ndarray:
    """The labels of the evaluation split."""
    return np.load(next((matrix.root / "data").glob("*/labels.npy")))
