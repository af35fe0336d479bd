"""What am, pm, dumpsys and the like answer on the emulated phone: small, and in the words of Android 14's own."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.emulate.phone.app import App, Log
from pipeline.system import proc, store

ANDROID = "{http://schemas.android.com/apk/res/android}"
SHELL_HOLDS = ("android.permission.DUMP",)
"""Permissions of the adb shell that activities may ask for."""
CRASH_TAGS = ("DEBUG", "AndroidRuntime", "libc")

Answer = tuple[int, str]


@dataclass(frozen=True)
class Package:
    """An installed app.

    Attributes:
        signer: sha256 of its certificate.
        abis: of its native libraries.
    """

    name: str
    version: int
    signer: str
    abis: tuple[str, ...]
    debuggable: bool


@dataclass
class State:
    """What can be changed on the phone from its shell."""

    level: int = 80
    thermal: int = 0
    awake: bool = True
    locked: bool = False
    pin: bool = False
    fixed_performance: bool = False
    packages: dict[str, Package] = field(default_factory=dict)


class Services:
    """Answers a command's words with its exit code and what it prints."""

    def __init__(self, root: Path, app: App, log: Log, properties: Mapping[str, str]) -> None:
        self.root, self.app, self.log, self.properties = root, app, log, properties
        self.state = State()
        self.programs: dict[str, Callable[[list[str]], Answer]] = {
            "am": self._am, "cmd": self._cmd, "dumpsys": self._dumpsys, "getprop": self._getprop,
            "input": self._input, "locksettings": self._locksettings, "logcat": self._logcat, "pm": self._pm,
            "run-as": self._run_as, "wm": self._wm,
        }  # fmt: skip

    def answer(self, words: list[str]) -> Answer:
        """See the class."""
        program, *rest = words
        if program not in self.programs:
            return 1, f"{program}: this emulated phone does not know it\n"
        return self.programs[program](rest)

    # -- apps ----------------------------------------------------------------------------------------------------------

    def _pm(self, words: list[str]) -> Answer:
        verb, *rest = words or ["help"]
        if verb == "path":
            there = self._base(rest[0]) if rest and rest[0] in self.state.packages else None
            return (0, f"package:/{there.relative_to(self.root)}\n") if there else (1, "")
        if verb == "list":
            return 0, "".join(f"package:{name}\n" for name in self.state.packages)
        if verb == "uninstall":
            return self._uninstall(rest[-1])
        if verb == "install":
            failure = self._install(rest)
            return (1, f"Failure [{failure}]\n") if failure else (0, "Success\n")
        return 255, f"Unknown command: {verb}\n"

    def _base(self, name: str) -> Path:
        return self.root / "data" / "app" / name / "base.apk"

    def _install(self, words: list[str]) -> str:
        """Installs an APK, or says why not as Android does."""
        path = self.root / words[-1].lstrip("/")
        if not path.is_file():
            return "INSTALL_FAILED_INVALID_URI"
        found = _package(path)
        if isinstance(found, str):
            return found
        old = self.state.packages.get(found.name)
        if old and old.signer != found.signer:
            return (
                f"INSTALL_FAILED_UPDATE_INCOMPATIBLE: Existing package {found.name} signatures do not match newer "
                "version; ignoring!"
            )
        if old and old.version > found.version and "-d" not in words:
            return (
                f"INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected: Update version code {found.version} is older "
                f"than current {old.version}"
            )
        if old and "-r" not in words:
            return f"INSTALL_FAILED_ALREADY_EXISTS: Attempt to re-install {found.name} without first uninstalling."
        if found.abis and not set(self.properties["ro.product.cpu.abilist"].split(",")) & set(found.abis):
            return "INSTALL_FAILED_NO_MATCHING_ABIS: Failed to extract native libraries, res=-113"
        place = self._base(found.name)
        new = place.with_name("new.apk")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, new)
        except OSError:
            new.unlink(missing_ok=True)
            return "INSTALL_FAILED_INSUFFICIENT_STORAGE"
        self.app.end()
        new.replace(place)
        self.state.packages[found.name] = found
        return ""

    def _uninstall(self, name: str) -> Answer:
        if name not in self.state.packages:
            return 1, "Failure [DELETE_FAILED_INTERNAL_ERROR]\n"
        self.app.end()
        del self.state.packages[name]
        for place in (
            self._base(name).parent,
            self.root / "sdcard/Android/data" / name,
            self.root / "data/user/0" / name,
        ):
            store.remove(place)
        return 0, "Success\n"

    def _run_as(self, words: list[str]) -> Answer:
        package = self.state.packages.get(words[0]) if words else None
        if package is None:
            return 1, f"run-as: unknown package: {words[0] if words else ''}\n"
        if not package.debuggable:
            return 1, f"run-as: package not debuggable: {package.name}\n"
        done = proc.run(["/usr/sbin/chroot", self.root, "/usr/bin/toybox", *words[1:]], timeout=60)
        return done.code, done.out + done.err

    def _am(self, words: list[str]) -> Answer:
        verb, *rest = words or ["help"]
        if verb == "start":
            return self._start(rest)
        if verb in ("force-stop", "kill"):
            if self.app.package == rest[-1]:
                self.app.end()
            return 0, ""
        return 255, f"Unknown command: {verb}\n"

    def _start(self, words: list[str]) -> Answer:
        extras, component, index = {}, "", 0
        while index < len(words):
            if words[index] == "--es":
                extras[words[index + 1]] = words[index + 2]
                index += 2
            elif words[index] == "-n":
                component = words[index + 1]
                index += 1
            index += 1
        name, _, activity = component.partition("/")
        told = f"Starting: Intent {{ cmp={component} (has extras) }}\n"
        activity = name + activity if activity.startswith(".") else activity
        trouble = self._refused(name, activity)
        if trouble:
            return 1, told + trouble
        trouble = self.app.start(name, activity, extras)
        if trouble:
            return 0, f"{told}Status: error\nError: {trouble}\nComplete\n"
        return 0, f"{told}Status: ok\nLaunchState: COLD\nActivity: {component}\nComplete\n"

    def _refused(self, name: str, activity: str) -> str:
        """Why an activity may not be started from the shell."""
        missing = f"Error type 3\nError: Activity class {{{name}/{activity}}} does not exist.\n"
        if name not in self.state.packages:
            return missing
        made_of = self.app.folder / "apk.sha256"
        if not made_of.is_file() or made_of.read_text().split()[0] != store.sha256(self._base(name)):
            return f"Error: the installed app is not the one in {self.app.folder}; inv android.build makes both\n"
        for each in ElementTree.parse(self.app.folder / "AndroidManifest.xml").iter("activity"):
            declared = each.get(f"{ANDROID}name", "")
            if activity in (declared, name + declared):
                wanted = each.get(f"{ANDROID}permission")
                if each.get(f"{ANDROID}exported") != "true" or (wanted and wanted not in SHELL_HOLDS):
                    return f"Security exception: Permission Denial: starting Intent {{ cmp={name}/{activity} }}\n"
                return ""
        return missing

    # -- the phone -----------------------------------------------------------------------------------------------------

    def _getprop(self, words: list[str]) -> Answer:
        if not words:
            return 0, "".join(f"[{key}]: [{value}]\n" for key, value in sorted(self.properties.items()))
        return 0, self.properties.get(words[0], words[1] if len(words) > 1 else "") + "\n"

    def _input(self, words: list[str]) -> Answer:
        key = words[-1].removeprefix("KEYCODE_")
        if key in ("WAKEUP", "224"):
            self.state.awake = True
        elif key in ("SLEEP", "223"):
            self.state.awake, self.state.locked = False, True
        return 0, ""

    def _locksettings(self, words: list[str]) -> Answer:
        self.state.pin = words[:1] == ["set-pin"]
        return 0, f"Pin {'set to' if self.state.pin else 'cleared'}\n"

    def _wm(self, words: list[str]) -> Answer:
        if words == ["dismiss-keyguard"] and not self.state.pin:
            self.state.locked = False
        return 0, ""

    def _cmd(self, words: list[str]) -> Answer:
        if words[:2] == ["power", "set-fixed-performance-mode-enabled"]:
            self.state.fixed_performance = words[2] == "true"
            return 0, ""
        if words[:2] == ["thermalservice", "override-status"]:
            self.state.thermal = int(words[2])
            self.app.tell({"thermal": self.state.thermal})
            return 0, ""
        if words[:1] == ["package"]:
            return self._pm(words[1:])
        if words[:1] == ["activity"]:
            return self._am(words[1:])
        return 20, f"cmd: Can't find service: {words[0] if words else ''}\n"

    def _dumpsys(self, words: list[str]) -> Answer:
        state = self.state
        if words[:2] == ["activity", "exit-info"]:
            return 0, f"  package: {self.app.package}\n    reason={self.app.last_exit or 'none'}\n"
        told: dict[str, Any] = {
            "battery": f"Current Battery Service state:\n  level: {state.level}\n  temperature: 250\n",
            "power": f"  mWakefulness={'Awake' if state.awake else 'Asleep'}\n  mFixed={state.fixed_performance}\n",
            "thermalservice": f"IsStatusOverride: {state.thermal > 0}\nThermal Status: {state.thermal}\n",
            "window": f"    isKeyguardShowing={str(state.locked).lower()}\n",
        }
        service = words[0] if words else ""
        return (0, told[service]) if service in told else (1, f"Can't find service: {service}\n")

    def _logcat(self, words: list[str]) -> Answer:
        if "-c" in words:
            self.log.lines.clear()
            return 0, ""
        options = dict(itertools.pairwise(words))
        lines = list(self.log.lines)
        if options.get("-b") == "crash":
            lines = [line for line in lines if line.tag.strip() in CRASH_TAGS]
        if "-T" in options:
            since = datetime.strptime(f"{self.log.now().year}-{options['-T']}", "%Y-%m-%d %H:%M:%S.%f")
            lines = [line for line in lines if line.when >= since]
        if "-t" in options:
            lines = lines[-int(options["-t"]) :]
        return 0, "".join(f"{line}\n" for line in lines)


def _package(path: Path) -> Package | str:
    """What an APK says of itself, once its signature holds; else Android's name for what is wrong."""
    verified = proc.run(["apksigner", "verify", "--print-certs", path], timeout=120)
    signer = re.search(r"certificate SHA-256 digest: (\w+)", verified.out)
    if verified.code != 0 or signer is None:
        return f"INSTALL_PARSE_FAILED_NO_CERTIFICATES: {verified.reason}"
    said = proc.run(["aapt2", "dump", "badging", path], timeout=120).out
    named = re.search(r"package: name='([^']+)' versionCode='(\d*)'", said)
    if named is None:
        return "INSTALL_PARSE_FAILED_NOT_APK"
    native = re.search(r"^native-code: (.*)$", said, re.M)
    abis = tuple(re.findall(r"'([^']+)'", native[1])) if native else ()
    return Package(named[1], int(named[2] or 0), signer[1], abis, "application-debuggable" in said)
