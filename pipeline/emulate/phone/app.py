"""The app's process: R8's class-file output in a JVM under Robolectric, with Android's own native libraries."""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO

from pipeline.system import proc, store

HOST = Path(__file__).parent / "Phone.java"
START_SECONDS = 600.0
"""How long a reply may take. The JVM needs ten seconds of CPU time to start, and a busy machine gives it little."""
LOG_LINES = 5000
"""How many lines the log keeps."""


@dataclass(frozen=True)
class Line:
    """A line of the log. Attributes: priority: V, D, I, W, E or F."""

    when: datetime
    pid: int
    priority: str
    tag: str
    text: str

    def __str__(self) -> str:
        return f"{self.when:%m-%d %H:%M:%S.%f}"[:-3] + (
            f" {self.pid:5d} {self.pid:5d} {self.priority} {self.tag:8}: {self.text}"
        )


@dataclass
class Log:
    """What logcat shows. Attributes: ahead: how far the phone's clock is ahead of this machine's."""

    ahead: timedelta = timedelta()
    lines: collections.deque[Line] = field(default_factory=lambda: collections.deque(maxlen=LOG_LINES))

    def add(self, pid: int, priority: str, tag: str, text: str) -> None:
        for each in text.splitlines() or [""]:
            self.lines.append(Line(self.now(), pid, priority, tag, each))

    def now(self) -> datetime:
        return datetime.now() + self.ahead


@dataclass
class Process:
    """The app's process.

    Attributes:
        replies: the requests that it has carried out, by number; None at its end.
    """

    popen: subprocess.Popen[str]
    replies: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def runs(self) -> bool:
        return self.popen.poll() is None

    def request(self, message: Mapping[str, object]) -> str:
        """Sends a message and waits for its reply: an error, or an empty string."""
        assert self.popen.stdin is not None
        with self._asking:
            number, end = next(self._numbers), time.monotonic() + START_SECONDS
            with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended; then its input is closed
                self.popen.stdin.write(json.dumps({**message, "number": number}) + "\n")
                self.popen.stdin.flush()
            while True:
                try:
                    reply = self.replies.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    return f"no response within {START_SECONDS:.0f} s"
                if reply is None:
                    self.replies.put(None)  # for later requests
                    return "its process ended"
                if reply == number:  # an earlier one answers a request that was given up
                    return ""

    def read(self, replies: IO[str]) -> None:
        """Reads its replies until its end."""
        with replies:
            for line in replies:
                self.replies.put(int(line))


