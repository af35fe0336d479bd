"""The machine's side of a probe, for boards and for this machine: checks what Lastmile assumes and prints JSON.

It is sent to a board as one text and runs there alone: Python 3.7, standard library only. Its arguments are Lastmile's
folder there and, in tests, another root for /proc, /sys and /etc. It changes nothing: its files are in a temporary
folder that it removes.

Every check is a function that returns what it saw and whether the assumption holds: True, False, or None where this
machine cannot show it. A check that raises saw the error, and None.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Seen = tuple[str, bool | None]

SECONDS = 10
MIB = 1 << 20
NEEDED_BYTES = 500 * MIB
"""A runtime and the images of a dataset."""
MAC = sys.platform == "darwin"
ABSENT = "no such file"

ROOT = Path("/")
FOLDER = Path("/tmp")


def read(name: str) -> str | None:
    """The content of a small file of the kernel; None if it is missing, empty or unreadable."""
    try:
        return (ROOT / name).read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def printed(*argv: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def python(code: str, *args: str) -> str:
    """What a new Python process prints."""
    argv = [sys.executable, "-c", code, *args]
    return subprocess.run(argv, stdout=subprocess.PIPE, timeout=SECONDS, check=True).stdout.decode().strip()


def numbers(text: str) -> set[int]:
    """The CPUs of a list such as "0-3,6"."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


# -- the system --------------------------------------------------------------------------------------------------------


def python_version() -> Seen:
    return platform.python_version(), sys.version_info >= (3, 9)


def bits() -> Seen:
    return f"{platform.machine()}, {8 * struct.calcsize('P')} bits", struct.calcsize("P") == 8


def c_library() -> Seen:
    name = os.confstr("CS_GNU_LIBC_VERSION") or "not glibc"
    version = re.findall(r"\d+", name)
    return name, name.startswith("glibc") and tuple(map(int, version[:2])) >= (2, 28)


def identity() -> Seen:
    """The texts are hidden: only whether there are any is reported."""
    places = "proc/device-tree/serial-number", "etc/machine-id"
    found = [Path(place).name for place in places if read(place)]
    return " and ".join(found) or "neither", bool(found)


