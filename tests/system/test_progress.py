"""Progress: lines on stderr, live bars at terminals only, and logs that catch what code below Python prints."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline.errors import StageFailed
from pipeline.system import progress
from pipeline.system.progress import bar, counter, logged, say

ROOT = Path(__file__).parents[2]
COUNT = "from pipeline.system.progress import bar, say\nprint(list(bar(range(3), 'counting', 3, 'step')))"
SIDE_BY_SIDE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pipeline.system.progress import bar, counter, say, working

def work(name):
    for number in bar(range(3), name, unit="file"):
        time.sleep(0.3)
        say(f"{name} made file {number}")
        print(f"{name} warns of file {number}", file=sys.stderr)

with working("installing"):
    time.sleep(0.1)
with counter("exporting", 2) as step, ThreadPoolExecutor() as pool:
    for _ in pool.map(work, ("tflite", "onnx")):
        step()
"""


def at_a_terminal(code: str, columns: int = 80, **more: str) -> tuple[str, str]:
    """What Python code prints on stdout, a pipe, and on stderr, a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    env |= {"TERM": "xterm-256color", **more}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=theirs
    ) as done:
        os.close(theirs)  # so that reading ends with the process
        shown = b""
        try:
            while part := os.read(ours, 10_000):
                shown += part
        except OSError:  # Linux: the other side is closed
            pass
        assert done.stdout is not None
        out = done.stdout.read()
    os.close(ours)
    assert done.returncode == 0, shown
    return out.decode(), shown.decode()


def test_a_line_goes_to_stderr_and_nothing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("at work")
    assert capsys.readouterr() == ("", "at work\n")


def test_a_pipe_gets_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bar(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(bar(iter(range(2)), "counting", unit="step")) == [0, 1]
    with counter("exporting", 2000, "file") as step:
        step()
    assert capsys.readouterr().err.splitlines() == ["counting: 1 step", "counting: 2 step", "exporting: 1/2,000 file"]


def test_a_terminal_gets_a_coloured_bar_with_the_name_of_the_work_and_items_pass_unchanged() -> None:
    out, shown = at_a_terminal(COUNT)
    assert out == "[0, 1, 2]\n"
    assert "counting" in shown and "/3 step" in shown and "\x1b[3" in shown
    assert "\x1b[?25l" not in shown  # a hidden cursor would stay hidden when the process is killed


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colour_gets_no_bar(variables: dict[str, str]) -> None:
    assert at_a_terminal(COUNT, **variables) == ("[0, 1, 2]\n", "")


def test_lines_of_parallel_work_stay_whole_beside_the_bars() -> None:
    _, shown = at_a_terminal(SIDE_BY_SIDE)
    lines = set(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n"))
    for name in ("tflite", "onnx"):
        for number in range(3):
            assert {f"{name} made file {number}", f"{name} warns of file {number}"} <= lines
    assert any(re.fullmatch(r"exporting +━+ [01]/2 it.*", line) for line in lines), lines
    assert any(re.fullmatch(r"installing: \d+ s", line) for line in lines)


def test_a_log_gets_no_bar_and_the_bar_comes_back_after_it(tmp_path: Path) -> None:
    code = "import time\nfrom pathlib import Path\nfrom pipeline.system.progress import bar, logged, say\n"
    code += "for _ in bar(range(1), 'outer'):\n"
    code += f"    with logged(Path({str(tmp_path / 'log')!r})):\n        say('inside')\n        time.sleep(0.6)\n"
    code += "    time.sleep(0.6)\n"
    _, shown = at_a_terminal(code)
    assert (tmp_path / "log").read_text() == "inside\n"
    assert "inside" not in shown and shown.count("outer") >= 2


def test_a_log_gets_what_python_code_below_it_and_child_processes_print(
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


def test_a_log_gets_the_traceback_of_an_unexpected_error_which_is_raised_again(tmp_path: Path) -> None:
    body = "with progress.logged(Path(sys.argv[1])):\n    print('inside')\n    {}['missing']"
    done = logging(body, tmp_path / "log")
    assert done.stdout == "before\n"
    assert done.stderr.endswith("KeyError: 'missing'\n")
    log = (tmp_path / "log").read_text()
    assert log.startswith("inside\nTraceback") and log.endswith("KeyError: 'missing'\n")


def test_a_pipeline_error_leaves_no_traceback_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^ours$"), logged(tmp_path / "log"):
        raise StageFailed("ours")
    assert (tmp_path / "log").read_text() == ""
