"""Data-parallel training: many processes do what one does, a lost one ends the job, and any number resumes it."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import store, train
from pipeline.core import Checkpoint
from pipeline.errors import BadOption
from pipeline.store import Store
from pipeline.train import Job
from tests.cli import ROOT, Done, Running, environment, inv, processes

pytestmark = pytest.mark.usefixtures("imported")
WORDS = ("train", "--model", "digits_cnn", "--epochs", "3", "--accelerator", "cpu")
JOB = Job(epochs=3, accelerator="cpu")
BETWEEN = 1e-5
"""How far the losses may be apart, as a share: sums over the batch are rounded in another order."""


def checkpoint_of(build: Path) -> Checkpoint:
    found = store.read(Checkpoint, Store(build).checkpoint("digits_cnn", "torch") / "checkpoint.json")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """What one process makes: batch normalisation, augmentation, and a last batch that is not full."""
    return train.train(Store(tmp_path_factory.mktemp("alone")), JOB)


def assert_alike(found: Checkpoint, alone: Checkpoint) -> None:
    assert found.key == alone.key, "how many processes there were is no part of what was trained"
    assert found.facts["losses"] == pytest.approx(alone.facts["losses"], rel=BETWEEN)
    assert found.facts["best_accuracy"] == pytest.approx(alone.facts["best_accuracy"], abs=0.01)
    assert found.accuracy == pytest.approx(alone.accuracy, abs=0.01)


def test_two_processes_train_as_one_does_with_batches_of_the_same_size(tmp_path: Path, alone: Checkpoint) -> None:
    done = inv(tmp_path, *WORDS, "--devices", "2")
    assert done.code == 0, done.err
    assert done.err.splitlines()[0].endswith("pictures of digits, 2 processes")
    assert [line.split(":")[0] for line in done.err.splitlines() if "epoch" in line] == [
        "epoch 1/3", "epoch 2/3", "epoch 3/3"
    ], "one of them speaks"  # fmt: skip
    found = checkpoint_of(tmp_path)
    assert (found.facts["devices"], found.facts["nodes"]) == (2, 1)
    assert found.facts["samples_per_second"] > 0
    assert_alike(found, alone)
    assert train.ready(Store(tmp_path), JOB) == found


def test_a_killed_process_ends_the_job_and_one_process_resumes_it(
    tmp_path: Path, alone: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(tmp_path, *WORDS, "--devices", "2")
    running.until_said("epoch 1/3")
    os.kill(member(tmp_path, rank=1), signal.SIGKILL)
    out, err = running.process.communicate()
    done = Done(running.process.returncode, out, "\n".join([*running.said, *err.splitlines()]))
    assert done.complaint == (
        "training process 1 (of 2, from 0) was ended by SIGKILL, and the others with it; the same command goes on "
        "after the last whole epoch"
    )
    assert processes(tmp_path) == []
    found = train.train(Store(tmp_path), JOB)
    assert "resuming after epoch" in capsys.readouterr().err
    assert (found.facts["devices"], len(found.facts["losses"])) == (1, 3)
    assert_alike(found, alone)


def member(build: Path, rank: int) -> int:
    """The process of a rank in the training that writes into a build folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if {f"LASTMILE_BUILD={build}".encode(), f"RANK={rank}".encode()} <= set(variables):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def test_ctrl_c_ends_every_process(tmp_path: Path) -> None:
    running = Running(tmp_path, *WORDS[:-4], "--epochs", "50", "--accelerator", "cpu", "--devices", "2")
    running.until_said("epoch 1/50")
    running.interrupted()


def test_the_end_of_the_first_process_is_the_end_of_all(tmp_path: Path) -> None:
    """It holds the lock: another run may be writing to the folder now."""
    running = Running(tmp_path, *WORDS[:-4], "--epochs", "500", "--accelerator", "cpu", "--devices", "2")
    running.until_said("epoch 1/500")
    running.process.kill()
    running.process.communicate()  # until the last process that writes to its streams has ended
    assert processes(tmp_path) == []


def test_inv_train_is_one_training_under_torchrun(tmp_path: Path, alone: Checkpoint) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "invoke"]
    done = subprocess.run(
        [*command, *WORDS], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1, "process 0 alone evaluates"
    assert_alike(checkpoint_of(tmp_path), alone)


def test_two_machines_train_as_one_and_the_first_keeps_the_checkpoint(
    tmp_path: Path, alone: Checkpoint, free_port: int
) -> None:
    words = (*WORDS, "--num-nodes", "2", "--main-address", f"127.0.0.1:{free_port}")
    second = Running(tmp_path / "second", *words, "--node-rank", "1")
    first = inv(tmp_path / "first", *words)
    out, err = second.process.communicate()
    assert (first.code, second.process.returncode) == (0, 0), (first.err, err)
    assert out == "took part as machine 1 of 2; the checkpoint is on 127.0.0.1\n"
    assert "epoch" not in err, "the first alone tells"
    assert not (tmp_path / "second").exists()
    found = checkpoint_of(tmp_path / "first")
    assert (found.facts["devices"], found.facts["nodes"]) == (1, 2)
    assert_alike(found, alone)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"devices": 0}, "--devices and --num-nodes must be more than 0"),
        ({"devices": 3}, "--batch-size 32 is that of all 3 processes together: it must be a multiple of 3"),
        ({"devices": 2, "batch_size": 33}, "--batch-size 33 is that of all 2 processes together"),
        ({"num_nodes": 2}, "meet at HOST or HOST:PORT of the one with --node-rank 0"),
        ({"num_nodes": 2, "main_address": "host:port"}, "meet at HOST or HOST:PORT"),
        ({"main_address": "host"}, "several machines, and only they, meet at"),
        ({"num_nodes": 2, "main_address": "host", "node_rank": 2}, "--node-rank 2: from 0 to --num-nodes - 1"),
        ({"devices": 2, "epochs": None, "weights": Path("mine.pt")}, "leave --devices and --num-nodes out"),
    ],
)
def test_a_group_that_cannot_be_is_refused_before_anything_is_made(
    asked: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadOption, match=re.escape(complaint)):
        train.train(Store(tmp_path), dataclasses.replace(JOB, **asked))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_under_torchrun_the_options_for_a_group_are_refused(tmp_path: Path) -> None:
    said = inv(tmp_path, *WORDS, "--devices", "2", TORCHELASTIC_RUN_ID="x", RANK="0", WORLD_SIZE="2").only
    assert said == "torchrun says how many processes there are: leave --devices and --num-nodes out"
