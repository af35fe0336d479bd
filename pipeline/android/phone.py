"""Builds the app for an emulated phone: R8's class files for a JVM, and Android's libraries bridged to the host's libc.

    build/android/phone/app.jar                 the app, shrunk with the APK's rules
    build/android/phone/resources.apk, AndroidManifest.xml, assets/
    build/android/phone/classpath.txt           jars that precede app.jar on the class path, one per line
    build/android/phone/native/                 the x86-64 libraries of both runtimes, and the bridge (bionic/bionic.c)
    build/android/phone/apk.sha256              SHA-256 of the APK with the same app
    build/android/phone/phone.json              manifest; written last

Robolectric runs offline and finds the Android framework through `robolectric.dependency.dir` (framework/).
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import ENGINES, FOLDER, Built, code, dependencies, package
from pipeline.errors import NeedsTool, StageFailed
from pipeline.system import packages, proc, store
from pipeline.system.store import Store

ABI = "x86_64"
BRIDGE = Path(__file__).parent / "bionic" / "bionic.c"
STREAMS = {"stdin": 0, "stdout": 152, "stderr": 304}
"""Offset of each stream in bionic's array of FILEs."""
EMPTY = ("m", "dl", "log", "android")
"""System libraries that the Android libraries link to by name. Their functions are in the bridge's libc.so."""


@dataclass(frozen=True)
class Phone:
    """The manifest of build/android/phone.

    Attributes:
        version: the app's version.
        apk_sha256: SHA-256 of the APK with the same app.
        key: cache key, the hash of all inputs.
    """

    version: str
    apk_sha256: str
    key: str
    schema: int = 1


def home(build: Store) -> Path:
    """The folder of the emulated phone's app."""
    return build.root / FOLDER / "phone"


def make(build: Store, models: Sequence[Path], apk: Built) -> Path:
    """Builds the folder unless it is up to date.

    Args:
        models: as for the APK.
        apk: the APK with the same app; the folder gets its version.

    Raises:
        NeedsTool: the host is not x86-64, or a program is missing.
        StageFailed: a build tool fails.
    """
    if platform.machine() != "x86_64":
        raise NeedsTool(f"an emulated phone needs an x86-64 host; this host is {platform.machine()}")
    packages.require_all(["android", "native"])
    with store.lock(build, "the emulated phone's app"):
        dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler", "jvm"))
        steps = code.Steps(build.root / FOLDER / "steps")
        linked = code.resources(steps, apk.version, False, models)
        classes = code.classfiles(steps, linked, ENGINES)
        native = libraries(steps)
        key = store.digest(
            [apk.sha256, linked.name, classes.name, native.name, str(build.root), store.sha256(Path(__file__))]
        )
        existing = store.read_or_warn(Phone, home(build) / "phone.json")
        if existing is None or existing.key != key:
            with store.atomic(home(build)) as new:
                _fill(new, linked, classes, native)
                (new / "apk.sha256").write_text(f"{apk.sha256}\n")
                store.write(new / "phone.json", Phone(apk.version, apk.sha256, key))
    return home(build)


def classpath() -> list[Path]:
    """The jars that precede the app's. The full Kotlin library is first: Robolectric uses more of it than the app."""
    return [dependencies.find("app", "kotlin-stdlib").path, *_robolectric(), code.sdk()]


def framework() -> Path:
    """The folder for `robolectric.dependency.dir`."""
    return dependencies.find("jvm", "android-all-instrumented").path.parent


