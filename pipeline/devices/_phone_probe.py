"""What `inv devices.probe` checks on a phone: every assumption of adb.py and of the app about Android.

Each check is a script of the phone's shell and a pattern that its output must match. `seen` is that output, so that a
probe of a real phone shows the words that it used.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import Assumption
from pipeline.devices._adb import Phone
from pipeline.errors import PipelineError
from pipeline.system import proc
from pipeline.system.proc import Done

SECONDS, END_SECONDS = 30.0, 5.0
SEEN_CHARACTERS = 400

LOCK = r"""
cd "$1" || exit 1
(
  flock -n 9 || echo busy
  (flock -n 8 && echo twice || echo refused) 8<.probe
  [ .probe -ef /proc/self/fd/9 ] && echo same
) 9>.probe
(flock -n 9 && echo free) 9<.probe
rm .probe
"""

TOOLS = r"""
cd "$1" || exit 1
print -r -- abc >.probe && mkdir .probes && mv .probe .probes/a && chmod 711 .probes
sha256sum .probes/a; find .probes -type f -exec stat -c %s {} +; stat -c %a .probes
date '+%m-%d %H:%M:%S.000'; pgrep -f . >/dev/null; rm -r .probes
"""


@dataclass(frozen=True)
class Check:
    """A check that one script makes.

    Attributes:
        script: its arguments are the folder, the package, the activity and the folder of the results.
        holds: what its output must match. Exit codes are part of the output where they count.
        unknown: output that shows nothing either way.
    """

    name: str
    assumed: str
    script: str
    holds: str
    unknown: str = r"(?!)"


SYSTEM = (
    Check("shell", "the shell is mksh", 'echo "$KSH_VERSION"', r"MIRBSD KSH"),
    Check("flock", "flock locks a file's descriptor, and the kernel frees it with its last holder", LOCK,
          r"^refused\nsame\nfree$"),
    Check("toybox", "sha256sum, find, stat, chmod, mv, date and pgrep are there and take our options", TOOLS,
          r"^edeaaff3f1774ad2888673770c6d64097e391bc362d7d6fb34982ddf0efd18cb .*\n4\n711\n\d\d-\d\d [\d:]{8}\.000$"),
    Check("getprop", "the serial number and the build's fingerprint can be read",
          "getprop ro.serialno; getprop ro.build.fingerprint", r"^.+\n.+$"),
    Check("settings", "an unset setting is null", "settings get global lastmile_no_such_setting", r"^null$"),
    Check("stay_on", "svc power stayon keeps the screen on, and the setting can be read",
          "svc power stayon true; settings get global stay_on_while_plugged_in", r"^[1-9]\d*$"),
    Check("fixed_performance", "the power HAL has the fixed-performance mode",
          "cmd power set-fixed-performance-mode-enabled true; echo code $?\n"
          "cmd power set-fixed-performance-mode-enabled false", r"^code 0$"),
    Check("wake", "KEYCODE_WAKEUP turns the screen on, and dumpsys power says so",
          "input keyevent KEYCODE_WAKEUP; sleep 0.5; dumpsys power | grep mWakefulness=", r"mWakefulness=Awake"),
    Check("keyguard", "dumpsys window says whether the lock screen shows, in one of three ways",
          "wm dismiss-keyguard; dumpsys window | grep -E 'isKeyguardShowing|mDreamingLockscreen|mShowingLockscreen'",
          r"(isKeyguardShowing|mDreamingLockscreen|mShowingLockscreen)=(true|false)"),
    Check("power_save", "settings says whether battery saver is on", "settings get global low_power",
          r"^(0|1|null)$"),
    Check("battery", "dumpsys battery has the level and the temperature in tenths of a degree",
          "dumpsys battery | grep -E 'powered|status|level|temperature'", r"level: \d+\n(.*\n)*.*temperature: \d+"),
    Check("thermal_status", "dumpsys thermalservice has the thermal status",
          "dumpsys thermalservice | grep -E 'Status|mName'", r"Thermal Status: \d"),
    Check("thermal_headroom", "the shell can read the thermal headroom", "cmd thermalservice headroom 0; echo code $?",
          r"\d+\.\d+.*\ncode 0", r"code (?!0)|NaN|Unknown command"),
    Check("cpufreq", "the shell can read each cluster's clock and governor",
          "cd /sys/devices/system/cpu/cpufreq && for p in policy*; do\n"
          "echo $p $(cat $p/related_cpus) $(cat $p/scaling_cur_freq $p/cpuinfo_max_freq $p/scaling_governor); done",
          r"policy\d+ .* \d+ \d+ \w+", r"No such file"),
    Check("cpus", "the shell can read which CPUs are online", "cat /sys/devices/system/cpu/online", r"^[\d,-]+$",
          r"No such file"),
    Check("logcat", "logcat takes -d, -b crash and -T with a time",
          "logcat -d -b crash -T \"$(date '+%m-%d %H:%M:%S.000')\" | tail -n 1; echo code $?", r"code 0$"),
)  # fmt: skip
APP = (
    Check("pm", "pm path prints package: and the path of an installed app, and nothing for another",
          'pm path "$2"; echo code $?; pm path org.lastmile.none', r"^package:/.*\.apk\ncode 0$"),
    Check("compile", "cmd package compile compiles the app ahead", 'cmd package compile -m speed -f "$2"; echo code $?',
          r"(^Success|PERFORMED)(.*\n)*code 0"),
    Check("am_start", "am start -W waits for the activity and prints its status",
          'am force-stop "$2"; am start -W -n "$3" --es run none', r"Status: ok(.*\n)*.*Activity: "),
    Check("foreground", "dumpsys window names the focused app after its start",
          "dumpsys window | grep mCurrentFocus", r"mCurrentFocus=.*org\.lastmile\.app"),
    Check("pidof", "the shell sees the app's process in /proc",
          '[ -n "$(pidof "$2")" ] && [ -d /proc/$(pidof "$2") ] && echo visible', r"^visible$"),
    Check("am_missing", "am start says that an activity does not exist",
          'am start -n "$2/.None"; echo code $?', r"does not exist"),
    Check("run_as", "run-as refuses a release build, so results go through the app's own folder on /sdcard",
          'run-as "$2" id; echo code $?', r"not debuggable(.*\n)*code [1-9]"),
    Check("force_stop", "am force-stop ends the app's process",
          'am force-stop "$2"; sleep 0.5; echo "[$(pidof "$2")]"', r"^\[\]$"),
)  # fmt: skip


def assumptions(
    phone: Phone, folder: str, package: str, activity: str, results: str, facts: Callable[[], Done]
) -> Iterator[Assumption]:
    """Checks everything. The caller holds the phone's lock.

    Args:
        facts: runs the app's "facts"; raises a PipelineError if the app is not installed and cannot be.
    """
    yield _exit_code(phone)
    yield _end_of_input(phone, folder)
    yield _push(phone, folder)
    for check in SYSTEM:
        yield _checked(phone, check, folder, package, activity, results)
    try:
        done = facts()
    except PipelineError as error:
        missing = [(check.name, check.assumed) for check in APP] + [(name, assumed) for name, assumed, _ in FACTS]
        yield Assumption(RUNS[0], RUNS[1], str(error), False)
        yield from (Assumption(name, assumed, "the app did not run", None) for name, assumed in missing)
        return
    for check in APP:
        yield _checked(phone, check, folder, package, activity, results)
    yield from _of_app(done)


def _checked(phone: Phone, check: Check, *args: str) -> Assumption:
    done = phone.shell(f"({check.script}) 2>&1", *args, timeout=SECONDS)
    if done.timed_out:
        return Assumption(check.name, check.assumed, f"no answer within {SECONDS:.0f} s", False)
    text = done.out.replace("\r", "").strip()
    holds = re.search(check.holds, text) is not None
    unknown = not holds and re.search(check.unknown, text) is not None
    return Assumption(check.name, check.assumed, _seen(text), None if unknown else holds)


def _seen(text: str) -> str:
    """Output as one line. The words stay as they are."""
    line = " | ".join(line.strip() for line in text.splitlines() if line.strip())
    return line[:SEEN_CHARACTERS] or "nothing"


def _exit_code(phone: Phone) -> Assumption:
    code = phone.adb(["shell", "exit 7"]).code
    return Assumption("exit_code", "adb passes on the exit code of a command", f"exit 7 gave {code}", code == 7)


def _end_of_input(phone: Phone, folder: str) -> Assumption:
    """A client of adb is killed; the shell that it started must notice and go on to its next command."""
    name = f"{folder}/.probe-{secrets.token_hex(4)}"
    argv = ["adb", "-s", phone.serial, "shell", f"trap '' HUP PIPE; echo started; cat >/dev/null; echo >{name}"]
    own = {**os.environ, **phone.env}
    process = proc.started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    began, found = time.monotonic(), False
    while not found and time.monotonic() < began + END_SECONDS:
        found = phone.shell(f"[ -f {name} ] && rm {name}").code == 0
    assumed = "a shell whose client was killed gets the end of its input and runs to its end"
    return Assumption("end_of_input", assumed, "it ran to its end" if found else "it did not end", found)


def _push(phone: Phone, folder: str) -> Assumption:
    content = secrets.token_bytes(1 << 20)
    remote = f"{folder}/.probe"
    with tempfile.TemporaryDirectory() as name:
        local, back = Path(name, "sent"), Path(name, "back")
        local.write_bytes(content)
        codes = [phone.adb(["push", local, remote]).code, phone.adb(["pull", remote, back]).code]
        same = back.is_file() and back.read_bytes() == content
    phone.shell('rm -f "$1"', remote)
    seen = f"codes {codes}, {'the same' if same else 'not the same'}"
    return Assumption("push", "adb push and pull pass a file on unchanged", seen, same)


# -- the app -----------------------------------------------------------------------------------------------------------

RUNS = "app", "the app reads a request from the shell's folder, and the shell reads the result from the app's"


def _present(value: Any) -> bool | None:
    return True if value not in (None, [], "") else None


FACTS: tuple[tuple[str, str, Callable[[dict[str, Any]], tuple[Any, bool | None]]], ...] = (
    ("app_cpufreq", "the app can read each cluster's clock",
     lambda facts: (facts["frequency_hz"], bool(facts["frequency_hz"]))),
    ("app_governor", "the app can read the governor",
     lambda facts: (facts["device"]["governor"], _present(facts["device"]["governor"]))),
    ("app_thermal_status", "the app gets the thermal status",
     lambda facts: (facts["phone"]["thermal_status"], facts["phone"]["thermal_status"] is not None)),
    ("app_thermal_headroom", "the app gets the thermal headroom",
     lambda facts: (facts["phone"]["thermal_headroom"], _present(facts["phone"]["thermal_headroom"]))),
    ("app_battery", "the app gets the battery's level and temperature",
     lambda facts: ([facts["phone"]["battery_level"], facts["temperature_c"]],
                    None not in (facts["phone"]["battery_level"], facts["temperature_c"]))),
    ("app_cores", "the app sees all CPUs of the phone",
     lambda facts: ([facts["device"]["cores"], facts["device"]["cpus"]], _present(facts["device"]["cores"]))),
    ("clear_refs", "the app can reset the kernel's record of its peak memory",
     lambda facts: (facts.get("peak_rss_reset"), facts.get("peak_rss_reset"))),
)  # fmt: skip


def _of_app(done: Done) -> Iterator[Assumption]:
    name, assumed = RUNS
    if done.code != 0:
        yield Assumption(name, assumed, done.reason, False)
        yield from (Assumption(name, assumed, "the app did not run", None) for name, assumed, _ in FACTS)
        return
    yield Assumption(name, assumed, "it did", True)
    facts = json.loads(done.out)
    for name, assumed, judge in FACTS:
        seen, holds = judge(facts)
        yield Assumption(name, assumed, json.dumps(seen), holds)
