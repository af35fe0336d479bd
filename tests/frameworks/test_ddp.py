"""What makes many PyTorch processes one training: parts of a batch, batch normalisation, and whose failure it was."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import trainer
from pipeline.errors import BadData, PipelineError, StageFailed
from pipeline.frameworks import Group

pytestmark = pytest.mark.usefixtures("imported")


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 32])
def test_the_parts_of_a_batch_are_the_batch_and_their_weighted_means_its_mean(count: int, world: int) -> None:
    from pipeline.frameworks._ddp import Part

    batch = [float(i * i) for i in range(count)]
    parts = [Part(rank, world) for rank in range(world)]
    assert [x for part in parts if part.weight(count) for x in batch[part.of(count)]] == batch
    means = [sum(batch[part.of(count)]) / len(batch[part.of(count)]) * part.weight(count) for part in parts]
    assert sum(means) / world == pytest.approx(sum(batch) / count)


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_synchronized_batch_normalisation_is_batch_normalisation(options: dict[str, Any]) -> None:
    import copy

    import torch
    from torch import nn

    from pipeline.frameworks import _ddp

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=1e-3, **options))
    ours = _ddp.synchronized(copy.deepcopy(plain), gpu=False)
    assert isinstance(ours[1], _ddp.BatchNorm) and ours.state_dict().keys() == plain.state_dict().keys()
    for _ in range(2):
        images = torch.randn(4, 1, 6, 6) + 3
        wanted, got = plain(images), ours(images)
        torch.testing.assert_close(got, wanted)
        for net, out in ((plain, wanted), (ours, got)):
            net.zero_grad()
            out.pow(3).sum().backward()
        for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


# -- whose failure it was ----------------------------------------------------------------------------------------------


def cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *ends: BaseException | int) -> PipelineError:
    """What is raised where processes end, in this order, by an exception or an exit code; the last has rank 0."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from pipeline.frameworks import _ddp

    failures = {}
    for rank, end in zip(reversed(range(len(ends))), ends, strict=True):
        file = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        if isinstance(end, BaseException):
            trainer._record(end)
        code = 143 if isinstance(end, SystemExit) else 1
        failures[rank] = ProcessFailure(rank, 1000 + rank, end if isinstance(end, int) else code, str(file))
    return _ddp._cause(failures, Group(len(ends)))


def test_what_was_raised_first_is_raised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, BadData("no such picture"), RuntimeError("Connection closed by peer"))
    assert type(raised) is BadData and str(raised) == "no such picture"


def test_a_failure_of_others_code_names_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, ValueError("negative\nwidth"), RuntimeError("Connection closed by peer"))
    assert type(raised) is StageFailed
    assert str(raised) == "training process 1 (of 2, from 0) failed: ValueError: negative width"
    assert isinstance(raised.__cause__, RuntimeError)


def test_a_process_that_was_ended_comes_before_those_that_missed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = cause(tmp_path, monkeypatch, RuntimeError("Connection closed by peer"), -signal.SIGKILL)
    assert "training process 0 (of 2, from 0) was ended by SIGKILL" in str(raised)


def test_a_process_that_the_launcher_ended_is_not_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, ValueError("the cause"), SystemExit("ended by SIGTERM"), -signal.SIGTERM)
    assert "training process 2 (of 3, from 0) failed: ValueError: the cause" in str(raised)


def test_a_process_that_got_sigterm_first_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, SystemExit("ended by SIGTERM"), RuntimeError("Connection closed by peer"))
    assert "training process 1 (of 2, from 0) was ended by SIGTERM" in str(raised)


def test_a_process_that_said_nothing_is_named_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "process 0 (of 1, from 0) ended with exit code 7" in str(cause(tmp_path, monkeypatch, 7))


def test_an_error_is_written_as_the_launcher_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    trainer._record(BadData("one\ntwo"))
    written = json.loads((tmp_path / "error.json").read_text())
    assert (written["message"]["message"], written["kind"]) == ("one two", "BadData")
