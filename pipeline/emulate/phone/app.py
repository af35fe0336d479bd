"""The app's process: R8's class-file output of it, in a JVM under Robolectric, with Android's own native libraries."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.system import proc, store

HOST = Path(__file__).parent / "Phone.java"
START_SECONDS = 120.0
STAYS = 5000
"""So many lines the log keeps."""


@dataclass(frozen=True)
class Line:
    """One of the log's. Attributes: priority: V, D, I, W, E or F."""

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
    """What logcat shows. Attributes: ahead: of this machine's clock, the phone's."""

    ahead: timedelta = timedelta()
    lines: collections.deque[Line] = field(default_factory=lambda: collections.deque(maxlen=STAYS))

    def add(self, pid: int, priority: str, tag: str, text: str) -> None:
        for each in text.splitlines() or [""]:
            self.lines.append(Line(self.now(), pid, priority, tag, each))

    def now(self) -> datetime:
        return datetime.now() + self.ahead


class App:
    """The app on the phone, and its process while it has one.

    Args:
        folder: what `inv android.build` leaves of it for a JVM: app.jar, classpath.txt, resources.apk, …
        work: a folder for what hosts it, compiled once, and for its process's temporary files.
        view: the root that its process sees.
        clock: variables of its environment that set its clock.
    """

    def __init__(
        self, folder: Path, work: Path, view: Path, properties: Mapping[str, str], log: Log, clock: Mapping[str, str]
    ) -> None:
        self.folder, self.view, self.properties, self.log, self.clock = folder, view, properties, log, clock
        self.classes, self.work = work / "classes", work / "temporary"
        self.process: subprocess.Popen[str] | None = None
        self.package = ""
        self.last_exit = ""
        self._answers: collections.deque[str] = collections.deque()
        self._told = threading.Condition()
        self._lock = threading.Lock()

    # -- its life ------------------------------------------------------------------------------------------------------

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, package: str, activity: str, extras: Mapping[str, str]) -> str:
        """Starts an activity, and with it the process where there is none. Returns what went wrong, or nothing."""
        with self._lock:
            if not self.runs():
                trouble = self._launch(package)
                if trouble:
                    return trouble
            return self._ask({"start": activity, "extras": dict(extras)})

    def tell(self, what: Mapping[str, object]) -> None:
        """Something of the phone that changed; a process that starts later hears nothing of it."""
        if self.runs():
            self._ask(what)

    def end(self) -> None:
        """As force-stop does."""
        with self._lock:
            if self.process is not None and self.runs():
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()

    def _launch(self, package: str) -> str:
        lines = (self.folder / "classpath.txt").read_text().splitlines()
        jars = [Path(line) for line in lines if line.strip()]
        gone = [path for path in (self.folder / "app.jar", *jars) if not path.is_file()]
        if gone:
            return f"{gone[0]} is not there; inv android.build makes it"
        classes = self._compiled(jars, package)
        store.remove(self.work)  # what Robolectric unpacks is no part of the phone's storage
        self.work.mkdir()
        words = [
            package, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:-CreateCoredumpOnCrash",
            "-XX:ErrorFile=/data/tombstones/hs_err.log", f"-Djava.io.tmpdir={self.work}",
            f"-Djava.library.path={self.folder / 'native'}", "-Drobolectric.offline=true",
            f"-Drobolectric.dependency.dir={self.folder / 'framework'}", "--add-opens=java.base/java.lang=ALL-UNNAMED",
            "-cp", ":".join(map(str, [classes, self.folder / "app.jar", *jars])), "org.junit.runner.JUnitCore",
            "org.lastmile.phone.Phone",
        ]  # fmt: skip
        java = shutil.which("java")
        assert java is not None  # the phone's boot asked for it

        def into_view() -> None:
            os.chroot(self.view)
            os.chdir("/")

        environment = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.work), "LC_ALL": "C.UTF-8",
            "LD_LIBRARY_PATH": str(self.folder / "native"), "PHONE_PROPERTIES": json.dumps(dict(self.properties)),
            **self.clock, **self.properties,  # as variables: what Android's libraries ask for, see bionic.c
        }  # fmt: skip
        self.package, self.last_exit = package, ""
        self._answers.clear()
        self.process = subprocess.Popen(
            words, executable=str(Path(java).resolve()), env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=into_view,  # noqa: PLW1509 (two system calls)
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()
        return ""

    def _compiled(self, jars: list[Path], package: str) -> Path:
        """What hosts the app, compiled once for these jars, with the file that tells Robolectric where the app is."""
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
                words: list[str | Path] = ["javac", "-nowarn", "-d", new, "-cp", ":".join(map(str, jars)), HOST]
                done = proc.run(words, timeout=300)
                if done.code != 0:
                    raise RuntimeError(f"javac: {done.err[-2000:]}")
        return folder

    # -- talking with it -----------------------------------------------------------------------------------------------

    def _ask(self, what: Mapping[str, object]) -> str:
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        with self._told:
            if not self._told.wait_for(lambda: self._answers or not self.runs(), START_SECONDS):
                return f"no answer within {START_SECONDS:.0f} s"
            return self._answers.popleft() if self._answers else "its process ended"

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """What the process says: answers to us, and lines for the log."""
        assert process.stdout is not None
        priority, tag = "I", "System.out"
        for line in process.stdout:
            text = line.rstrip("\n")
            if text.startswith("\x01"):
                with self._told:
                    self._answers.append(text[1:])
                    self._told.notify_all()
                continue
            found = re.match(r"([VDIWEF])/([^:]*): (.*)", text)
            if found:
                priority, tag, text = found.groups()
            self.log.add(process.pid, priority, tag, text)
            priority, tag = (priority, tag) if tag == "AndroidRuntime" else ("I", "System.out")
        code = process.wait()
        self._bury(process.pid, code)
        with self._told:
            self._told.notify_all()

    def _bury(self, pid: int, code: int) -> None:
        """What Android's log says of a process that ended."""
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


def _tombstone(report: str, pid: int, package: str) -> list[str]:
    """The JVM's report of a crash in native code, as Android's crash_dump words it."""
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
        f"      #{index:02d} pc {int(offset, 16):016x}  {library}{f' ({what.strip()})' if what.strip() else ''}"
        for index, (library, offset, what) in enumerate(frames)
    ]
    return lines