def locale() -> Seen:
    argv = [sys.executable, "-c", "print('\\u00e4\\u2713')"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
    done = subprocess.run(argv, capture_output=True, env=environment, check=False)
    return repr(done.stdout.decode(errors="replace").strip()), done.stdout == "ä✓\n".encode()


# -- the folder --------------------------------------------------------------------------------------------------------


def free_disk() -> Seen:
    folder = FOLDER
    while not folder.exists():
        folder = folder.parent
    space = os.statvfs(str(folder))
    free = space.f_bavail * space.f_frsize
    return f"{free / 1e9:.1f} GB free", free >= NEEDED_BYTES


def umask() -> Seen:
    mask = os.umask(0o077)
    os.umask(mask)
    return f"{mask:03o}", mask & 0o700 == 0


def flock() -> Seen:
    """A child holds the lock; this process tries to get it, kills the child, and tries again."""
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    with tempfile.NamedTemporaryFile(dir=_writable()) as file:
        argv = [sys.executable, "-c", code, file.name]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            child.stdout.readline()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "two processes hold one lock", False
            except BlockingIOError:
                pass
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return "exclusive, and free after its holder was killed", True


def job_lock() -> Seen:
    """The job that probes holds this lock, so another process cannot get it."""
    lock = next((path for path in (FOLDER / "lock", FOLDER / ".lock") if path.exists()), None)
    if lock is None:
        return "no lock file", None
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "held by the job that probes", True
    return "free during a job", False


def executable() -> Seen:
    """Runtimes are shared libraries in this folder."""
    folder = FOLDER
    while not folder.exists():
        folder = folder.parent
    noexec = bool(os.statvfs(str(folder)).f_flag & os.ST_NOEXEC) if hasattr(os, "ST_NOEXEC") else False
    return "mounted noexec" if noexec else "programs may run from it", not noexec


def _writable() -> str:
    return str(FOLDER) if os.access(str(FOLDER), os.W_OK) else tempfile.gettempdir()


# -- the clock and the CPUs --------------------------------------------------------------------------------------------


def clock() -> Seen:
    """The smallest step between two readings, in nanoseconds."""
    steps = []
    for _ in range(2000):
        begin = time.perf_counter_ns()
        end = time.perf_counter_ns()
        if end != begin:
            steps.append(end - begin)
    least = min(steps, default=0)
    return (
        f"smallest step {least} ns, resolution {time.get_clock_info('perf_counter').resolution:g} s",
        0 < least <= 1000,
    )


def affinity() -> Seen:
    """Pins a child to the last CPU that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return "this system cannot pin a process", None
    cpus = sorted(os.sched_getaffinity(0))
    code = (
        "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); sum(range(10**6))\n"
        "print(open('/proc/self/stat').read().rpartition(')')[2].split()[36])"
    )
    on = python(code, str(cpus[-1]))
    return f"may use {cpus}; pinned to {cpus[-1]}, it ran on {on}", on == str(cpus[-1])


def isolated() -> Seen:
    text = read("sys/devices/system/cpu/isolated")
    if not (ROOT / "sys/devices/system/cpu/isolated").exists():
        return ABSENT, None
    return f"isolated {text or 'none'}", bool(re.fullmatch(r"[\d,-]*", text or ""))


def cgroup() -> Seen:
    lines = (read("proc/self/cgroup") or "").splitlines()
    if not lines:
        return ABSENT, None
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    places = [f"sys/fs/cgroup{path.rstrip('/')}/cpu.max", "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/cpu/cpu.cfs_quota_us"]
    found = next(((place, text) for place in places for text in [read(place)] if text), None)
    if found is None:
        return "no limit of CPU time is set", None
    return f"{Path(found[0]).name} {found[1]}", bool(re.fullmatch(r"(max|\d+) \d+|-?\d+", found[1]))


def cpu_names() -> Seen:
    text = read("proc/cpuinfo") or ""
    names = dict.fromkeys(re.findall(r"^(?:model name|CPU part)\s*:\s*(.*)$", text, re.MULTILINE))
    return ", ".join(names) or "no name", bool(names)


def cpufreq() -> Seen:
    policies = sorted((ROOT / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    if not policies:
        return "no policy", None
    seen, missing, covered = [], [], set()
    for policy in policies:
        place = str(policy.relative_to(ROOT))
        files = {
            name: read(f"{place}/{name}")
            for name in ("related_cpus", "scaling_governor", "scaling_cur_freq", "cpuinfo_max_freq")
        }
        missing += [f"{policy.name}/{name}" for name, text in files.items() if text is None]
        covered |= {int(cpu) for cpu in (files["related_cpus"] or "").split()}
        seen.append(" ".join([policy.name, *(text or "?" for text in files.values())]))
    online = numbers(read("sys/devices/system/cpu/online") or "")
    return "; ".join([*seen, *(f"no {name}" for name in missing)]), not missing and online <= covered


# -- heat and power ----------------------------------------------------------------------------------------------------


def thermal() -> Seen:
    readings = [read(str(zone.relative_to(ROOT))) for zone in sorted((ROOT / "sys/class/thermal").glob("*zone*/temp"))]
    celsius = [int(text) / 1000 for text in readings if text and text.lstrip("-").isdigit()]
    if not readings:
        return "no thermal zone", None
    return f"{celsius} °C", any(1 <= value < 120 for value in celsius)


def throttling() -> Seen:
    """Sources: the vcgencmd manual; the kernel's drivers/firmware/raspberrypi.c; sysfs-api.rst of its thermal docs."""
    text = printed("vcgencmd", "get_throttled")
    if text:
        return text, bool(re.fullmatch(r"throttled=0x[0-9a-f]+", text))
    places = sorted((ROOT / "sys/devices/platform/soc").glob("*/get_throttled"))
    places += sorted((ROOT / "sys/devices/platform").glob("soc*/*/get_throttled"))
    for place in places:
        bits = read(str(place.relative_to(ROOT)))
        return f"get_throttled {bits}", bool(re.fullmatch(r"(0x)?[0-9a-f]+", bits or ""))
    devices = sorted((ROOT / "sys/class/thermal").glob("cooling_device*/cur_state"))
    states = [read(str(device.relative_to(ROOT))) for device in devices]
    if not states:
        return "neither vcgencmd nor a cooling device", None
    return f"cooling devices {states}", all(state is not None and state.isdigit() for state in states)


# -- memory and processes ----------------------------------------------------------------------------------------------


def status_bytes(text: str, key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def peak_memory() -> Seen:
    """A child of a process that once was large must not report the parent's peak."""
    if MAC:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        block = b"x" * (64 * MIB)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        del block
        return f"64 MiB more raise ru_maxrss by {grown / MIB:.0f} MiB", 48 * MIB < grown < 96 * MIB
    block = b"x" * (64 * MIB)
    own = status_bytes(Path("/proc/self/status").read_text(), "VmHWM")
    del block
    child = status_bytes(python("print(open('/proc/self/status').read())"), "VmHWM")
    return f"VmHWM {own / MIB:.0f} MiB, of a new program {child / MIB:.0f} MiB", own >= 64 * MIB > child > 0


def clear_refs() -> Seen:
    code = (
        "b = bytearray(64 << 20); del b; open('/proc/self/clear_refs', 'w').write('5')\n"
        "print(open('/proc/self/status').read())"
    )
    try:
        left = status_bytes(python(code), "VmHWM")
    except subprocess.CalledProcessError:
        return "clear_refs cannot be written", False
    return f"VmHWM after the reset {left / MIB:.0f} MiB", 0 < left < 64 * MIB


def address_layout() -> Seen:
    text = read("proc/sys/kernel/randomize_va_space")
    return (f"randomize_va_space {text}", text == "2") if text else (ABSENT, None)


def dies_with_parent() -> Seen:
    """A child asks the kernel to be killed with its parent, and its parent ends."""
    child = "import ctypes, time; ctypes.CDLL(None).prctl(1, 9); print(1, flush=True); time.sleep(60)"
    parent = (
        "import subprocess as s, sys, os; p = s.Popen([sys.executable, '-c', sys.argv[1]], stdout=s.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); os._exit(0)"
    )
    pid = int(python(parent, child))
    for _ in range(50):
        if not _alive(pid):
            return "the child ended with its parent", True
        time.sleep(0.1)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    return "the child outlived its parent", False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return False


def oom_score() -> Seen:
    text = python("f = open('/proc/self/oom_score_adj', 'r+'); f.write('1000'); f.seek(0); print(f.read())")
    return f"oom_score_adj {text}", text == "1000"


def sysctl() -> Seen:
    names = "hw.model", "machdep.cpu.brand_string", "hw.memsize"
    found = [printed("sysctl", "-n", name) for name in names]
    seen = ", ".join(f"{name} {text}" for name, text in zip(names, found))  # noqa: B905 (strict needs Python 3.10)
    return seen, all(found) and (found[2] or "").isdigit()


def ps_memory() -> Seen:
    """64 MiB more must show as about so many KiB."""
    before = int(printed("ps", "-o", "rss=", "-p", str(os.getpid())) or 0)
    block = b"x" * (64 * MIB)
    grown = int(printed("ps", "-o", "rss=", "-p", str(os.getpid())) or 0) - before
    return f"64 MiB more raise rss by {grown}", bool(block) and 48 << 10 < grown < 96 << 10


LINUX, MACOS, BOTH = "Linux", "macOS", "both"
CHECKS: list[tuple[str, str, Callable[[], Seen], str]] = [
    ("python", "python3 is version 3.9 or later", python_version, BOTH),
    ("bits", "the system has 64 bits", bits, BOTH),
    ("c_library", "the C library is glibc 2.28 or later, for which the runtimes' wheels are built", c_library, LINUX),
    ("identity", "a serial number or a machine-id tells the machine from others of its model", identity, LINUX),
    ("locale", "LC_ALL=C.UTF-8 gives text in UTF-8", locale, BOTH),
    ("free_disk", "there is room for a runtime and the images, 500 MB", free_disk, BOTH),
    ("umask", "new files can be read and written by their owner", umask, BOTH),
    ("flock", "flock keeps other jobs out, and the kernel frees it when its holder is killed", flock, BOTH),
    ("job_lock", "while a job has the machine, no other process gets its lock", job_lock, BOTH),
    ("executable", "libraries may be loaded from Lastmile's folder", executable, BOTH),
    ("clock", "perf_counter advances in steps of at most 1 µs", clock, BOTH),
    ("affinity", "a process stays on the CPUs that it is pinned to", affinity, LINUX),
    ("isolated", "the kernel lists isolated CPUs", isolated, LINUX),
    ("cgroup", "a limit of CPU time is in cpu.max or cpu.cfs_quota_us", cgroup, LINUX),
    ("cpu_names", "/proc/cpuinfo names the cores", cpu_names, LINUX),
    ("cpufreq", "every CPU has a cpufreq policy with governor, clock and highest clock", cpufreq, LINUX),
    ("thermal", "a thermal zone has the temperature in thousandths of °C", thermal, LINUX),
    ("throttling", "throttling is reported by vcgencmd, sysfs or cooling devices", throttling, LINUX),
    ("peak_memory", "the peak of a process's memory does not include its parent's", peak_memory, BOTH),
    ("clear_refs", "writing 5 to /proc/self/clear_refs resets the peak", clear_refs, LINUX),
    ("address_layout", "addresses are random, so that each process is a sample", address_layout, LINUX),
    ("dies_with_parent", "the kernel kills a measuring process when its parent ends", dies_with_parent, LINUX),
    ("sysctl", "sysctl names a Mac's model, processor and memory", sysctl, MACOS),
    ("ps_memory", "ps reports the resident memory of a process in KiB", ps_memory, MACOS),
    ("oom_score", "a process may ask to be killed first when memory runs out", oom_score, LINUX),
]
"""Name, what is assumed, the check, and the systems that it applies to."""


def probed() -> dict[str, object]:
    """Every check. What a check cannot do is what it saw."""
    found = []
    for name, assumed, check, systems in CHECKS:
        if systems not in (BOTH, MACOS if MAC else LINUX):
            continue
        try:
            seen, holds = check()
        except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            seen, holds = f"{type(error).__name__}: {error}", None
        found.append([name, assumed, seen.replace(str(Path.home()), "~"), holds])
    return {"model": model(), "system": system(), "assumptions": found}


def model() -> str:
    named = read("proc/device-tree/model") or read("sys/class/dmi/id/product_name")
    return named or (printed("sysctl", "-n", "hw.model") if MAC else None) or cpu_names()[0]


def system() -> str:
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("etc/os-release") or "", re.MULTILINE)
    name = f"macOS {platform.mac_ver()[0]}" if MAC else pretty[1] if pretty else platform.system()
    return f"{name}, {platform.release()}"


def main(folder: str, root: str = "/") -> None:
    global FOLDER, ROOT
    FOLDER, ROOT = Path(folder).expanduser(), Path(root)
    print(json.dumps(probed()))


if __name__ == "__main__":
    main(*sys.argv[1:])
