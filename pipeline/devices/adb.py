"""An Android phone over adb. On the phone, the app does what edge-bench does on other devices.

Keys of its table in devices.toml: serial (as `adb devices` lists it; required if there are several phones),
chunk_samples (samples per call), cool_down_c (wait before measuring until the battery is no hotter than this),
fixed_performance = true (Android's fixed-performance mode while measuring), board = "phone" (the emulated phone of
`inv devices.emulate`, instead of a serial), summary, targets, runtimes.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import android
from pipeline.core import Device, Probe
from pipeline.devices import _adb, _phone_probe, _probe
from pipeline.devices._adb import Phone
from pipeline.emulate import phone as emulated
from pipeline.errors import BadOption, NeedsTool, PipelineError, StageFailed, Unreachable
from pipeline.system import store
from pipeline.system.proc import Done
from pipeline.system.progress import say
from pipeline.system.store import Store

CHUNK: int | None = 500
RUNTIMES: Mapping[str, str] = {}
DECODES = True
ROUTE: tuple[str, ...] = ("serial", "board", "cool_down_c")
KEYS = (
    "serial", "board", "chunk_samples", "cool_down_c", "fixed_performance", "summary", "targets", "runtimes",
)  # fmt: skip
IN_THE_APP = {"litert": "TensorFlow Lite", "executorch": "ExecuTorch"}
"""Runtimes of the app, and their names in messages."""
PACKAGE = "org.lastmile.app"
ACTIVITY = f"{PACKAGE}/.RunActivity"
FOLDER = "/data/local/tmp/lastmile"
RESULTS = f"/sdcard/Android/data/{PACKAGE}/files/runs"
"""A folder that the app may write and the adb shell may read."""
TRANSFER_SECONDS = _adb.TRANSFER_SECONDS
INSTALL_SECONDS, COOL_SECONDS, COOL_POLL_SECONDS = 600.0, 900.0, 5.0
LOCKED, REFUSED, DIED = 91, 92, 93
"""Exit codes of RUN: the screen is locked, the app did not start, the app's process ended without a result."""

HOLD = r"""
trap "" HUP PIPE
umask 077
clean() { am force-stop "$3"; rm -rf "$1"/runs/* "$1"/files/.tmp-* "$4"/*; }
restore() {
  [ -f fixed ] && cmd power set-fixed-performance-mode-enabled false
  if [ -s stayon ]; then
    read -r old <stayon
    case $old in
      null) settings delete global stay_on_while_plugged_in;;
      *) settings put global stay_on_while_plugged_in "$old";;
    esac
  fi
  rm -f fixed stayon
} >/dev/null 2>&1
for attempt in 1 2 3 4 5; do
  mkdir -p "$1/files" "$1/runs" && chmod 711 "$1" "$1/files" "$1/runs" && cd "$1" || exit 1
  (
    flock -n 9 || { echo "lastmile waits $(cat who)"; flock 9; }
    [ lock -ef /proc/self/fd/9 ] || exit 1
    echo "$2" >who
    echo "$5" >job
    restore
    clean "$@"
    p=$(pm path "$3"); p=${p#package:}
    s=$(getprop ro.serialno) b=$(getprop ro.build.fingerprint)
    echo lastmile held "${s:--}" "${b:--}" $([ -n "$p" ] && sha256sum "$p" | cut -d' ' -f1)
    cat >/dev/null
    restore
    rm -f job
    clean "$@"
    rmdir files 2>/dev/null && rm -rf "$1"
    exit 0
  ) 9>>lock && exit 0
done
exit 1
"""
"""Locks the phone and prints its serial number, its build's fingerprint and the hash of the installed app. Arguments:
FOLDER, who holds the lock, PACKAGE, RESULTS, the job's random name.

At its end, and at its start if a killed job left something, it restores what PREPARE changed. Other apps cannot list
the folders: a file's name is the hash of its content, so only who has the file knows its name.

A job that leaves no file on the phone removes the whole folder, lock included. A job that waited for that lock then
creates a new one."""

GUARD = '[ "$(cat "{0}/job")" = {1} ] && ! (flock -n 9) 9<"{0}/lock"'
"""Succeeds while the job with this name holds the lock. Fields: FOLDER, the job's random name."""

