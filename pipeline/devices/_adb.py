"""The system's adb client: lists phones, runs commands in their shell, and locks a phone for the duration of a job.

adb is always called with an argument list, and only `_quoted` quotes anything for the phone's shell. A job keeps one
shell open that holds a lock. The phone's kernel frees the lock when that shell ends: when the job is done, when this
process ends for any reason, or when the cable is pulled. The shell then cleans up by itself.
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
from typing import Any

from pipeline.errors import StageFailed, Unreachable
from pipeline.system import packages, proc
from pipeline.system.proc import Done
from pipeline.system.progress import say

COMMAND_SECONDS, TRANSFER_SECONDS, END_SECONDS = 60.0, 3600.0, 20.0
READY = "device"
"""adb's state of a phone that can be used."""
FIXES = {
    "unauthorized": "it does not trust this computer yet: unlock it and allow USB debugging",
    "offline": "adb reports it as offline: unplug it and plug it in again (adb reconnect offline)",
    "no permissions": "this user may not open its USB device: apt-get install android-sdk-platform-tools-common",
    "recovery": "it is in recovery mode: start Android",
    "sideload": "it is in recovery mode: start Android",
    "bootloader": "it is in the bootloader: start Android",
    "authorizing": "it is still asking whether to trust this computer: unlock it and allow USB debugging",
    "connecting": "adb is still connecting to it: try again in a moment",
}
"""State that adb reports → what it means and how to fix it."""
NONE = "adb sees no phone: plug one in and allow USB debugging on it (Settings, Developer options)"
GONE = re.compile(
    r"^error: |^adb: .*(not found|no devices|offline|unauthorized|closed|protocol fault|reset|refused|no response|EOF)"
    r"|cannot connect to daemon|couldn't read from device", re.M,
)  # fmt: skip
"""What adb prints on standard error when the phone or adb's own server goes away."""
MARK, ENDED = "lastmile output follows", "lastmile ended with "
"""Around what a script prints. The phone's shell may print more."""
UNLOCKED = 99
"""Exit code of a script whose job does not hold the lock."""
LOST = "the connection was lost; run the same command again: finished work is kept"
LOCK_LOST = (
    "this job lost its lock on the phone (adb's server restarted, or the shell that held it ended); "
    "run the same command again: finished work is kept"
)
PROPERTIES = (
    "ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model", "ro.product.cpu.abi",
    "ro.build.version.release",
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """A phone that adb lists.

    Attributes:
        state: "device" if it can be used, otherwise the reason in adb's words.
    """

    serial: str
    state: str

    @property
    def problem(self) -> str | None:
        """Why it cannot be used and how to fix that; None if it can be used."""
        if self.state == READY:
            return None
        known = next((line for state, line in FIXES.items() if self.state.startswith(state)), None)
        return known or f"adb reports its state as {self.state!r}"


@dataclass
class Traffic:
    """What went over the connection.

    Attributes:
        trips: calls of adb that sent the phone a request.
    """

    trips: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass
class Phone:
    """A phone that takes commands.

    Attributes:
        name: its name in devices.toml.
        env: environment variables for adb; empty for the user's own adb server.
        known: files that this job has found intact on the phone.
        app: sha256 of the installed app's APK; empty if the app is not installed.
        hardware: what tells it from other phones, once it was asked; see `hardware`.
        holder: the process whose shell holds the lock during a job.
        depth: how many `exclusive` blocks are nested in the first.
        guard: shell code that succeeds while this job holds the lock; every script runs it before and after its own
            code.
        facts: what the job set on the phone, for its measurements.
    """

    name: str
    serial: str
    env: Mapping[str, str]
    traffic: Traffic = field(default_factory=Traffic)
    known: set[str] = field(default_factory=set)
    app: str = ""
    hardware: str = ""
    holder: subprocess.Popen[str] | None = None
    depth: int = 0
    guard: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def adb(self, args: Sequence[str | Path], timeout: float | None = COMMAND_SECONDS) -> Done:
        """Runs `adb -s SERIAL ARGS`.

        Raises:
            Unreachable: the phone is gone, or this job has lost its lock.
        """
        if self.holder is not None and self.holder.poll() is not None:
            raise Unreachable(f"{self.name}: {LOCK_LOST}")
        self.traffic.trips += 1
        done = proc.run(["adb", "-s", self.serial, *args], timeout=timeout, env=self.env)
        if done.code != 0 and GONE.search(done.err) and not done.timed_out:
            raise Unreachable(f"{self.name}: {LOST}")
        return done

    def shell(self, script: str, *args: str, timeout: float | None = COMMAND_SECONDS) -> Done:
        """Runs a script in the phone's shell with `args` as $1, $2, …

        Marks surround its output. The last one shows that the script finished: adb may report success after a lost
        connection. During a job the script must hold the lock at its start and at its end, and therefore throughout:
        a lock that was lost does not come back.

        Raises:
            Unreachable: the script did not finish, for another reason than the timeout, or this job lost its lock.
        """
        guard = self.guard or "true"
        ending = (
            f"echo {MARK}; if {guard}; then ({script}\n)\ncode=$?; {guard} || code={UNLOCKED}; else code={UNLOCKED}; fi"
            f"; echo; echo {ENDED}$code; exit $code"
        )
        done = self.adb(["shell", _quoted(ending, args)], timeout)
        printed, ended, code = done.out.rpartition(f"\n{ENDED}")
        out = printed.partition(f"{MARK}\n")[2]
        if done.timed_out:
            return done
        if self.guard and code.strip() == str(UNLOCKED):
            raise Unreachable(f"{self.name}: {LOCK_LOST}")
        if not ended or not code.strip().isdigit():
            raise Unreachable(f"{self.name}: {LOST}")
        return replace(done, code=int(code), out=out)

    @contextlib.contextmanager
    def exclusive(self, script: str, *args: str, guard: str = "") -> Iterator[list[str]]:
        """Locks the phone with a script that prints "lastmile held" once it has the lock and ends with its standard
        input.

        The script prints "lastmile waits NAME" while another job has the phone. Nested blocks do nothing.

        Args:
            guard: see the attribute.

        Yields:
            The words that follow "held".

        Raises:
            Unreachable: the phone went away, or the script failed.
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
            ["adb", "-s", self.serial, "shell", _quoted(script, args)], env={**os.environ, **self.env},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        self.holder = process
        HELD.append(self)
        proc.RUNNING.add(process)
        try:
            held = self._held(process)
            self.guard = guard
            yield held
        finally:
            self.release()

    def _held(self, process: subprocess.Popen[str]) -> list[str]:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            mark, _, message = line.rstrip("\n").partition(" ")
            word, _, rest = message.partition(" ")
            if mark != "lastmile":
                continue  # the phone's shell printed it
            if word == "waits":
                say(f"{self.name} is in use by {rest or 'another job'}; waiting for it")
            elif word == "held":
                return rest.split()
        err = process.stderr.read().strip()
        proc.check_interrupt()
        raise Unreachable(f"{self.name}: {err.splitlines()[-1] if err and not GONE.search(err) else LOST}")

    def release(self) -> None:
        """Ends the shell that holds the lock. It cleans up first; if it does not end in time, it is killed."""
        process, self.holder, self.guard = self.holder, None, ""
        self.known.clear()
        self.facts.clear()
        if self in HELD:
            HELD.remove(self)
        if process is None:
            return
        proc.RUNNING.discard(process)
        try:
            process.communicate(timeout=END_SECONDS)  # closes its standard input
        except (subprocess.TimeoutExpired, ValueError):
            proc.end(process)
            process.wait()


HELD: list[Phone] = []
"""Phones that this process has locked."""


def listed(env: Mapping[str, str]) -> list[Listed]:
    """Every phone that adb lists.

    Raises:
        NeedsTool: adb is not installed.
        Unreachable: adb's server does not respond.
    """
    packages.require("phones")
    done = proc.run(["adb", "devices", "-l"], timeout=COMMAND_SECONDS, env=env)
    if done.code != 0:
        raise Unreachable(f"adb does not respond ({done.reason}); adb kill-server may fix it")
    found = []
    for line in done.out.splitlines():
        serial, _, rest = line.partition(" " if "\t" not in line else "\t")
        state = re.split(r"\s+(?:usb|product|model|device|transport_id):|;", rest.strip())[0].strip()
        if state and not line.startswith(("List of devices", "*")):
            found.append(Listed(serial, state))
    return found


def choose(name: str, phones: Sequence[Listed], serial: str | None) -> Listed:
    """The phone with this serial, or the only one if `serial` is None.

    Raises:
        Unreachable: there is none, there are several, or it cannot be used. The message says how to fix it.
    """
    serials = ", ".join(phone.serial for phone in phones)
    if serial is None and len(phones) > 1:
        raise Unreachable(f'{name}: adb sees {len(phones)} phones ({serials}): set serial = "…" in devices.toml')
    found = next((phone for phone in phones if serial in (None, phone.serial)), None)
    if found is None:
        others = f" (it sees {serials})" if phones else ""
        raise Unreachable(f"{name}: {NONE if serial is None else f'adb sees no phone {serial}{others}: plug it in'}")
    if found.problem:
        raise Unreachable(f"{name}: {found.serial}: {found.problem}")
    return found


def describe(phone: Phone) -> str:
    """Manufacturer and model, SoC, ABI and Android version, in one line."""
    done = phone.shell('for p; do getprop "$p"; done', *PROPERTIES)
    maker, model, chip_maker, chip, abi, release = [*done.out.splitlines(), *[""] * len(PROPERTIES)][: len(PROPERTIES)]
    return f"{maker} {model}, {' '.join(filter(None, (chip_maker, chip))) or 'SoC unknown'}, {abi}, Android {release}"


def hardware(phone: Phone, serial: str, fingerprint: str) -> str:
    """What tells a phone from others. Its own serial number, because over Wi-Fi adb's is an address."""
    return f"serial {serial or phone.serial}" + (f", build {fingerprint}" if fingerprint else "")


def check(done: Done, name: str, doing: str) -> Done:
    """Returns `done` if it succeeded.

    Raises:
        Unreachable: it timed out.
        StageFailed: it failed. The message has the phone's last line of output.
    """
    if done.timed_out:
        raise Unreachable(f"{name}: no response within {done.seconds:.0f} s ({doing})")
    if done.code != 0:
        lines = [line for line in (done.err + done.out).splitlines() if line.strip()]
        raise StageFailed(f"{name}: {doing} failed: {lines[-1].strip() if lines else f'exit code {done.code}'}")
    return done


def _quoted(script: str, args: Iterable[str]) -> str:
    """A command line for the phone's shell: a script and its arguments, passed on unchanged."""
    return shlex.join(["sh", "-c", script, "lastmile", *args])


@atexit.register
def close_all() -> None:
    """Releases every phone."""
    for phone in list(HELD):
        phone.release()
