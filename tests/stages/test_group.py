"""Data-parallel training: any number of processes gives the same result, the loss of one ends the job, and any number
resumes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Checkpoint
from pipeline.errors import BadOption
from pipeline.stages import train
from pipeline.system import store
from pipeline.system.store import Store
from tests import plans
from tests.cli import ROOT, Done, Running, environment, inv, processes, tree

pytestmark = pytest.mark.usefixtures("imported")
FRAMEWORKS = registry.names("frameworks")
JOB = plans.job(model="digits_cnn", epochs=3)
TOLERANCE = 1e-5
"""Relative tolerance of losses: sums over the batch are rounded in another order."""


def train_args(framework: str, epochs: int = 3) -> tuple[str, ...]:
    model = ("--model", "digits_cnn", "--framework", framework)
    return ("train", *model, "--epochs", str(epochs), "--accelerator", "cpu")


def checkpoint_of(build: Path, framework: str) -> Checkpoint:
    found = store.read(Checkpoint, Store(build).checkpoint("digits_cnn", framework) / "checkpoint.json")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """The checkpoint of one process. The model has batch normalisation and augmentation; the last batch is not full."""

    @cache
    def made(framework: str) -> Checkpoint:
        return train.ensure(Store(tmp_path_factory.mktemp("alone")), plans.changed(JOB, framework=framework))

    return made


def assert_alike(found: Checkpoint, alone: Checkpoint) -> None:
    assert found.key == alone.key, "the number of processes does not change the key"
    assert found.facts["losses"] == pytest.approx(alone.facts["losses"], rel=TOLERANCE)
    assert found.facts["best_accuracy"] == pytest.approx(alone.facts["best_accuracy"], abs=0.01)
    assert found.accuracy == pytest.approx(alone.accuracy, abs=0.01)


def lost(process: str) -> str:
    return f"training process {process}, from 0) was ended by SIGKILL"


def member(build: Path, rank: int) -> int:
    """The process of a rank in the training for this build folder. TensorFlow has one process per machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or belongs to another user
        ours = f"LASTMILE_BUILD={build}".encode() in variables and b"pipeline.stages._train_process" in command
        ranks = [word.removeprefix(b"RANK=") for word in variables if word.startswith(b"RANK=")]
        if ours and ranks in ([], [str(rank).encode()]):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