class App:
    """The app on the phone, and its process while it is running.

    Args:
        folder: the app's JVM build by `inv android.build`: app.jar, classpath.txt, resources.apk, …
        work: a folder for Phone.java's classes, compiled once, and for the process's temporary files.
        view: the root directory that its process sees.
        properties: the phone's system properties.
        clock: environment variables that set its clock.
    """

    def __init__(
        self, folder: Path, work: Path, view: Path, properties: Mapping[str, str], log: Log, clock: Mapping[str, str]
    ) -> None:
        self.folder, self.view, self.properties, self.log, self.clock = folder, view, properties, log, clock
        self.classes, self.work = work / "classes", work / "temporary"
        self.process: Process | None = None
        self.package = ""
        self.last_exit = ""
        self._lock = threading.Lock()

    # -- start and end -------------------------------------------------------------------------------------------------

    def start(self, package: str, activity: str, extras: Mapping[str, str]) -> str:
        """Starts an activity, and the process if it is not running. Returns an error, or an empty string."""
        with self._lock:
            if self.process is None or not self.process.runs():
                launched = self._launch(package)
                if isinstance(launched, str):
                    return launched
                self.process = launched
            process = self.process
        return process.request({"start": activity, "extras": dict(extras)})

    def notify(self, change: Mapping[str, object]) -> None:
        """Notifies the process of a change of the phone's state. A process that starts later does not learn of it."""
        process = self.process
        if process is not None and process.runs():
            process.request(change)

    def end(self) -> None:
        """Kills the process, as force-stop does."""
        with self._lock:
            if self.process is not None and self.process.runs():
                self.process.popen.send_signal(signal.SIGKILL)
                self.process.popen.wait()

    def _launch(self, package: str) -> Process | str:
        """Starts the process, or returns the reason why it cannot be started."""
        lines = (self.folder / "classpath.txt").read_text().splitlines()
        jars = [Path(line) for line in lines if line.strip()]
        missing = [path for path in (self.folder / "app.jar", *jars) if not path.is_file()]
        if missing:
            return f"{missing[0]} does not exist; build it with inv android.build"
        classes = self._compiled(jars, package)
        store.remove(self.work)  # what Robolectric unpacks is not part of the phone's storage
        self.work.mkdir()
        argv = [
            package, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:-CreateCoredumpOnCrash",
            "-XX:ErrorFile=/data/tombstones/hs_err.log", f"-Djava.io.tmpdir={self.work}",
            f"-Djava.library.path={self.folder / 'native'}", "-Drobolectric.offline=true",
            f"-Drobolectric.dependency.dir={self.folder / 'framework'}", "--add-opens=java.base/java.lang=ALL-UNNAMED",
            "-cp", ":".join(map(str, [classes, self.folder / "app.jar", *jars])), "org.junit.runner.JUnitCore",
            "org.lastmile.phone.Phone",
        ]  # fmt: skip
        java = shutil.which("java")
        assert java is not None  # the phone's boot requires it

        def into_view() -> None:
            os.chroot(self.view)
            os.chdir("/")

        # Replies have a pipe of their own: all threads and native code write to the output, where lines can mix.
        read, write = os.pipe()
        environment = {
            "PHONE_REPLIES": f"/proc/self/fd/{write}",
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.work), "LC_ALL": "C.UTF-8",
            "LD_LIBRARY_PATH": str(self.folder / "native"), "PHONE_PROPERTIES": json.dumps(dict(self.properties)),
            **self.clock, **self.properties,  # Android's native libraries read properties from these: see bionic.c
        }  # fmt: skip
        self.package, self.last_exit = package, ""
        try:
            popen = subprocess.Popen(
                argv, executable=str(Path(java).resolve()), env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=into_view,  # noqa: PLW1509 (two system calls)
                pass_fds=(write,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(write)
        process = Process(popen)
        reader = threading.Thread(target=process.read, args=(os.fdopen(read),), daemon=True)
        reader.start()
        threading.Thread(target=self._listen, args=(process, reader), daemon=True).start()
        return process

    def _compiled(self, jars: list[Path], package: str) -> Path:
        """Phone.java, compiled once for these jars, with the file that tells Robolectric where the app is."""
        key = store.digest([store.sha256(HOST), [str(path) for path in jars], str(self.folder), package])[:16]
        folder = self.classes / key
        if not folder.is_dir():
            with store.atomic(folder) as new:
                config = new / "com" / "android" / "tools" / "test_config.properties"
                config.parent.mkdir(parents=True)
                config.write_text(
                    f"android_resource_apk={self.folder / 'resources.apk'}\n"
                    f"android_merged_manifest={self.folder / 'AndroidManifest.xml'}\n"
                    f"android_merged_assets={self.folder / 'assets'}\nandroid_custom_package={package}\n"
                )
                argv: list[str | Path] = ["javac", "-nowarn", "-d", new, "-cp", ":".join(map(str, jars)), HOST]
                done = proc.run(argv, timeout=300)
                if done.code != 0:
                    raise RuntimeError(f"javac: {done.err[-2000:]}")
        return folder

    # -- output --------------------------------------------------------------------------------------------------------

    def _listen(self, process: Process, reader: threading.Thread) -> None:
        """Adds the process's output and its end to the log. Then requests learn of the end."""
        popen = process.popen
        assert popen.stdin is not None and popen.stdout is not None
        priority, tag = "I", "System.out"
        for line in popen.stdout:
            text = line.rstrip("\n")
            found = re.match(r"([VDIWEF])/([^:]*): (.*)", text)
            if found:
                priority, tag, text = found.groups()
            self.log.add(popen.pid, priority, tag, text)
            priority, tag = (priority, tag) if tag == "AndroidRuntime" else ("I", "System.out")
        reader.join()
        self._log_end(popen.pid, _exit_code(popen))
        popen.wait()
        process.replies.put(None)
        popen.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            popen.stdin.close()

    def _log_end(self, pid: int, code: int) -> None:
        """Logs the end of the process as Android does."""
        report = self.view / "data" / "tombstones" / "hs_err.log"
        if report.is_file():
            text = report.read_text(errors="replace")
            report.rename(report.with_name("tombstone_00"))
            self.last_exit = "CRASH_NATIVE"
            for line in _tombstone(text, pid, self.package):
                self.log.add(pid, "F", "DEBUG", line)
        elif code == -signal.SIGKILL:
            self.last_exit = "SIGNALED"
        else:
            self.last_exit = "CRASH" if code else "EXIT_SELF"
        self.log.add(pid, "I", "ActivityManager", f"Process {self.package} (pid {pid}) has died")


def _exit_code(process: subprocess.Popen[str]) -> int:
    """Waits for the end of a process, and leaves it in /proc: on Android, a crash is in the log before its process is
    gone."""
    try:
        found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # another thread has waited for it
        return process.wait()
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _tombstone(report: str, pid: int, package: str) -> list[str]:
    """The JVM's report of a crash in native code, in the format of Android's crash_dump."""
    found = re.search(r"#\s+(SIG\w+) \((0x[0-9a-f]+)\)", report)
    name, number = (found[1], int(found[2], 16)) if found else ("SIGABRT", 6)
    lines = [
        "*** *** *** *** *** *** *** *** *** *** *** *** *** *** *** ***",
        f"pid: {pid}, tid: {pid}, name: {package}  >>> {package} <<<",
        f"signal {number} ({name}), code 1, fault addr --------",
        "backtrace:",
    ]
    native = report.partition("Native frames:")[2].partition("\n\n")[0]
    frames = re.findall(r"^[CV]\s+\[(\S+?)\+(0x[0-9a-f]+)\]\s*(.*)$", native, re.M)
    lines += [
        f"      #{index:02d} pc {int(offset, 16):016x}  {library}{f' ({symbol.strip()})' if symbol.strip() else ''}"
        for index, (library, offset, symbol) in enumerate(frames)
    ]
    return lines
