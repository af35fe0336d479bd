"""am, pm, dumpsys and so on of the emulated phone: the little of them that is needed, with Android 14's output."""

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
SHELL_PERMISSIONS = ("android.permission.DUMP",)
"""Permissions of the adb shell that activities may require."""
CRASH_TAGS = ("DEBUG", "AndroidRuntime", "libc")

LAUNCHER = "com.android.launcher3/com.android.launcher3.Launcher"

Result = tuple[int, str]
"""Exit code and output of a command."""


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
    """The phone's state, as far as commands of its shell can change it."""

    level: int = 80
    focus: str = LAUNCHER
    thermal: int = 0
    awake: bool = True
    locked: bool = False
    pin: bool = False
    fixed_performance: bool = False
    power_save: bool = False
    charging: bool = True
    settings: dict[str, str] = field(default_factory=dict)
    packages: dict[str, Package] = field(default_factory=dict)


class Services:
    """Carries out commands of the phone's shell."""

    def __init__(self, root: Path, app: App, log: Log, properties: Mapping[str, str]) -> None:
        self.root, self.app, self.log, self.properties = root, app, log, properties
        self.state = State()
        self.programs: dict[str, Callable[[list[str]], Result]] = {
            "am": self._am, "cmd": self._cmd, "dumpsys": self._dumpsys, "getprop": self._getprop,
            "input": self._input, "locksettings": self._locksettings, "logcat": self._logcat, "pm": self._pm,
            "run-as": self._run_as, "settings": self._settings, "svc": self._svc, "wm": self._wm,
        }  # fmt: skip

    def run(self, argv: list[str]) -> Result:
        """Carries out a command."""
        program, *args = argv
        if program not in self.programs:
            return 1, f"{program}: the emulated phone does not support it\n"
        return self.programs[program](args)

    # -- apps ----------------------------------------------------------------------------------------------------------

    def _pm(self, args: list[str]) -> Result:
        verb, *rest = args or ["help"]
        if verb == "path":
            apk = self._base(rest[0]) if rest and rest[0] in self.state.packages else None
            return (0, f"package:/{apk.relative_to(self.root)}\n") if apk else (1, "")
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

    def _install(self, args: list[str]) -> str:
        """Installs an APK. Returns Android's error, or an empty string."""
        path = self.root / args[-1].lstrip("/")
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
        if old and old.version > found.version and "-d" not in args:
            return (
                f"INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected: Update version code {found.version} is older "
                f"than current {old.version}"
            )
        if old and "-r" not in args:
            return f"INSTALL_FAILED_ALREADY_EXISTS: Attempt to re-install {found.name} without first uninstalling."
        if found.abis and not set(self.properties["ro.product.cpu.abilist"].split(",")) & set(found.abis):
            return "INSTALL_FAILED_NO_MATCHING_ABIS: Failed to extract native libraries, res=-113"
        base = self._base(found.name)
        new = base.with_name("new.apk")
        base.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, new)
        except OSError:
            new.unlink(missing_ok=True)
            return "INSTALL_FAILED_INSUFFICIENT_STORAGE"
        self.app.end()
        new.replace(base)
        self.state.packages[found.name] = found
        return ""

    def _uninstall(self, name: str) -> Result:
        if name not in self.state.packages:
            return 1, "Failure [DELETE_FAILED_INTERNAL_ERROR]\n"
        self.app.end()
        del self.state.packages[name]
        for folder in (
            self._base(name).parent,
            self.root / "sdcard/Android/data" / name,
            self.root / "data/user/0" / name,
        ):
            store.remove(folder)
        return 0, "Success\n"

    def _run_as(self, args: list[str]) -> Result:
        package = self.state.packages.get(args[0]) if args else None
        if package is None:
            return 1, f"run-as: unknown package: {args[0] if args else ''}\n"
        if not package.debuggable:
            return 1, f"run-as: package not debuggable: {package.name}\n"
        done = proc.run(["/usr/sbin/chroot", self.root, "/usr/bin/toybox", *args[1:]], timeout=60)
        return done.code, done.out + done.err

    def _am(self, args: list[str]) -> Result:
        verb, *rest = args or ["help"]
        if verb == "start":
            return self._start(rest)
        if verb in ("force-stop", "kill"):
            if self.app.package == rest[-1]:
                self.app.end()
                self.state.focus = LAUNCHER
            return 0, ""
        return 255, f"Unknown command: {verb}\n"

    def _start(self, args: list[str]) -> Result:
        extras, component, index = {}, "", 0
        while index < len(args):
            if args[index] == "--es":
                extras[args[index + 1]] = args[index + 2]
                index += 2
            elif args[index] == "-n":
                component = args[index + 1]
                index += 1
            index += 1
        name, _, activity = component.partition("/")
        starting = f"Starting: Intent {{ cmp={component} (has extras) }}\n"
        activity = name + activity if activity.startswith(".") else activity
        error = self._forbidden(name, activity)
        if error:
            return 1, starting + error
        error = self.app.start(name, activity, extras)
        if error:
            return 0, f"{starting}Status: error\nError: {error}\nComplete\n"
        self.state.focus = f"{name}/{activity}"
        times = "TotalTime: 0\nWaitTime: 0\n" if "-W" in args else ""
        return 0, f"{starting}Status: ok\nLaunchState: COLD\nActivity: {component}\n{times}Complete\n"

    def _forbidden(self, name: str, activity: str) -> str:
        """Why the shell may not start an activity; an empty string if it may."""
        missing = f"Error type 3\nError: Activity class {{{name}/{activity}}} does not exist.\n"
        if name not in self.state.packages:
            return missing
        built_from = self.app.folder / "apk.sha256"
        if not built_from.is_file() or built_from.read_text().split()[0] != store.sha256(self._base(name)):
            return f"Error: the installed app differs from that in {self.app.folder}; inv android.build builds both\n"
        for each in ElementTree.parse(self.app.folder / "AndroidManifest.xml").iter("activity"):
            declared = each.get(f"{ANDROID}name", "")
            if activity in (declared, name + declared):
                required = each.get(f"{ANDROID}permission")
                if each.get(f"{ANDROID}exported") != "true" or (required and required not in SHELL_PERMISSIONS):
                    return f"Security exception: Permission Denial: starting Intent {{ cmp={name}/{activity} }}\n"
                return ""
        return missing

    # -- the phone -----------------------------------------------------------------------------------------------------

    def _getprop(self, args: list[str]) -> Result:
        if not args:
            return 0, "".join(f"[{key}]: [{value}]\n" for key, value in sorted(self.properties.items()))
        return 0, self.properties.get(args[0], args[1] if len(args) > 1 else "") + "\n"

    def _input(self, args: list[str]) -> Result:
        key = args[-1].removeprefix("KEYCODE_")
        if key in ("WAKEUP", "224"):
            self._set_awake(True)
        elif key in ("SLEEP", "223"):
            self.state.locked = True
            self._set_awake(False)
        elif key in ("HOME", "3"):
            self.state.focus = LAUNCHER
            self.app.notify({"focus": False})
        return 0, ""

    def _set_awake(self, awake: bool) -> None:
        """The screen turns on or off, which the app's process learns."""
        if awake != self.state.awake:
            self.state.awake = awake
            self.app.notify({"awake": awake})

    def _locksettings(self, args: list[str]) -> Result:
        self.state.pin = args[:1] == ["set-pin"]
        return 0, f"Pin {'set to' if self.state.pin else 'cleared'}\n"

    def _settings(self, args: list[str]) -> Result:
        """Source: SettingsService.java: an unset value is "null"."""
        verb, name, settings = args[0], " ".join(args[1:3]), self.state.settings
        if verb == "get" and len(args) == 3:
            return 0, settings.get(name, "null") + "\n"
        if verb == "put" and len(args) == 4:
            settings[name] = args[3]
            return 0, ""
        if verb == "delete" and len(args) == 3:
            return 0, f"Deleted {int(settings.pop(name, None) is not None)} rows\n"
        return 255, "Invalid command: settings " + " ".join(args) + "\n"

    def _svc(self, args: list[str]) -> Result:
        """Source: PowerCommand.java: "true" is every way to plug a phone in (AC 1, USB 2, wireless 4, dock 8)."""
        ways = {"true": "15", "false": "0", "ac": "1", "usb": "2", "wireless": "4", "dock": "8"}
        if args[:2] == ["power", "stayon"] and args[2:3] and args[2] in ways:
            self.state.settings["global stay_on_while_plugged_in"] = ways[args[2]]
            if args[2] != "false":
                self._set_awake(True)
            return 0, ""
        return 1, "Available commands:\n"

    def _wm(self, args: list[str]) -> Result:
        if args == ["dismiss-keyguard"] and not self.state.pin:
            self.state.locked = False
        return 0, ""

    def _cmd(self, args: list[str]) -> Result:
        if args[:2] == ["power", "set-fixed-performance-mode-enabled"]:
            return self._set_fixed_performance(args[2] == "true")
        if args[:2] == ["thermalservice", "override-status"]:
            self.state.thermal = int(args[2])
            self.app.notify({"thermal": self.state.thermal})
            return 0, ""
        if args[:1] == ["thermalservice"]:
            return 255, f"Unknown command: {' '.join(args[1:2])}\n"
        if args[:2] == ["package", "compile"]:
            return self._compile(args[2:])
        if args[:1] == ["package"]:
            return self._pm(args[1:])
        if args[:1] == ["activity"]:
            return self._am(args[1:])
        return 20, f"cmd: Can't find service: {args[0] if args else ''}\n"

    def _set_fixed_performance(self, on: bool) -> Result:
        """Source: PowerManagerShellCommand.java, of Android 11 and later."""
        if int(self.properties["ro.build.version.sdk"]) < 30:
            return 255, "Unknown command: set-fixed-performance-mode-enabled\n"
        if self.properties.get("ro.lastmile.fixed_performance") == "0":
            return 255, (
                "Failed to set FIXED_PERFORMANCE mode\n"
                "This is likely because Power HAL AIDL is not implemented on this device\n"
            )
        self.state.fixed_performance = on
        return 0, ""

    def _compile(self, args: list[str]) -> Result:
        """`cmd package compile -m FILTER -f PACKAGE`. It compiles nothing: the app runs in a JVM."""
        if args[-1:] and args[-1] in self.state.packages:
            return 0, "Success\n"
        return 1, f"Failure: package {args[-1] if args else ''} could not be compiled\n"

    def _dumpsys(self, args: list[str]) -> Result:
        state = self.state
        if args[:2] == ["activity", "exit-info"]:
            return 0, f"  package: {self.app.package}\n    reason={self.app.last_exit or 'none'}\n"
        outputs: dict[str, Any] = {
            "battery": (
                f"Current Battery Service state:\n  AC powered: false\n  USB powered: {str(state.charging).lower()}\n"
                f"  status: {2 if state.charging else 3}\n  health: 2\n  present: true\n  level: {state.level}\n"
                "  scale: 100\n  temperature: 250\n"
            ),
            "power": f"  mWakefulness={'Awake' if state.awake else 'Asleep'}\n  mFixed={state.fixed_performance}\n",
            "thermalservice": (
                f"IsStatusOverride: {str(state.thermal > 0).lower()}\nThermal Status: {state.thermal}\n"
                "Cached temperatures:\nHAL Ready: false\n"
            ),
            "window": (
                f"    isKeyguardShowing={str(state.locked).lower()}\n"
                f"  mCurrentFocus=Window{{0 u0 {state.focus}}}\n"
            ),
        }  # fmt: skip
        service = args[0] if args else ""
        return (0, outputs[service]) if service in outputs else (1, f"Can't find service: {service}\n")

    def _logcat(self, args: list[str]) -> Result:
        if "-c" in args:
            self.log.lines.clear()
            return 0, ""
        options = dict(itertools.pairwise(args))
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
    """Reads an APK and verifies its signature. Returns the package, or Android's error."""
    verified = proc.run(["apksigner", "verify", "--print-certs", path], timeout=120)
    signer = re.search(r"certificate SHA-256 digest: (\w+)", verified.out)
    if verified.code != 0 or signer is None:
        return f"INSTALL_PARSE_FAILED_NO_CERTIFICATES: {verified.reason}"
    badging = proc.run(["aapt2", "dump", "badging", path], timeout=120).out
    named = re.search(r"package: name='([^']+)' versionCode='(\d*)'", badging)
    if named is None:
        return "INSTALL_PARSE_FAILED_NOT_APK"
    native = re.search(r"^native-code: (.*)$", badging, re.M)
    abis = tuple(re.findall(r"'([^']+)'", native[1])) if native else ()
    return Package(named[1], int(named[2] or 0), signer[1], abis, "application-debuggable" in badging)