PREPARE = r"""
cd "$1" || exit 1
settings get global stay_on_while_plugged_in >stayon
svc power stayon true
echo "stay_on $(settings get global stay_on_while_plugged_in)"
if [ "$2" = true ]; then
  echo 1 >fixed
  said=$(cmd power set-fixed-performance-mode-enabled true 2>&1)
  echo "fixed_performance $? $said"
fi
exit 0
"""
"""Keeps the screen on while the phone is plugged in and fixes its clocks, and prints what the phone answered. HOLD
restores both. Arguments: FOLDER, whether to use fixed-performance mode."""

HAVE = r"""
cd "$1" || exit 1; shift
for f; do
  if [ -f "$f" ]; then
    case $(sha256sum "$f") in "${f%%/*} "*) continue;; esac
    rm -f "$f"
  fi
  echo "$f"
done
"""
"""Prints which of these files are missing, and removes corrupt ones. Arguments: the folder, then file names."""

TAKE = r"""
cd "$1" || exit 1; shift
for f; do
  case $(sha256sum ".tmp-${f%%/*}") in "${f%%/*} "*) ;; *) echo "$f is incomplete" >&2; exit 1;; esac
  mkdir -p "${f%%/*}" && chmod 711 "${f%%/*}" && chmod 644 ".tmp-${f%%/*}" && mv ".tmp-${f%%/*}" "$f" || exit 1
done
"""
"""Checks the files that were sent and gives them their final names. Arguments: the folder, then file names."""

RUN = r"""
d=$1/runs/$2 o=$4/$2 app=$5
mkdir -p "$d" && chmod 711 "$d" && print -r -- "$3" >"$d/request.json" && chmod 644 "$d/request.json" || exit 1
[ "$7" = fresh ] && am force-stop "$app"
input keyevent KEYCODE_WAKEUP
wm dismiss-keyguard
n=0
while dumpsys window | grep -qE 'isKeyguardShowing=true|mDreamingLockscreen=true|mShowingLockscreen=true'; do
  n=$((n + 1)); [ $n -gt 8 ] && exit 91
  sleep 0.25
done
since=$(date '+%m-%d %H:%M:%S.000')
out=$(am start -W -n "$6" --es run "$2" 2>&1)
pid=$(pidof "$app")
case $out in *Error*|*xception*) [ -n "$pid" ] && { print -r -- "$out" >&2; exit 92; };; esac
case $out in *"does not exist"*|*Denial*|*"Error:"*"inv "*) print -r -- "$out" >&2; exit 92;; esac
n=0
while [ ! -f "$o/result.json" ]; do
  if [ -z "$pid" ] || [ ! -d "/proc/$pid" ]; then
    [ -f "$o/result.json" ] && break
    sleep 0.5
    logcat -d -b crash -T "$since" >&2
    echo ==log== >&2
    logcat -d -T "$since" | grep -E "$app|lowmemorykiller|lmkd|AndroidRuntime|DEBUG|libc  |Lastmile" | tail -n 20 >&2
    exit 93
  fi
  sleep 0.2
done
cat "$o/result.json"
"""
"""Starts a run of the app and waits for its result. Arguments: FOLDER, the run's name, its request, RESULTS, PACKAGE,
ACTIVITY, and "fresh" for a new process of the app."""

CLEAN = r"""
find "$1/files" -type f -exec stat -c %s {} +
p=$(pm path "$2"); p=${p#package:}
[ -n "$p" ] && { stat -c %s "$p"; pm uninstall "$2" >/dev/null; }
rm -rf "$1/files" "$1/runs"; mkdir -p "$1/files" "$1/runs" && chmod 711 "$1/files" "$1/runs"
"""
"""Removes the files and the app, and prints how many bytes each had: the shell's numbers have 32 bits only. Arguments:
FOLDER, PACKAGE."""

ATTEMPTS = 3
"""How often a measurement is tried that something disturbs."""
DISTURBED = {
    "screen_off": "its screen turned off", "call": "a call came in", "foreground_lost": "the app lost the foreground",
}  # fmt: skip
"""Facts of a run of the app that make its times useless, and what they mean."""
UNDISTURBED = "leave the phone alone while it measures (flight mode keeps calls away), then run the same command again"

COMPILED = re.compile(r"^Success|PERFORMED", re.M)
"""What `cmd package compile` prints when it succeeds. Source: androidx.benchmark.macro, CompilationMode.kt."""

