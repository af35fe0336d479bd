"""The app's tests run once a session, in one JVM, on the matrix's model; here is what came of it."""

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
    """The programs that building the app needs: without them a test is skipped here, and fails where CI=true."""
    try:
        packages.require_all(["android", "native"])
    except NeedsTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kept(tools: None) -> Store:
    """A store whose compiled parts are kept from session to session."""
    return Store(ROOT / "build" / "android-tests")


@pytest.fixture(scope="session")
def cells(matrix: Store) -> list[tuple[str, str]]:
    """(recipe, target) of what was exported for the app's runtimes."""
    pairs = [(recipe, target) for recipe in RECIPES for target in TARGETS]
    return [pair for pair in pairs if (matrix.cell(*MODEL, *pair) / "artifact.json").is_file()]


@pytest.fixture(scope="session")
def ran(matrix: Store, kept: Store, cells: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> jvm.Ran:
    """All of the app's tests, and its answers to the requests of `jvm.ask_all`."""
    place = tmp_path_factory.mktemp("phone")
    images = next((matrix.root / "data").glob("*/images.npy"))
    evaluation = place / "evaluation"
    evaluation.mkdir()
    for name in ("images.npy", "labels.npy"):
        (evaluation / name).write_bytes((images.parent / name).read_bytes())
    requests = jvm.Requests(place)
    jvm.ask_all(requests, matrix, cells, images, MODEL)
    models = [matrix.cell(*MODEL, *pair) for pair in cells if pair[0] in ("fp32", "int8")]
    with store.lock(kept, "the tests of the app"):
        return jvm.run(kept, models, place, ROOT / "build" / "android" / "screens")


@pytest.fixture(scope="session")
def split(matrix: Store) -> np.ndarray:
    """The evaluation split's labels."""
    return np.load(next((matrix.root / "data").glob("*/labels.npy")))
