"""Fixtures that several folders of tests share: a tiny model, and a build folder with every cell of its matrix."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from pipeline.devices import _adb
from pipeline.emulate import phone as emulated_phone
from pipeline.emulate import pi
from pipeline.errors import NeedsTool
from pipeline.stages.plan import Job
from pipeline.system import packages
from pipeline.system.store import Store
from tests import plans
from tests.boards import Board
from tests.make_matrix import ROOT
from tests.phones import Phone, app

os.environ.pop("LASTMILE_BUILD", None)
os.environ.pop("LASTMILE_DEVICES", None)
os.environ.pop("LASTMILE_FROM", None)
os.environ.pop("FORCE_COLOR", None)  # commands print plain text in tests
# Programs inherit ignored signals: SIGINT from a shell that starts the tests in the background, SIGHUP from nohup.
# Tests send both to the programs that they start. A handler is not inherited, and lets the tests survive a hangup.
signal.signal(signal.SIGINT, signal.default_int_handler)
if "UNDER_NOHUP" in os.environ or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    os.environ["UNDER_NOHUP"] = "1"  # for xdist's processes
    signal.signal(signal.SIGHUP, lambda *_: None)


MACHINES = (
    "tests/android/", "tests/devices/", "tests/edge_bench/test_executorch_runner.py", "tests/emulate/",
    "tests/results/test_instruction_budget.py", "tests/stages/test_trace.py",
)  # fmt: skip
"""Tests that use the emulated board or phone. A test session has one of each."""


SPIED = "spied"
"""The folder beside a matrix where each process that made it records what it loaded; see tests/spy/."""


NO_PARAMS = SimpleNamespace(params={})


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no type hints
    """Distributes tests over processes by file; all tests of the emulated machines go to one process.

    xdist's own groups do not work: xdist 3.8 puts the group into a name of the test that pytest 9 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "machines" if nodeid.startswith(MACHINES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    return Sharing(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Checks that `MACHINES` lists every test that uses an emulated machine."""
    for item in items:
        given = getattr(item, "callspec", NO_PARAMS).params
        used = {"board", "phone"} & {*getattr(item, "fixturenames", ())} - {*given}
        if used and not item.nodeid.startswith(MACHINES):
            raise pytest.UsageError(f"{item.nodeid} uses {', '.join(used)}: add its path to MACHINES in {__file__}")


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A model folder: an 8×8 digits network that trains in a second."""
    return plans.TINY


@pytest.fixture(scope="session")
def job() -> Job:
    """The job that `matrix` was made with."""
    return plans.job()


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A build folder in which `tiny` was trained, exported to all targets under all recipes and measured on `local`.

    Read only: a test that changes files uses `copied`.
    """
    return _matrix(tmp_path_factory, "torch")


@pytest.fixture(scope="session")
def keras_matrix(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Like `matrix`, for the same model in Keras, in another folder."""
    return _matrix(tmp_path_factory, "keras")


def _matrix(tmp_path_factory: pytest.TempPathFactory, framework: str) -> Store:
    """This process's matrix. If several processes run tests, the first makes it and the others copy it."""
    own = tmp_path_factory.mktemp(f"matrix-{framework}") / "build"
    several = "PYTEST_XDIST_WORKER" in os.environ
    made = tmp_path_factory.getbasetemp().parent / f"matrix-{framework}" / "build" if several else own
    made.parent.mkdir(exist_ok=True)
    with (made.parent / "one").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            command = [sys.executable, "-m", "tests.make_matrix", str(made), framework]
            (made.parent / SPIED).mkdir()
            existing = filter(None, [os.environ.get("PYTHONPATH")])
            spy = {
                "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "spy"), *existing]),
                "SPY_FOLDER": str(made.parent / SPIED),
            }
            done = subprocess.run(command, cwd=ROOT, env=os.environ | spy, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    if several:
        shutil.copytree(made.parent, own.parent, dirs_exist_ok=True)
    return Store(own)


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """An emulated Raspberry Pi 4 that runs for the whole session. A test that stops or breaks it reboots it."""
    try:
        for use in ("emulate", "cross"):
            packages.require(use)
    except NeedsTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    build = Store(ROOT / "build" / "emulated")  # kept between sessions: the image is built once
    files = tmp_path_factory.mktemp("board")
    script = ROOT / "tests" / "edge_bench" / "make_models.py"
    subprocess.run([sys.executable, script, "--only-executorch", files], check=True, capture_output=True)
    build.root.mkdir(parents=True, exist_ok=True)
    with (build.root / ".tests").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pi.stop(build, "pi4", cut=True)
        pi.boot(build, "pi4", pi.Boot(fresh=True))
        try:
            yield Board(build, "pi4", files)
        finally:
            for name in pi.BOARDS:
                pi.stop(build, name, cut=True)


@pytest.fixture(scope="session")
def phone() -> Iterator[Phone]:
    """An emulated phone that runs for the whole session. A test that breaks it reboots it."""
    build = Store(ROOT / "build" / "emulated-phone")  # kept between sessions: its system and app are built once
    try:
        app(build)
        build.root.mkdir(parents=True, exist_ok=True)
        with (build.root / ".tests").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            emulated_phone.stop(build)
            emulated_phone.boot(build)
            try:
                yield Phone(build)
            finally:
                _adb.close_all()
                emulated_phone.stop(build)
    except NeedsTool as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture
def copied(matrix: Store, tmp_path: Path) -> Store:
    """A copy of `matrix` that a test may change."""
    return Store(shutil.copytree(matrix.root, tmp_path / "build"))


@pytest.fixture(scope="session")
def imported() -> None:
    """Imports PyTorch, its quantization packages and Keras, and ignores the warnings that these imports give."""
    from pipeline.registry import import_order

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_order()
        from pipeline.frameworks.keras import _on_tensorflow

        _on_tensorflow()
        import lightning_fabric  # noqa: F401
        import litert_torch.quantize.pt2e_quantizer  # noqa: F401
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401


CONSUMERS = ROOT / "tests" / "consumers.txt"
"""Programs of others that read what `inv ship` writes."""


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with the programs of tests/consumers.txt, in an environment that is kept between sessions."""
    key = hashlib.sha256(CONSUMERS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / "env" / f"consumers-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    assert uv is not None, "these tests need uv, which ./inv installs"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
            install: list[str | Path] = [uv, "pip", "install", "-q", "--python", folder / "bin" / "python"]
            subprocess.run([*install, "-r", CONSUMERS], check=True)
            (folder / "complete").touch()
    return folder / "bin"