THROTTLED = ("throttled_before", "throttled_during", "throttled")
"""Android's thermal statuses before, between and after the runs, each of which is 0x0 if the phone is not throttled."""
MEMORY = (
    "memory_process", "peak_rss_bytes", "peak_rss_reset", "rss_before_load_bytes", "pss_bytes", "pss_before_load_bytes",
)  # fmt: skip
"""Keys of the app's command `memory` that become part of a measurement."""

PHONES: dict[tuple[str, ...], Phone] = {}
"""Phones that this process uses, by name and serial."""


def unsupported(runtime: str) -> str | None:
    """See `DeviceKind.unsupported`."""
    return None if runtime in IN_THE_APP else f"the app runs {' and '.join(IN_THE_APP.values())}, not {runtime}"


def describe(device: Device) -> str:
    """See `DeviceKind.describe`."""
    place = device.options.get("serial", "the one that adb sees")
    place = "board phone" if "board" in device.options else place
    return f"{device.options.get('summary', 'an Android phone')}, {place}"


def unavailable(build: Store, device: Device) -> str | None:
    """See `DeviceKind.unavailable`."""
    try:
        _adb.describe(_phone(build, device))
    except PipelineError as error:
        return str(error).removeprefix(f"{device.name}: ")
    return None


def discover(build: Store, known: Sequence[Device]) -> Iterator[str]:
    """See `DeviceKind.discover`: every phone with its description (see `_adb.describe`), or why it cannot be used."""
    try:
        phones = _adb.listed({})
    except PipelineError as error:
        yield str(error)
        return
    for each in phones:
        try:
            line = each.problem or _adb.describe(Phone(each.serial, each.serial, {}))
        except PipelineError as error:
            line = str(error)
        yield f"{each.serial}: {line}"


@contextlib.contextmanager
def exclusive(build: Store, device: Device) -> Iterator[None]:
    """See `DeviceKind.exclusive`: a shell on the phone holds a lock. When the job ends, it stops the app and removes
    the app's results.

    Raises:
        Unreachable: there is no such phone, or it cannot be used.
    """
    phone = _phone(build, device)
    who = f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}, since {_now()}"
    job = secrets.token_hex(16)
    first = phone.holder is None
    with phone.exclusive(HOLD, FOLDER, who, PACKAGE, RESULTS, job, guard=GUARD.format(FOLDER, job)) as held:
        if first:
            serial, fingerprint, *app = held
            phone.app = app[0] if app else ""
            phone.hardware = _adb.hardware(phone, serial.strip("-"), fingerprint.strip("-"))
            _prepare(phone, device)
        yield


def setup(build: Store, device: Device, runtime: str) -> None:
    """See `DeviceKind.setup`: installs the app, unless exactly this build of it is installed.

    Raises:
        StageFailed: the app has no such runtime, or the phone refuses to install it.
    """
    reason = unsupported(runtime)
    if reason:
        raise StageFailed(f"{device.name}: {reason}")
    with exclusive(build, device):
        phone = _phone(build, device)
        apk = _apk(build)
        digest = store.sha256(apk)
        if phone.app == digest:
            _compile(phone, device)
            return
        say(f"installing the app on {device.name} ({store.size(apk) / 1e6:.1f} MB)")
        done = phone.adb(["install", "--no-streaming", "-r", apk.resolve()], INSTALL_SECONDS)
        output = done.out + done.err
        if done.code != 0 or "Success" not in output:
            raise StageFailed(f"{device.name}: {_install_error(output, done)}")
        phone.traffic.sent_bytes += store.size(apk)
        phone.app = digest
        phone.facts.pop("compiled", None)
        _compile(phone, device)


def hardware(build: Store, device: Device) -> str:
    """See `DeviceKind.hardware`: the serial number and the build's fingerprint. The emulated phones are all the same,
    so one that does not run need not be asked."""
    _check(device)
    if "board" in device.options:
        return f"emulated {device.options['board']}"
    phone = _phone(build, device)
    if not phone.hardware:
        done = phone.shell("getprop ro.serialno; getprop ro.build.fingerprint")
        serial, fingerprint, *_ = [*done.out.splitlines(), "", ""]
        phone.hardware = _adb.hardware(phone, serial.strip(), fingerprint.strip())
    return phone.hardware


def identity(build: Store, device: Device, runtime: str) -> str:
    """See `DeviceKind.identity`: the app's sources, which include the versions of its runtimes."""
    return android.identity()


