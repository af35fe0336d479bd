"""The system's adb client: which phones it sees, commands in their shell, and one shell that holds the phone for a job.

Nothing is asked of a phone but by argv lists; the words that its shell sees are quoted by `_quoted` and nowhere else. A
job's shell holds a lock that the phone's kernel frees when that shell ends: when the job is done, when this process
ends in whatever way, or when the cable is pulled; it then cleans up by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import StageFailed, Unreachable
from pipeline.system import packages, proc
from pipeline.system.proc import Done
from pipeline.system.progress import say

ASK_SECONDS, SEND_SECONDS, END_SECONDS = 60.0, 3600.0, 20.0
READY = "device"
"""What adb calls a phone that can be used."""
MENDS = {
    "unauthorized": "it does not trust this computer yet: unlock it and allow USB debugging",
    "offline": "adb calls it offline: unplug it and plug it in again (adb reconnect offline)",
    "no permissions": "this user may not open its USB device: apt-get install android-sdk-platform-tools-common",
    "recovery": "it is in recovery: start its system",
    "sideload": "it is in recovery: start its system",
    "bootloader": "it is in its boot loader: start its system",
    "authorizing": "it is still asking whether it trusts this computer: unlock it and allow USB debugging",
    "connecting": "adb is still connecting to it: try again in a moment",
}
"""What adb calls a phone → what that means, and what mends it."""
NONE = "adb sees no phone: plug one in, and allow USB debugging on it (Settings, Developer options)"
GONE = re.compile(
    r"^error: |^adb: .*(not found|no devices|offline|unauthorized|closed|protocol fault|reset|refused|no response|EOF)"
    r"|cannot connect to daemon|couldn't read from device", re.M,
)  # fmt: skip
"""What adb says on standard error where the phone went away, or adb's own server did."""
ENDED = "lastmile ended with "
LOST = "the connection was lost; run the same command again: what is finished is kept"
PROPERTIES = (
    "ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model", "ro.product.cpu.abi",
    "ro.build.version.release",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A phone that adb sees.

    Attributes:
        state: "device" where it can be used; else why not, as adb says it.
    """

    serial: str
    state: str

    @property
    def trouble(self) -> str | None:
        """Why it cannot be used, and what mends it."""
        if self.state == READY:
            return None
        known = next((line for word, line in MENDS.items() if self.state.startswith(word)), None)
        return known or f"adb calls it {self.state!r}"


@dataclass
class Traffic:
    """What went over the line. Attributes: trips: calls of adb that asked the phone something."""

    trips: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass
class Phone:
    """A phone that can be asked.

    Attributes:
        name: what devices.toml calls it.
        env: variables for adb, where it is not the user's own server that is asked.
        known: files that were found whole on it in this job.
        app: sha256 of the installed app's APK; empty where there is none.
    """

    name: str
    serial: str
    env: Mapping[str, str]
    traffic: Traffic = field(default_factory=Traffic)
    known: set[str] = field(default_factory=set)
    app: str = ""
    holder: subprocess.Popen[str] | None = None
    depth: int = 0

    def adb(self, words: Sequence[str | Path], timeout: float | None = ASK_SECONDS) -> Done:
        """Runs `adb -s SERIAL WORDS`.

        Raises:
            Unreachable: the phone is gone.
        """
        self.traffic.trips += 1
        done = proc.run(["adb", "-s", self.serial, *words], timeout=timeout, env=self.env)
        if done.code != 0 and GONE.search(done.err) and not done.timed_out:
            raise Unreachable(f"{self.name}: {LOST}")
        return done

    def shell(self, script: str, *words: str, timeout: float | None = ASK_SECONDS) -> Done:
        """Runs a script of ours in the phone's shell; it sees `words` as $1, $2, …

        Its last line says that it came to its end: where the line is lost, adb itself may say that all is well.

        Raises:
            Unreachable: it did not come to its end, and not because its time was up.
        """
        ending = f"({script}\n)\ncode=$?; echo; echo {ENDED}$code; exit $code"
        done = self.adb(["shell", _quoted(ending, words)], timeout)
        out, ended, code = done.out.rpartition(f"\n{ENDED}")
        if done.timed_out:
            return done
        if not ended or not code.strip().isdigit():
            raise Unreachable(f"{self.name}: {LOST}")
        return replace(done, code=int(code), out=out)

    @contextlib.contextmanager
    def exclusive(self, script: str, *words: str) -> Iterator[list[str]]:
        """Holds the phone by a script that says "held" once it does and ends with its standard input.

        Lines that begin with "waits " say for whom it waits. Inside another such block this does nothing.

        Returns:
            The words that followed "held".

        Raises:
            Unreachable: the phone went away, or would not.
        """
        if self.holder is not None:
            self.depth += 1
            try:
                yield []
            finally:
                self.depth -= 1
            return
        self.traffic.trips += 1
        process = subprocess.Popen(
            ["adb", "-s", self.serial, "shell", _quoted(script, words)], env={**os.environ, **self.env},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        self.holder = process
        HELD.append(self)
        try:
            yield self._held(process)
        finally:
            self.release()

    def _held(self, process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "waits":
                say(f"{self.name} is in use by {rest or 'another job'}; waiting for it")
            elif word == "held":
                return rest.split()
        told = process.stderr.read().strip()
        raise Unreachable(f"{self.name}: {told.splitlines()[-1] if told and not GONE.search(told) else LOST}")

    def release(self) -> None:
        """Ends the holding shell, which cleans up; where it does not end by itself, its line is cut."""
        process, self.holder = self.holder, None
        self.known.clear()
        if self in HELD:
            HELD.remove(self)
        if process is None:
            return
        try:
            process.communicate(timeout=END_SECONDS)  # closes its standard input
        except (subprocess.TimeoutExpired, ValueError):
            proc.end(process)
            process.wait()


HELD: list[Phone] = []


def seen(env: Mapping[str, str]) -> list[Seen]:
    """Every phone that adb sees.

    Raises:
        NeedsTool: there is no adb.
        Unreachable: its server does not answer.
    """
    packages.require("phones")
    done = proc.run(["adb", "devices", "-l"], timeout=ASK_SECONDS, env=env)
    if done.code != 0:
        raise Unreachable(f"adb does not answer ({done.reason}); adb kill-server may mend it")
    found = []
    for line in done.out.splitlines():
        serial, _, rest = line.partition(" " if "\t" not in line else "\t")
        state = re.split(r"\s+(?:usb|product|model|device|transport_id):|;", rest.strip())[0].strip()
        if state and not line.startswith(("List of devices", "*")):
            found.append(Seen(serial, state))
    return found


def choose(name: str, phones: Sequence[Seen], serial: str | None) -> Seen:
    """The phone that is meant: the one named, or the only one.

    Raises:
        Unreachable: there is none, there are several, or it cannot be used; in one line, with what mends it.
    """
    if serial is None and len(phones) > 1:
        listed = ", ".join(phone.serial for phone in phones)
        raise Unreachable(f'{name}: adb sees {len(phones)} phones ({listed}): say serial = "…" in devices.toml')
    found = next((phone for phone in phones if serial in (None, phone.serial)), None)
    if found is None:
        others = f" (it sees {', '.join(phone.serial for phone in phones)})" if phones else ""
        raise Unreachable(f"{name}: {NONE if serial is None else f'adb sees no phone {serial}{others}: plug it in'}")
    if found.trouble:
        raise Unreachable(f"{name}: {found.serial}: {found.trouble}")
    return found


def describe(phone: Phone) -> str:
    """Maker and model, SoC, ABI and Android version, in a line."""
    done = phone.shell('for p; do getprop "$p"; done', *PROPERTIES)
    maker, model, chip_maker, chip, abi, release = [*done.out.splitlines(), *[""] * len(PROPERTIES)][: len(PROPERTIES)]
    return f"{maker} {model}, {' '.join(filter(None, (chip_maker, chip))) or 'SoC unknown'}, {abi}, Android {release}"


def check(done: Done, name: str, doing: str) -> Done:
    """
    Raises:
        Unreachable: it took too long.
        StageFailed: it failed; the reason is the phone's.
    """
    if done.timed_out:
        raise Unreachable(f"{name}: no answer within {done.seconds:.0f} s ({doing})")
    if done.code != 0:
        told = [line for line in (done.err + done.out).splitlines() if line.strip()]
        raise StageFailed(f"{name}: {doing} failed: {told[-1].strip() if told else f'exit code {done.code}'}")
    return done


def _quoted(script: str, words: Iterable[str]) -> str:
    """What the phone's shell is given: a script and its words, each of which arrives as it is."""
    return shlex.join(["sh", "-c", script, "lastmile", *words])


@atexit.register
def close_all() -> None:
    """Lets go of every phone."""
    for phone in list(HELD):
        phone.release()