def libraries(steps: code.Steps) -> Path:
    """The Android x86-64 libraries of both runtimes, with a libc.so that is a bridge to the host's libc.

    Every function that they import and do not define becomes a jump through a table. bionic.c fills the table with its
    own function if Android's libc differs from glibc, otherwise with glibc's.
    """

    def build(new: Path) -> None:
        for name, content in package.libraries(ABI, ENGINES).items():
            (new / name).write_bytes(content)
        work = new / "work"
        work.mkdir()
        _write_bridge(sorted(new.glob("*.so")), work)
        flags = ["gcc", "-shared", "-fPIC"]
        _run([*flags, "-O1", "-w", "-o", new / "libbionic.so", BRIDGE, work / "table.c", "-ldl"])
        _run([
            *flags, "-nostdlib", "-o", new / "libc.so", work / "trampolines.s",
            f"-Wl,--version-script={work / 'libc.map'}",
            "-Wl,-soname,libc.so", f"-L{new}", "-lbionic", "-Wl,-rpath,$ORIGIN",
        ])  # fmt: skip
        (work / "empty.map").write_text("LIBC { global: *; };\n")
        for name in EMPTY:
            (work / f"{name}.c").write_text(f"int bionic_{name};\n")
            soname = f"-Wl,-soname,lib{name}.so"
            script = f"-Wl,--version-script={work / 'empty.map'}"
            _run([*flags, "-nostdlib", "-o", new / f"lib{name}.so", work / f"{name}.c", script, soname])
        store.remove(work)

    return steps.cached(
        "native", [dependencies.CHECKSUMS.read_text(), store.sha256(BRIDGE), store.sha256(Path(__file__))], build
    )


def _fill(new: Path, linked: Path, classes: Path, native: Path) -> None:
    new.mkdir(parents=True)
    (new / "app.jar").write_bytes((classes / "out.zip").read_bytes())
    for name in ("resources.apk", "AndroidManifest.xml"):
        (new / name).write_bytes((linked / name).read_bytes())
    for name, folder in (("assets", linked / "assets"), ("native", native)):
        shutil.copytree(folder, new / name, copy_function=os.link)
    (new / "framework").symlink_to(framework())
    (new / "classpath.txt").write_text("".join(f"{jar}\n" for jar in classpath()))


def _robolectric() -> list[Path]:
    return [jar for jar in code.jars("jvm") if not jar.name.startswith("android-all-instrumented")]


def _write_bridge(libraries: Sequence[Path], into: Path) -> None:
    """Writes trampolines.s, table.c and libc.map for the functions that these libraries import."""
    imported: set[str] = set()
    defined: set[str] = set()
    versions: dict[str, set[str]] = {}
    for library in libraries:
        for name, version, undefined in _symbols(library):
            (imported if undefined else defined).add(name)
            if undefined and version:
                versions.setdefault(version, set()).add(name)
    # C++ symbols come from libc++_shared.so.
    names = sorted(name for name in imported - defined - set(STREAMS) - {"__sF"} if not name.startswith("_Z"))
    quoted = ", ".join(f'"{name}"' for name in names)
    (into / "table.c").write_text(
        f"const int bionic_count = {len(names)};\nvoid *bionic_table[{len(names)}];\n"
        f"const char *bionic_names[] = {{{quoted}}};\n"
    )
    lines = [".text"]
    for index, name in enumerate(names):
        lines += [
            f".globl {name}",
            f".type {name},@function",
            f"{name}: mov bionic_table@GOTPCREL(%rip), %r11",
            f" jmp *{8 * index}(%r11)",
        ]
    lines += [".data"]
    for name, offset in STREAMS.items():
        lines += [
            f".globl {name}",
            f".type {name},@object",
            f".size {name},8",
            ".align 8",
            f"{name}: .quad __sF+{offset}",
        ]
    lines += ['.section .note.GNU-stack,"",@progbits', ""]
    (into / "trampolines.s").write_text("\n".join(lines))
    # The symbol versions that the libraries require of libc.so. Without them glibc's loader fails.
    maps = ["LIBC { global: *; };"]
    maps += [
        f"{version} {{ global: {'; '.join(sorted(versions[version]))}; }};"
        for version in sorted(set(versions) - {"LIBC"})
    ]
    (into / "libc.map").write_text("\n".join(maps) + "\n")


def _symbols(library: Path) -> list[tuple[str, str, bool]]:
    """A library's dynamic symbols as (name, version, whether it is imported)."""
    found = []
    for line in _run(["readelf", "--dyn-syms", "--wide", library]).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit():
            name, _, version = fields[7].replace("@@", "@").partition("@")
            found.append((name, version, fields[6] == "UND"))
    return found


def _run(argv: Sequence[str | Path]) -> str:
    done = proc.run(argv, timeout=300)
    if done.code != 0:
        error = next((line for line in done.err.splitlines() if "error" in line), done.reason)
        raise StageFailed(f"{argv[0]} failed to build the bridge to Android's libc: {error}")
    return done.out