def push(build: Store, device: Device, files: Sequence[Path]) -> tuple[dict[Path, str], int]:
    """See `DeviceKind.push`: one call lists the missing files, one call per file sends it, and one checks them all.

    Raises:
        StageFailed: the phone has no space left.
        Unreachable: the cable was pulled. An incomplete file is never used.
    """
    with exclusive(build, device):
        phone = _phone(build, device)
        names = {path: _name(path) for path in files}
        wanted = {name: path for path, name in names.items() if name not in phone.known}
        if wanted:
            done = phone.shell(HAVE, f"{FOLDER}/files", *wanted, timeout=TRANSFER_SECONDS)
            _adb.check(done, device.name, "listing its files")
            missing = [(name, wanted[name]) for name in done.out.splitlines()]
        else:
            missing = []
        for name, path in missing:
            sent = phone.adb(["push", path.resolve(), f"{FOLDER}/files/.tmp-{Path(name).parent}"], TRANSFER_SECONDS)
            if sent.code != 0:
                raise _push_error(device, sent)
        if missing:
            done = phone.shell(TAKE, f"{FOLDER}/files", *(name for name, _ in missing), timeout=TRANSFER_SECONDS)
            _adb.check(done, device.name, "checking the sent files")
        phone.known.update(wanted)
        sent_bytes = sum(store.size(path) for _, path in missing)
        phone.traffic.sent_bytes += sent_bytes
    return {path: f"{FOLDER}/files/{name}" for path, name in names.items()}, sent_bytes


