"""Running programs: their output, their end, and the end of their child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import NeedsTool, StageFailed
from pipeline.system import proc

ROOT = Path(__file__).parents[2]
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
"""A program that starts another, prints both process ids, and does not end by itself."""


def ended(pid: int) -> bool:
    """Whether a process has ended. A zombie has."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_ended(pids: list[int]) -> None:
    """Waits until a process is gone: the kernel ends it shortly after the signal was sent."""
    tick = threading.Event()
    while not all(ended(pid) for pid in pids):
        tick.wait(0.01)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_and_exit_code_are_returned() -> None:
    done = proc.run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.code, done.out, done.err, done.timed_out) == (3, "out\n", "err\n", False)
    assert done.argv[0] == sys.executable
    assert done.seconds > 0


def test_arguments_are_not_interpreted_by_a_shell() -> None:
    argv = ["$HOME", "a b", "; rm -rf /", "*", ""]
    done = proc.run([*python("import sys; print(sys.argv[1:])"), *argv])
    assert done.out == f"{argv}\n"


def test_a_program_runs_in_a_folder_with_additional_variables_and_without_input(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['ADDED'], 'PATH' in os.environ, repr(sys.stdin.read()))"
    done = proc.run(python(code), cwd=tmp_path, env={"ADDED": "yes"})
    assert done.out == f"{tmp_path} yes True ''\n"


def test_output_that_is_not_valid_text_is_accepted() -> None:
    assert proc.run(python(r"import os; os.write(1, b'a\xffb')")).out == "a\ufffdb"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(NeedsTool, match=r"^no-such-program is not installed or not on PATH$"):
        proc.run(["no-such-program"])
    with pytest.raises(NeedsTool, match=r"^no-such-program is not installed or not on PATH$"):
        proc.watch(["no-such-program"], print)


# -- reasons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('first\\nlast argv\\n\\n')", "last argv"),
        ("import sys; sys.exit(7)", "exit code 7"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        (
            "import os, signal, sys; print('at work', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
            "ended by SIGSEGV after: at work",
        ),
    ],
)
def test_the_reason_is_the_last_line_or_the_name_of_the_signal(code: str, reason: str) -> None:
    assert proc.run(python(code)).reason == reason


def test_a_real_time_signal_has_a_reason_too() -> None:
    done = proc.run(python("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)"))
    assert done.reason == f"ended by signal {signal.SIGRTMIN + 3}"


# -- the end of programs -----------------------------------------------------------------------------------------------


def test_a_timeout_ends_the_program_and_its_child_processes() -> None:
    done = proc.run(python(PARENT), timeout=2)
    assert done.timed_out
    assert done.code == -signal.SIGKILL
    assert done.reason == "timeout after 2 s"
    wait_until_ended([int(word) for word in done.out.split()])


