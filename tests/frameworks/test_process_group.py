"""The processes of a distributed training: parts of a batch, and the root cause of a failure."""

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
def test_parts_cover_the_batch_and_their_weighted_means_give_its_mean(count: int, world: int) -> None:
    batch = [float(i * i) for i in range(count)]
    parts = [_process_group.Part(rank, world) for rank in range(world)]
    assert [x for part in parts if part.weight(count) for x in batch[part.of(count)]] == batch
    means = [sum(batch[part.of(count)]) / len(batch[part.of(count)]) * part.weight(count) for part in parts]
    assert sum(means) / world == pytest.approx(sum(batch) / count)


# -- failures ----------------------------------------------------------------------------------------------------------


def cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *ends: BaseException | int) -> PipelineError:
    """The root cause where processes end in this order, with an exception or an exit code; the last has rank 0."""
    failures = {}
    for rank, end in zip(reversed(range(len(ends))), ends, strict=True):
        file, content = tmp_path / f"{rank}.json", {}
        monkeypatch.setenv(_process_group.ERROR_FILE, str(file))
        if isinstance(end, BaseException):
            _train_process._record(end)
            content = json.loads(file.read_text())
        code = 143 if isinstance(end, KeyboardInterrupt) else 1
        failures[rank] = _process_group.Exit(end if isinstance(end, int) else code, content)
    return _process_group.root_cause(failures, len(ends))


def test_the_first_exception_is_raised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, BadData("no such image"), RuntimeError("Connection closed by peer"))
    assert type(raised) is BadData and str(raised) == "no such image"


def test_an_unexpected_exception_is_reported_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(tmp_path, monkeypatch, ValueError("negative\nwidth"), RuntimeError("Connection closed by peer"))
    assert type(raised) is StageFailed
    assert "process 1 (of 2, from 0)" in str(raised) and "ValueError: negative width" in str(raised)
    assert isinstance(raised.__cause__, RuntimeError)


def test_a_killed_process_is_the_cause_of_earlier_connection_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = cause(tmp_path, monkeypatch, RuntimeError("Connection closed by peer"), -signal.SIGKILL)
    assert "process 0 (of 2, from 0)" in str(raised) and "SIGKILL" in str(raised)


def test_a_process_that_the_launcher_ended_is_not_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(
        tmp_path, monkeypatch, ValueError("the cause"), KeyboardInterrupt("ended by SIGTERM"), -signal.SIGTERM
    )
    assert "process 2 (of 3, from 0)" in str(raised) and "ValueError: the cause" in str(raised)


def test_a_process_that_got_sigterm_first_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = cause(
        tmp_path, monkeypatch, KeyboardInterrupt("ended by SIGTERM"), RuntimeError("Connection closed by peer")
    )
    assert "process 1 (of 2, from 0)" in str(raised) and "SIGTERM" in str(raised)


def test_a_process_without_an_error_file_is_reported_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = cause(tmp_path, monkeypatch, 7)
    assert "process 0 (of 1, from 0)" in str(raised) and "exit code 7" in str(raised)


def test_errors_are_recorded_in_the_format_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_process_group.ERROR_FILE, str(tmp_path / "error.json"))
    _train_process._record(BadData("one\ntwo"))
    written = json.loads((tmp_path / "error.json").read_text())
    assert (written["message"]["message"], written["kind"]) == ("one two", "BadData")