def call(build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    """See `DeviceKind.call`: a run of the app.

    Raises:
        StageFailed: the app is not installed, and cannot be.
        Unreachable: the connection was lost, or the screen is locked.
    """
    with exclusive(build, device):
        setup(build, device, runtime)
        return _call(_phone(build, device), device, runtime, words, timeout)


def probe(build: Store, device: Device) -> Probe:
    """See `DeviceKind.probe`. It installs the app, as a bench does, and restores what it sets.

    Raises:
        Unreachable: there is no such phone, or it cannot be used.
    """
    with exclusive(build, device):
        phone = _phone(build, device)

        def facts() -> Done:
            return call(build, device, "litert", ["facts"], _adb.COMMAND_SECONDS)

        found = list(_phone_probe.assumptions(phone, FOLDER, PACKAGE, ACTIVITY, RESULTS, facts))
        names = ("ro.serialno", "ro.build.version.release", "ro.build.version.sdk", "ro.build.version.security_patch")
        answered = phone.shell('for p; do getprop "$p"; done', *names).out.splitlines()
        serial, release, api, patch = [*answered, *[""] * len(names)][: len(names)]
        model = _adb.describe(phone)
        known = phone.hardware
    system = f"Android {release} (API {api}), security patch {patch or 'unknown'}"
    return _probe.made(device, known, model, system, found, [serial, phone.serial])


def clean(build: Store, device: Device) -> int:
    """See `DeviceKind.clean`: also uninstalls the app."""
    with exclusive(build, device):
        phone = _phone(build, device)
        done = _adb.check(phone.shell(CLEAN, FOLDER, PACKAGE, timeout=INSTALL_SECONDS), device.name, "cleaning")
        phone.known.clear()
        phone.app = ""
        phone.facts.pop("compiled", None)
        return sum(map(int, done.out.split()))


# -- before the runs ---------------------------------------------------------------------------------------------------


def _prepare(phone: Phone, device: Device) -> None:
    """Keeps the screen on and fixes the clocks, and notes as facts whether the phone did so."""
    fixed = bool(device.options.get("fixed_performance"))
    done = _adb.check(phone.shell(PREPARE, FOLDER, str(fixed).lower()), device.name, "preparing it")
    answers = dict(line.partition(" ")[::2] for line in done.out.splitlines() if " " in line)
    phone.facts["stay_on"] = answers.get("stay_on", "").strip() not in ("", "0", "null")
    code, _, said = answers.get("fixed_performance", "").partition(" ")
    phone.facts["fixed_performance"] = code == "0" if fixed else None
    phone.facts["fixed_performance_error"] = (said.strip() or f"exit code {code}") if fixed and code != "0" else None


def _compile(phone: Phone, device: Device) -> None:
    """Compiles the app's code ahead of its runs, once a job, as Android's Macrobenchmark does: otherwise the runtime
    interprets and compiles it while a run is measured."""
    if "compiled" in phone.facts:
        return
    done = phone.shell(f"cmd package compile -m speed -f {PACKAGE} 2>&1", timeout=INSTALL_SECONDS)
    if done.timed_out:
        raise Unreachable(f"{device.name}: no response within {INSTALL_SECONDS:.0f} s (compiling the app)")
    succeeded = done.code == 0 and COMPILED.search(done.out) is not None
    phone.facts["compiled"] = "speed" if succeeded else None
    phone.facts["compile_error"] = None if succeeded else done.out.strip()[-200:] or f"exit code {done.code}"


# -- a run -------------------------------------------------------------------------------------------------------------


def _call(phone: Phone, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    """A run of the app. A measurement that something disturbed is repeated; it does not wait for the user.

    Raises:
        StageFailed: every attempt was disturbed.
    """
    if words[:1] != ["run"]:
        return _run(phone, device, runtime, words, timeout)
    for attempt in range(1, ATTEMPTS + 1):
        _cool_down(phone, device)
        done = _run(phone, device, runtime, words, timeout)
        reason = _disturbance(done)
        if reason is None:
            return _with_memory(phone, device, runtime, words, timeout, done)
        if attempt < ATTEMPTS:
            say(f"  {device.name}: {reason} during the run: repeating it ({attempt + 1} of {ATTEMPTS})")
    raise StageFailed(f"{device.name}: {reason} in each of {ATTEMPTS} runs: {UNDISTURBED}")


def _with_memory(
    phone: Phone, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None, done: Done
) -> Done:
    """A measurement with the memory that another process of the app measures: the first one has also timed the model,
    and before that a measurement of memory would have warmed it up."""
    if done.code != 0:
        return done
    memory = _run(phone, device, runtime, ["memory", *words[1:]], timeout)
    if memory.code != 0:
        return memory
    found, value = memory.result(*MEMORY), done.result()
    states = [value[name] for name in THROTTLED if value.get(name) is not None]
    if states:
        value["throttling"] = ["thermal_status"] if any(int(state, 16) for state in states) else []
    return replace(done, out=json.dumps({**value, **{key: found[key] for key in MEMORY}}))


def _disturbance(done: Done) -> str | None:
    """What disturbed a run, as the app noted it; None if nothing did, or the run failed."""
    if done.code != 0:
        return None
    value = done.result()
    return next((text for fact, text in DISTURBED.items() if value.get(fact)), None)


def _run(phone: Phone, device: Device, runtime: str, words: Sequence[str | Path], timeout: float | None) -> Done:
    args, files, outs = _app_args(words)
    run = secrets.token_hex(8)
    request = {"schema": 1, "run": run, "runtime": runtime, "words": args, "files": files}
    argv, started = ("edge-bench", *map(str, words)), time.perf_counter()
    measures = words[:1] in (["run"], ["memory"])
    process = "fresh" if measures else "any"  # so that the measured memory is not that of earlier runs
    sent = json.dumps(request)
    done = phone.shell(RUN, FOLDER, run, sent, RESULTS, PACKAGE, ACTIVITY, process, timeout=timeout)
    phone.traffic.sent_bytes += len(sent)
    phone.traffic.received_bytes += len(done.out)
    if done.timed_out:
        phone.shell('am force-stop "$1"', PACKAGE)
        return Done(argv, -9, "", "", timeout or 0.0, timed_out=True)
    _check_started(device, done)
    names = {
        f"{FOLDER}/files/{_name(word)}": word for word in words if isinstance(word, Path) and word not in outs.values()
    }
    if done.code == DIED:
        phone.known.clear()
        return Done(argv, 1, "", f"edge-bench: the app {_end_reason(done.err)}\n", time.perf_counter() - started)
    try:
        result = json.loads(done.out)
        code, out, err = int(result["code"]), str(result["out"]), str(result["err"])
        value = json.loads(out) if code == 0 else {}
        if "device" in value:
            value["device"] |= phone.facts
            out = json.dumps(value)
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"{device.name}: cannot read the app's result ({error})") from error
    if code == 0:
        for name, path in outs.items():
            _pull(phone, device, f"{RESULTS}/{run}/{name}", path)
    else:
        phone.known.clear()  # a corrupt file may be the reason: the next push checks them all again
    for place, path in names.items():
        err = err.replace(place, str(path))
    return Done(argv, code, out, err, time.perf_counter() - started)


def _app_args(words: Sequence[str | Path]) -> tuple[list[str], dict[str, str], dict[str, Path]]:
    """The app's arguments; the files that it reads, with their hashes; and the files that it writes, by name."""
    args: list[str] = []
    files: dict[str, str] = {}
    outs: dict[str, Path] = {}
    for before, word in zip(["", *words], words, strict=False):
        if isinstance(word, str):
            args.append(word)
        elif before == "--out":
            name = f"{len(outs)}{_suffix(word)}"
            outs[name] = word
            args.append(name)
        else:
            name = _name(word)
            args.append(f"{FOLDER}/files/{name}")
            files[args[-1]] = name.partition("/")[0]
    return args, files, outs


def _pull(phone: Phone, device: Device, remote: str, local: Path) -> None:
    done = phone.adb(["pull", remote, local.resolve()], TRANSFER_SECONDS)
    if done.code != 0:
        raise StageFailed(f"{device.name}: the app's output could not be fetched: {done.reason}")
    phone.traffic.received_bytes += store.size(local)


def _check_started(device: Device, done: Done) -> None:
    """
    Raises:
        Unreachable, StageFailed: the run did not start. The message has the reason.
    """
    if done.code == LOCKED:
        raise Unreachable(
            f"{device.name}: its screen is locked: unlock it (Android slows down apps behind the lock screen) "
            "and run the same command again: finished work is kept"
        )
    lines = done.err.strip().splitlines()
    if done.code == REFUSED:
        errors = [line for line in lines if "rror" in line or "xception" in line or "Denial" in line]
        reason = errors[-1].strip() if errors else done.reason
        raise StageFailed(f"{device.name}: the app could not be started: {reason}")
    if done.code not in (0, DIED):
        if any("No space" in line for line in lines):
            raise StageFailed(f"{device.name}: no space left on it; {_FREES.format(device.name)}")
        raise Unreachable(f"{device.name}: {lines[-1] if lines else _adb.LOST}")


def _end_reason(log: str) -> str:
    """How the app's process ended, from the phone's log: the crash buffer, "==log==", and the last lines."""
    crash, _, rest = log.partition("==log==\n")
    texts = [line.partition(": ")[2].strip() for line in crash.splitlines() if ": " in line]
    starts = [
        index for index, text in enumerate(texts) if re.match(r"FATAL EXCEPTION|\*\*\* \*\*\*|Fatal signal", text)
    ]
    texts = texts[starts[-1] if starts else 0 :]  # the last crash only: `since` in RUN has whole seconds
    signal = next((text for text in texts if re.match(r"(Fatal )?signal \d+", text)), None)
    abort = next((text for text in texts if text.startswith("Abort message")), None)
    frames = [text for text in texts if re.match(r"#\d\d pc ", text)][:3]
    if signal:
        return "crashed in native code: " + "; ".join(filter(None, [signal, abort, *frames]))
    fatal = next((index for index, text in enumerate(texts) if text.startswith("FATAL EXCEPTION")), None)
    if fatal is not None:
        causes = [text for text in texts[fatal + 1 :] if not text.startswith(("at ", "Process:", "... "))]
        return f"crashed: {causes[-1] if causes else texts[fatal]}"
    last = [line.partition(": ")[2].strip() for line in rest.splitlines()][-2:]
    return f"was ended by the system or the user; the last lines of its log: {' | '.join(last) or 'none'}"


def _cool_down(phone: Phone, device: Device) -> None:
    """Waits until the battery is at or below cool_down_c.

    Raises:
        StageFailed: it stays hotter.
    """
    limit = device.options.get("cool_down_c")
    end = time.monotonic() + COOL_SECONDS
    while limit is not None:
        found = re.search(r"temperature: (\d+)", phone.shell("dumpsys battery").out)
        if found is None or int(found[1]) / 10 <= limit:
            return
        if time.monotonic() > end:
            raise StageFailed(f"still at {int(found[1]) / 10:.0f} °C after {COOL_SECONDS:.0f} s: above cool_down_c")
        time.sleep(COOL_POLL_SECONDS)


# -- error messages ----------------------------------------------------------------------------------------------------

_FREES = "inv devices.clean --device {} removes Lastmile's files from it; nothing was lost"
INSTALL_ERRORS = {
    "INSTALL_FAILED_UPDATE_INCOMPATIBLE": (
        f"{PACKAGE} is installed but signed with another key: adb uninstall {PACKAGE} removes it and its data"
    ),
    "INSTALL_FAILED_VERSION_DOWNGRADE": (
        f"a newer version of the app is installed: adb uninstall {PACKAGE} removes it, or update this checkout"
    ),
    "INSTALL_FAILED_INSUFFICIENT_STORAGE": "no space for the app: free some on the phone",
    "No space left": "no space for the app: free some on the phone",
    "not enough space": "no space for the app: free some on the phone",
    "INSTALL_FAILED_NO_MATCHING_ABIS": "the app was built for other processors: build it with inv android.build --abi",
    "INSTALL_FAILED_OLDER_SDK": "the app requires Android 8.0 or later",
    "INSTALL_FAILED_USER_RESTRICTED": "it does not allow installation over USB: allow it in the developer options",
    "INSTALL_FAILED_VERIFICATION": "the user or Play Protect rejected the app: allow it on the screen",
}
"""Error of the phone's package manager → what it means and how to fix it."""


def _install_error(output: str, done: Done) -> str:
    for code, line in INSTALL_ERRORS.items():
        if code in output:
            return line
    found = re.search(r"Failure \[(.*)]", output)
    return f"the app could not be installed: {found[1] if found else done.reason}"


def _push_error(device: Device, done: Done) -> PipelineError:
    if "No space" in done.err + done.out:
        return StageFailed(f"{device.name}: no space left on it; {_FREES.format(device.name)}")
    return Unreachable(f"{device.name}: {_adb.LOST}")


# -- which phone -------------------------------------------------------------------------------------------------------


def _phone(build: Store, device: Device) -> Phone:
    """The phone that a table of devices.toml describes.

    Raises:
        BadOption: a key of the table is unknown, or its value is invalid.
        NeedsTool, Unreachable: adb is not installed, or there is no such phone.
    """
    _check(device)
    serial, env = device.options.get("serial"), {}
    if "board" in device.options:
        endpoint = emulated.endpoint(build)
        if isinstance(endpoint, str):
            raise Unreachable(f"{device.name}: {endpoint}")
        serial, env = endpoint["ANDROID_SERIAL"], endpoint
    held = next((phone for phone in _adb.HELD if phone.name == device.name and phone.env == env), None)
    if held:
        return held
    serial = serial or os.environ.get("ANDROID_SERIAL")
    chosen = _adb.choose(device.name, _adb.listed(env), serial)
    return PHONES.setdefault(
        (device.name, chosen.serial, *sorted(env.values())), Phone(device.name, chosen.serial, env)
    )


def _check(device: Device) -> None:
    """
    Raises:
        BadOption: a key of the table is unknown, or its value is invalid.
    """
    where = f"[{device.name}] of devices.toml"
    for key, value in device.options.items():
        if key not in KEYS:
            raise BadOption(f"{where}: unknown key {key!r} (known: {', '.join(sorted(KEYS))})")
        if key in ("serial", "summary") and not (isinstance(value, str) and value):
            raise BadOption(f"{where}: {key} = {value!r} is not a string")
    size = device.options.get("chunk_samples", 1)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise BadOption(f"{where}: chunk_samples = {size!r} is not a positive integer")
    limit = device.options.get("cool_down_c", 0)
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        raise BadOption(f"{where}: cool_down_c = {limit!r} is not a number of °C")
    if not isinstance(device.options.get("fixed_performance", False), bool):
        raise BadOption(f"{where}: fixed_performance must be true or false")
    if device.options.get("board", emulated.BOARD) != emulated.BOARD:
        raise BadOption(f'{where}: board = {device.options["board"]!r} is unknown (known: "{emulated.BOARD}")')


def _apk(build: Store) -> Path:
    """The app's APK.

    Raises:
        NeedsTool: it has not been built yet.
    """
    apk = android.path(build)
    if not apk.is_file():
        raise NeedsTool(f"the app {apk} does not exist: build it with inv android.build")
    return apk


def _name(path: Path) -> str:
    """A file's name on the phone: the hash of its content as a folder, and "file" with its suffix."""
    return f"{store.sha256(path)}/file{_suffix(path)}"


def _suffix(path: Path) -> str:
    return path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", path.suffix) else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