@pytest.mark.parametrize("verb", ["run(argv)", "watch(argv, print)"])
def test_an_interrupt_ends_the_program_and_its_child_processes(verb: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = [*python(f"import sys; sys.stdout = open({str(fifo)!r}, 'w')\n{PARENT}")]
    code = f"from pipeline.system import proc\nargv = {argv!r}\nproc.{verb}"
    process = subprocess.Popen(python(code), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    with fifo.open() as pipe:  # opens when the program opens its end
        pids = [int(word) for word in pipe.readline().split()]
    assert len(pids) == 2
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert err.endswith("KeyboardInterrupt\n")
    wait_until_ended(pids)


@pytest.mark.parametrize("verb", ["run(argv)", "watch(argv, print)"])
def test_a_program_does_not_outlive_a_killed_parent(verb: str, tmp_path: Path) -> None:
    """The main thread waits for one program, another thread for a second."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"import os, time\nwith open({str(fifo)!r}, 'w') as fifo: print(os.getpid(), file=fifo)\ntime.sleep(600)"
    code = f"import threading\nfrom pipeline.system import proc\nargv = {python(program)!r}\n"
    code += f"threading.Thread(target=lambda: proc.{verb}).start()\nproc.{verb}"
    process = subprocess.Popen(python(code), cwd=ROOT)
    pids: list[int] = []
    while len(pids) < 2:  # a reader may find both lines, or one
        pids += [int(line) for line in fifo.read_text().split()]
    process.kill()
    process.wait()
    wait_until_ended(pids)


def test_the_end_of_a_thread_does_not_end_programs_of_other_threads() -> None:
    """The kernel ends the program of a thread that ends, but that program has already ended."""
    done: list[proc.Done] = []
    first = threading.Thread(target=lambda: done.append(proc.run(python("print('first')"))))
    second = threading.Thread(target=lambda: done.append(proc.run(python("import time; time.sleep(1); print('last')"))))
    for thread in (second, first):
        thread.start()
    for thread in (first, second):
        thread.join()
    assert [(one.code, one.out) for one in done] == [(0, "first\n"), (0, "last\n")]


def test_a_daemon_of_a_program_outlives_a_kill(tmp_path: Path) -> None:
    """Like the server of adb, or a shared connection of ssh."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"import os, time\nwith open({str(fifo)!r}, 'w') as fifo: print(os.getpid(), file=fifo)\ntime.sleep(600)"
    code = f"from pipeline.system import proc\nproc.run(['setsid', '--fork', *{python(program)!r}])"
    process = subprocess.Popen(python(code), cwd=ROOT)
    pid = int(fifo.read_text())
    process.kill()
    process.wait()
    assert not ended(pid)
    os.kill(pid, signal.SIGKILL)


def test_an_interrupt_during_the_start_of_a_program_is_delayed_until_the_process_is_known() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), proc.unbroken():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("started")
    assert done == ["started"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_programs_watched_by_threads_can_be_ended_by_another_thread() -> None:
    pids: list[int] = []
    printed = threading.Event()
    done: list[proc.Done] = []

    def each(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        printed.set()

    thread = threading.Thread(target=lambda: done.append(proc.watch(python(PARENT), each)))
    thread.start()
    printed.wait()
    proc.end_all()
    thread.join()
    assert done[0].reason == "ended by SIGKILL"
    assert not proc.RUNNING
    wait_until_ended(pids)


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_arrive_while_the_program_runs(tmp_path: Path) -> None:
    """The program continues only when a file shows that its first line has arrived."""
    arrived = tmp_path / "arrived"
    lines: list[str] = []

    def each(line: str) -> None:
        lines.append(line)
        arrived.touch()

    code = "import os, sys, time\nprint('first', flush=True)\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
    code += "print('second'); print('trouble', file=sys.stderr); sys.exit(4)"
    done = proc.watch([*python(code), arrived], each, {"ADDED": "yes"})
    assert lines == ["first\n", "second\n"]
    assert (done.code, done.out, done.err, done.reason) == (4, "", "trouble\n", "trouble")


def test_an_error_in_the_reader_ends_the_program() -> None:
    pids: list[int] = []

    def each(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        raise ValueError(line)

    with pytest.raises(ValueError, match=r"^\d+ \d+\n$"):
        proc.watch(python(PARENT), each)
    wait_until_ended(pids)
    assert not proc.RUNNING


@pytest.mark.parametrize(
    "out", ["", "42", "null", "[1]", '"x"', "{}", '{"schema": 1}', '{"runs": []}', 'hi\n{"schema": 1, "runs": []}']
)
def test_output_that_is_no_result_of_edge_bench_is_an_error(out: str) -> None:
    with pytest.raises(StageFailed, match="instead of a result"):
        proc.Done((), 0, out, "", 0.0).result("runs")


def test_a_result_of_edge_bench_is_read() -> None:
    assert proc.Done((), 0, '{"schema": 1, "runs": []}\n', "", 0.0).result("runs") == {"schema": 1, "runs": []}
