"""Linux without what macOS lacks: a mount namespace hides /proc and /sys, and setpriv, prctl and sched_getaffinity are
missing. Programs that differ on macOS are scripts that print what macOS prints.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import Measurement, from_json
from tests.cli import ROOT
from tests.plans import TINY

START = "Mon Nov 30 17:00:00 2026"
HIDE = 'mount -t tmpfs none /proc && mount -t tmpfs none /sys && PATH="$1" && export PATH && shift && "$@"'
"""Hides /proc and /sys from a program and sets its PATH. The shell forks, because a process that only execs keeps the
peak memory of the test that started it."""


class Mac:
    """A system without /proc and /sys and with its own PATH.

    Attributes:
        programs: the only folder on PATH.
    """

    def __init__(self, programs: Path) -> None:
        self.programs = programs

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.programs / name).chmod(0o755)

    def python(self, code: str, *arguments: str | Path, **variables: str) -> str:
        """Runs Python code, which must succeed, and returns its output."""
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        command = [*unshare, "sh", "-c", HIDE, "sh", self.programs, sys.executable, "-c", code, *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    (tmp_path / "bin").mkdir()
    mac = Mac(tmp_path / "bin")
    mac.program("ps", f"""[ "$2" = rss= ] && echo " 20480" || {{ kill -0 "$4" && echo "Ss   {START}"; }}""")
    return mac


def test_the_facts_of_a_mac_come_from_sysctl(mac: Mac) -> None:
    mac.program(
        "sysctl",
        """case "$2" in
             hw.model) echo Mac14,2 ;;
             machdep.cpu.brand_string) echo Apple M2 ;;
             hw.memsize) echo 8589934592 ;;
             *) exit 1 ;;
           esac""",
    )
    output = json.loads(mac.python("import json; from edge_bench import facts; print(json.dumps(facts.device()))"))
    assert (output["board"], output["cpu"], output["memory_bytes"]) == ("Mac14,2", "Apple M2", 8 << 30)


def test_without_proc_memory_comes_from_ps_and_getrusage(mac: Mac) -> None:
    output = mac.python("from edge_bench import memory; print(memory.rss_bytes(), memory.peak_rss_bytes())")
    now, peak = map(int, output.split())
    assert now == 20 << 20
    assert 5 << 20 < peak < 500 << 20


def test_without_proc_the_start_time_of_a_process_comes_from_ps(mac: Mac) -> None:
    """Process 1 is running, 2 is a zombie, 3 has ended."""
    mac.program(
        "ps",
        """case "$4" in
             1) echo "Ss   START" ;;
             2) echo "Z    START" ;;
             3) exit 1 ;;
           esac""".replace("START", START),
    )
    code = "from pipeline.system import proc; print(*(proc.began(pid) for pid in (1, 2, 3)))"
    assert mac.python(code).split() == ["1796058000", "None", "None"]


def test_without_proc_only_temporary_files_of_ended_processes_are_removed(mac: Mac, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".tmp-{gone.pid}-1796058000-report.html").touch()
    mac.python(
        "from pathlib import Path; from pipeline.system import store\n"
        f"place = Path({str(tmp_path)!r})\n"
        "mine = store.unfinished(place / 'report.html'); mine.touch()\n"
        "store.sweep(place)\n"
        "assert [mine] == list(place.glob('.tmp-*')), list(place.iterdir())"
    )


PARENT = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
assert process.stdout.readline() == "ready\\n"
print(process.pid, flush=True)
sys.stdin.read()
"""
CHILD = """
import time
from types import SimpleNamespace
from pipeline.stages._train_process import end_with_parent
end_with_parent(SimpleNamespace())
print("ready", flush=True)
time.sleep(600)
"""
"""Gives `end_with_parent` a C library without prctl."""


def test_without_prctl_a_training_process_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert select.select([child], [], [], 60)[0] == [child]
    os.close(child)
    parent.stdin.close()
    parent.stdout.close()


INV = """
import os, sys
del os.sched_getaffinity
from invoke.main import program
sys.argv[0] = "inv"
program.run()
"""


def test_a_model_is_trained_exported_and_measured(mac: Mac, tmp_path: Path) -> None:
    build = tmp_path / "build"
    model = ("--model", TINY)
    mac.program("sysctl", '[ "$2" = machdep.cpu.brand_string ] && echo "Apple M2"')
    mac.python(INV, "export", *model, "--target", "onnx,coreml", "--recipe", "fp32", LASTMILE_BUILD=str(build))
    mac.python(INV, "bench", *model, "--target", "onnx", "--processes", "2", LASTMILE_BUILD=str(build))
    path = build / "tiny.torch" / "fp32" / "onnx" / "local" / "measurement.json"
    measurement = from_json(Measurement, json.loads(path.read_text()), str(path))
    assert [one.peak_rss_bytes > 0 and one.rss_before_load_bytes > 0 for one in measurement.processes] == [True] * 2
    assert measurement.device["cpu"] == "Apple M2"
