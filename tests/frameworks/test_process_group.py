"""Processes that train together: parts of a batch, and whose failure it was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from pipeline.errors import BadData, PipelineError, StageFailed
from pipeline.frameworks import _process_group
from pipeline.stages import _train_process


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 32])
def test_the_parts_of_a_batch_are_the_batch_and_their_weighted_means_its_mean(count: int, world: int) -> None:
    batch = [float(i * i) for i in range(count)]
    parts = [_process_group.Part(rank, world) for rank in range(world)]
    assert [x for part in parts if part.weight(count) for x in batch[part.of(count)]] == batch
    means = [sum(batch[part.of(count)]) / len(batch[part.of(count)]) * part.weight(count) for part in parts]
    assert sum(means) / world == pytest.approx(sum(batch) / count)


# -- whose failure it was ----------------------------------------------------------------------------------------------


def cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *ends: BaseException | int) -> PipelineError:
    """What is raised where processes end, in this order, by an exception or an exit code; the last has rank 0."""
    failures = {}
    for rank, end in zip(reversed(range(len(ends))), ends, strict=True):
        file, said = tmp_path / f"{rank}.json", {}
        monkeypatch.setenv(_process_group.ERROR_FILE, str(file))
        if isinstance(end, BaseException):
            _train_process._record(end)
            said = json.loads(file.read_text())
        code = 143 if isinstance(end, SystemExit) else 1
        failures[rank] = _process_group.Exit(end if isinstance(end, int) else code, said)
    return _process_group.root_cause(failures, len(ends))


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
    monkeypatch.setenv(_process_group.ERROR_FILE, str(tmp_path / "error.json"))
    _train_process._record(BadData("one\ntwo"))
    written = json.loads((tmp_path / "error.json").read_text())
    assert (written["message"]["message"], written["kind"]) == ("one two", "BadData")
