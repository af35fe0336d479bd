"""How the emulated phone talks to the app's process. Java is a stand-in: a program that answers as the test asks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.emulate.phone import app as phone_app
from pipeline.emulate.phone.app import App, Log

JAVA = f"""#!{sys.executable}
import json, os, sys
replies = open(os.environ["PHONE_REPLIES"], "w", buffering=1)
waiting = []
for line in sys.stdin:
    request = json.loads(line)
    waiting.append(request["number"])
    print("I/Engine: loading", end="", flush=True)
    if request["start"] == "end":
        sys.exit(1)
    if request["start"] == "abort":
        os.abort()
    if request["start"] == "wait":
        continue
    for number in waiting[:1] if request["start"] == "late" else waiting:
        print(number, file=replies)
    waiting.clear()
    print(" the model", flush=True)
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for name, text in (("java", JAVA), ("javac", "#!/bin/sh\n")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "chroot", lambda path: None)  # only root may
    for name in ("app.jar", "classpath.txt"):
        (tmp_path / name).touch()
    made = App(tmp_path, tmp_path / "work", Path("/"), {}, Log(), {})
    (tmp_path / "work").mkdir()
    yield made
    made.end()


def start(app: App, activity: str) -> str:
    return app.start("org.lastmile.app", activity, {})


def test_a_reply_arrives_while_another_thread_is_writing_a_line(app: App) -> None:
    assert start(app, "one") == ""
    assert start(app, "two") == ""
    assert "loading the model" in {line.text for line in app.log.lines}


def test_a_late_reply_does_not_answer_the_next_request(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_app, "START_SECONDS", 0.5)
    assert start(app, "wait").startswith("no response")
    assert start(app, "late").startswith("no response")
    monkeypatch.undo()
    assert start(app, "one") == ""


def test_a_crash_is_logged_before_its_process_is_gone(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    at_log: list[tuple[int, bool]] = []

    def log_end(pid: int, code: int) -> None:
        at_log.append((code, Path(f"/proc/{pid}").exists()))

    monkeypatch.setattr(app, "_log_end", log_end)
    assert start(app, "end") == "its process ended"
    assert start(app, "abort") == "its process ended"
    assert at_log == [(1, True), (-signal.SIGABRT, True)]


def test_a_process_that_ends_is_an_error_and_the_next_start_makes_another(app: App) -> None:
    assert start(app, "end") == "its process ended"
    assert app.last_exit == "CRASH"
    assert start(app, "one") == ""