# -- on one machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("framework", "process"), [("torch", "1 (of 2"), ("keras", "0 (of 1")])
def test_a_killed_process_ends_a_training_on_two_devices_and_one_device_resumes_it(
    framework: str, process: str, tmp_path: Path, alone: Callable[[str], Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(tmp_path, *train_args(framework), "--devices", "2")
    running.until_printed("epoch 1/3")
    os.kill(member(tmp_path, int(process[0])), signal.SIGKILL)
    done = running.wait()
    assert done.err.splitlines()[0].endswith("of digits, 2 devices")
    assert sum("epoch 1/3" in line for line in done.err.splitlines()) == 1, "only one process prints"
    assert done.complaint.startswith(lost(process))
    assert processes(tmp_path) == []
    job = plans.changed(JOB, framework=framework)
    found = train.ensure(Store(tmp_path), job)
    assert "resuming after epoch" in capsys.readouterr().err
    assert (found.facts["devices"], len(found.facts["losses"])) == (1, 3)
    assert_alike(found, alone(framework))
    assert train.ready(Store(tmp_path), job) == found


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_outputs_that_contradict_the_spec_give_one_error_line_for_all_processes(
    framework: str, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "seven"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in (("__init__", '"tiny"', '"seven"'), (framework, "spec.classes", "7")):
        path = folder / f"{name}.py"
        path.write_text(path.read_text().replace(old, new))
    options = ("--model", folder, "--framework", framework, "--accelerator", "cpu", "--devices", "2")
    done = inv(tmp_path / "build", "train", *options)
    assert done.complaint.startswith(f"{folder}/{framework}.py: ")
    assert "(2, 7)" in done.complaint and "(2, 10)" in done.complaint
    assert len(done.err.splitlines()) == 2, "the training is announced once, and the error is one line"
    assert tree(tmp_path / "build") == {}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_ctrl_c_ends_every_process(framework: str, tmp_path: Path) -> None:
    running = Running(tmp_path, *train_args(framework, 50), "--devices", "2")
    running.until_printed("epoch 1/50")
    running.interrupt()


def test_when_the_first_process_is_killed_all_end(tmp_path: Path) -> None:
    """It holds the lock: once it has ended, another run may write to the folder."""
    running = Running(tmp_path, *train_args("torch", 500), "--devices", "2")
    running.until_printed("epoch 1/500")
    running.process.kill()
    running.process.communicate()  # returns when the last process that writes to its streams has ended
    assert processes(tmp_path) == []


def test_inv_train_under_torchrun_is_one_training(tmp_path: Path, alone: Callable[[str], Checkpoint]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tasks.py"]
    done = subprocess.run(
        [*command, *train_args("torch")], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1, "only process 0 evaluates"
    found = checkpoint_of(tmp_path, "torch")
    assert (found.facts["devices"], found.facts["nodes"]) == (2, 1)
    assert_alike(found, alone("torch"))


# -- on two machines ---------------------------------------------------------------------------------------------------


def test_two_machines_train_like_one_and_the_first_writes_the_checkpoint(
    tmp_path: Path, alone: Callable[[str], Checkpoint], ports: list[int]
) -> None:
    options = (*train_args("torch"), "--num-nodes", "2", "--main-address", f"127.0.0.1:{ports[0]}")
    second = Running(tmp_path / "second", *options, "--node-rank", "1")
    assert_as_one(tmp_path, "torch", inv(tmp_path / "first", *options), second.wait(), alone)


def test_a_killed_process_ends_the_training_on_both_machines_and_tf_config_resumes_it(
    tmp_path: Path, alone: Callable[[str], Checkpoint], ports: list[int]
) -> None:
    """Also when only the first machine has the state to resume from."""
    options = (*train_args("keras"), "--num-nodes", "2", "--main-address", f"127.0.0.1:{ports[0]}")
    second = Running(tmp_path / "second", *options, "--node-rank", "1")
    first = Running(tmp_path / "first", *options)
    first.until_printed("epoch 1/3")
    os.kill(member(tmp_path / "second", 1), signal.SIGKILL)
    complaints = first.wait().complaint, second.wait().complaint
    assert complaints[0] == complaints[1] and complaints[0].startswith(lost("1 (of 2"))
    assert processes(tmp_path / "first") == []

    def tf_config(index: int) -> str:
        workers = [f"127.0.0.1:{port}" for port in ports]
        return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})

    second = Running(tmp_path / "second", *train_args("keras"), TF_CONFIG=tf_config(1))
    done = inv(tmp_path / "first", *train_args("keras"), TF_CONFIG=tf_config(0))
    assert "resuming after epoch" in done.err
    assert_as_one(tmp_path, "keras", done, second.wait(), alone)


def assert_as_one(
    folder: Path, framework: str, first: Done, second: Done, alone: Callable[[str], Checkpoint]
) -> None:  # fmt: skip
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert second.out == "" and "took part as machine 1 of 2; the checkpoint is on " in second.err
    assert "epoch" not in second.err, "only the first machine prints progress"
    assert not (folder / "second").exists()
    found = checkpoint_of(folder / "first", framework)
    assert (found.facts["devices"], found.facts["nodes"]) == (1, 2)
    assert_alike(found, alone(framework))


@pytest.fixture
def ports() -> list[int]:
    """Two free ports."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in (one, other)]


# -- invalid groups ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"devices": 0}, "--devices and --num-nodes must be at least 1"),
        ({"devices": 3}, "--batch-size 32 is the total of 3 devices: it must be a multiple of 3"),
        ({"devices": 2, "batch_size": 33}, "--batch-size 33 is the total of 2 devices"),
        ({"num_nodes": 2}, "needs --main-address HOST or HOST:PORT of machine 0"),
        ({"num_nodes": 2, "main_address": "host:port"}, "needs --main-address HOST or HOST:PORT"),
        ({"main_address": "host"}, "on one machine it is omitted"),
        ({"num_nodes": 2, "main_address": "host", "node_rank": 2}, "--node-rank 2: must be from 0 to --num-nodes - 1"),
        ({"devices": 2, "epochs": None, "weights": Path("mine.pt")}, "omit --devices and --num-nodes"),
    ],
)
def test_an_invalid_group_is_refused_before_anything_is_written(
    options: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadOption, match=re.escape(complaint)):
        train.ensure(Store(tmp_path), plans.changed(JOB, **options))
    assert list(tmp_path.iterdir()) == []


def test_group_options_are_refused_under_another_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadOption, match=r"torchrun.*--devices"):
        train.ensure(Store(tmp_path), plans.changed(JOB, devices=2))
    with pytest.raises(BadOption, match=r"torchrun.*TF_CONFIG"):
        train.ensure(Store(tmp_path), plans.changed(JOB, framework="keras"))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    with pytest.raises(BadOption, match="another launcher sets the machines: omit --num-nodes"):
        train.ensure(Store(tmp_path), plans.changed(JOB, framework="keras", num_nodes=2, main_address="a"))
    with pytest.raises(BadOption, match="--devices 2 --num-nodes 2: "):
        train.take_part(Store(tmp_path), plans.changed(JOB, framework="keras", devices=2))
    assert list(tmp_path.iterdir()) == []
