"""The app for an emulated phone: the classes that R8 leaves, for a JVM, and Android's own libraries on this libc.

    build/android/phone/app.jar                 the app, shrunk by the APK's rules
    build/android/phone/resources.apk, AndroidManifest.xml, assets/
    build/android/phone/classpath.txt           jars that go before app.jar on the class path, one a line
    build/android/phone/native/                 the x86-64 libraries of both runtimes, and bionic/bionic.c
    build/android/phone/apk.sha256              of the APK that it is the same app as
    build/android/phone/phone.json              what it was made of; written last

Robolectric finds the framework that it runs in `robolectric.dependency.dir` (framework/), offline.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import ENGINES, FOLDER, Built, code, package, parts
from pipeline.errors import NeedsTool, StageFailed
from pipeline.system import packages, proc, store
from pipeline.system.store import Store

ABI = "x86_64"
BRIDGE = Path(__file__).parent / "bionic" / "bionic.c"
STREAMS = {"stdin": 0, "stdout": 152, "stderr": 304}
"""Android's names of the three, as offsets into its array of them."""
EMPTY = ("m", "dl", "log", "android")
"""Libraries that Android's ask for by name; what they want of them is in the bridge's libc.so."""


@dataclass(frozen=True)
class Phone:
    """What is in build/android/phone.

    Attributes:
        version: of the app.
        apk_sha256: of the APK that it is the same app as.
        key: hash of all that went in.
    """

    version: str
    apk_sha256: str
    key: str
    schema: int = 1


def home(build: Store) -> Path:
    """The folder of the emulated phone's app."""
    return build.root / FOLDER / "phone"


def make(build: Store, models: Sequence[Path], apk: Built) -> Path:
    """Makes the folder, unless it is up to date.

    Args:
        models: as for the APK.
        apk: whose version it bears, since both are the same app.

    Raises:
        NeedsTool: another processor than x86-64, or a program that is missing.
        StageFailed: a tool refuses.
    """
    if platform.machine() != "x86_64":
        raise NeedsTool(f"an emulated phone runs Android's libraries for x86-64, and this is {platform.machine()}")
    packages.require_all(["android", "native"])
    with store.lock(build, "the emulated phone's app"):
        parts.fetch([part for section in ("app", "sdk", "compiler", "jvm") for part in parts.parts(section)])
        steps = code.Steps(build.root / FOLDER / "steps")
        linked = code.resources(steps, apk.version, False, models)
        classes = code.classfiles(steps, linked, ENGINES)
        native = libraries(steps)
        key = store.digest(
            [apk.sha256, linked.name, classes.name, native.name, str(build.root), store.sha256(Path(__file__))]
        )
        there = store.read_or_warn(Phone, home(build) / "phone.json")
        if there is None or there.key != key:
            with store.atomic(home(build)) as new:
                _fill(new, linked, classes, native)
                (new / "apk.sha256").write_text(f"{apk.sha256}\n")
                store.write(new / "phone.json", Phone(apk.version, apk.sha256, key))
    return home(build)


def classpath() -> list[Path]:
    """The jars beside the app's: Kotlin's whole library first (Robolectric uses more of it than the app)."""
    return [parts.find("app", "kotlin-stdlib").path, *_robolectric(), code.sdk()]


def framework() -> Path:
    """The folder that `robolectric.dependency.dir` is to name."""
    return parts.find("jvm", "android-all-instrumented").path.parent


def libraries(steps: code.Steps) -> Path:
    """Android's x86-64 libraries of both runtimes, with a libc.so beside them that is a bridge to this system's.

    Each function that they import and none of them defines becomes a jump through a table that bionic.c fills: with its
    own function where Android's libc does otherwise, else with glibc's.
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

    return steps.made(
        "native", [parts.CHECKSUMS.read_text(), store.sha256(BRIDGE), store.sha256(Path(__file__))], build
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
    """trampolines.s, table.c and libc.map for what these libraries import."""
    imported: set[str] = set()
    defined: set[str] = set()
    versions: dict[str, set[str]] = {}
    for library in libraries:
        for name, version, undefined in _symbols(library):
            (imported if undefined else defined).add(name)
            if undefined and version:
                versions.setdefault(version, set()).add(name)
    # C++'s own come from libc++_shared.so.
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
    # The versions that the libraries ask of libc.so; without them glibc's loader gives up.
    maps = ["LIBC { global: *; };"]
    maps += [
        f"{version} {{ global: {'; '.join(sorted(versions[version]))}; }};"
        for version in sorted(set(versions) - {"LIBC"})
    ]
    (into / "libc.map").write_text("\n".join(maps) + "\n")


def _symbols(library: Path) -> list[tuple[str, str, bool]]:
    """(name, version, whether it is imported) of a library's dynamic symbols."""
    found = []
    for line in _run(["readelf", "--dyn-syms", "--wide", library]).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit():
            name, _, version = fields[7].replace("@@", "@").partition("@")
            found.append((name, version, fields[6] == "UND"))
    return found


def _run(words: Sequence[str | Path]) -> str:
    done = proc.run(words, timeout=300)
    if done.code != 0:
        told = next((line for line in done.err.splitlines() if "error" in line), done.reason)
        raise StageFailed(f"{words[0]} refuses the bridge to Android's libc: {told}")
    return done.out
