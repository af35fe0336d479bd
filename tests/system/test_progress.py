"""What people see: lines on stderr, bars on terminals only, and logs that catch what is printed below Python."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline.errors import StageFailed
from pipeline.system.progress import bar, logged, say

ROOT = Path(__file__).parents[2]
COUNT = "from pipeline.system.progress import bar\nprint(list(bar(range(3), 'counting', 3, 'step')))"


def test_a_line_goes_to_stderr_and_nothing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("at work")
    assert capsys.readouterr() == ("", "at work\n")


def test_where_there_is_no_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bar(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_with_the_works_name_and_items_pass_unchanged() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)  # so that reading ends where nothing was written
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.stdout == b"[0, 1, 2]\n"
    assert "counting" in shown and "0/3" in shown


def test_a_log_gets_what_is_printed_in_python_below_it_and_by_children(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with logged(tmp_path / "log"):
        os.write(1, b"below\n")
        subprocess.run(["sh", "-c", "echo child >&2"], check=True)
    os.write(1, b"after\n")
    assert (tmp_path / "log").read_text() == "below\nchild\n"
    assert capfd.readouterr() == ("after\n", "")


def logging(body: str, log: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys\nfrom pathlib import Path\nfrom pipeline import errors\nfrom pipeline.system import progress\n"
    code += f"print('before')\n{body}"
    command = [sys.executable, "-c", code, str(log)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_log_gets_the_traceback_of_an_error_of_others_which_goes_on(tmp_path: Path) -> None:
    body = "with progress.logged(Path(sys.argv[1])):\n    print('inside')\n    {}['missing']"
    done = logging(body, tmp_path / "log")
    assert done.stdout == "before\n"
    assert done.stderr.endswith("KeyError: 'missing'\n")
    log = (tmp_path / "log").read_text()
    assert log.startswith("inside\nTraceback") and log.endswith("KeyError: 'missing'\n")


def test_an_error_of_ours_leaves_no_traceback_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^ours$"), logged(tmp_path / "log"):
        raise StageFailed("ours")
    assert (tmp_path / "log").read_text() == ""
