"""The Android app, built from package registries alone: no Android SDK, no Gradle.

    build/android/lastmile.apk, apk.json       the app, and what it was made of
    build/android/inference.aar                the library in it, for another app
    build/android/phone/                       the same app for an emulated phone: see phone.py
    build/android/assets/, executorch/          models, and ExecuTorch's library and classes: where Gradle's build looks
    build/android/steps/<step>-<hash>/         what each step made: compiled, linked, shrunk

Both this build and Gradle's read their versions from android-app/gradle/libs.versions.toml.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import code, package, parts
from pipeline.errors import BadOption
from pipeline.system import packages, store
from pipeline.system.store import Store

ABIS = ("arm64-v8a", "x86_64")
ENGINES = ("litert", "executorch")
TARGETS = ("tflite", "executorch")
"""Whose files each of the engines runs; the app has models of each inside."""
FOLDER, MANIFEST, APK, AAR = "android", "apk.json", "lastmile.apk", "inference.aar"


@dataclass(frozen=True)
class Options:
    """What kind of APK.

    Attributes:
        abis: processors that it has native libraries for, of ABIS.
        engines: runtimes that are in it, of ENGINES.
        debug: a build that a debugger and `run-as` may enter, nothing of it shrunk.
        key: whose signature it bears.
    """

    abis: tuple[str, ...] = ("arm64-v8a",)
    engines: tuple[str, ...] = ENGINES
    debug: bool = False
    key: package.Key = package.DEBUG_KEY

    def check(self) -> None:
        """
        Raises:
            BadOption: an unknown ABI or engine, or none.
        """
        for option, chosen, known in (("abi", self.abis, ABIS), ("engine", self.engines, ENGINES)):
            wrong = [name for name in chosen if name not in known]
            if wrong or not chosen:
                raise BadOption(f"--{option} {','.join(chosen)!r}: known are {', '.join(known)}, with commas between")


@dataclass(frozen=True)
class Built:
    """An APK.

    Attributes:
        version: of the app, with the first digits of the key: two APKs of one version are the same.
        weight: bytes in the APK by what they are: "code", "resources", "models", each engine, "rest".
        unaligned: native libraries that a phone with 16 kB pages cannot load as they are made.
        key: hash of all that went in.
    """

    version: str
    sha256: str
    size_bytes: int
    weight: Mapping[str, int]
    unaligned: tuple[str, ...]
    key: str
    schema: int = 1


def path(build: Store) -> Path:
    """Where the APK is."""
    return build.root / FOLDER / APK


def build(build: Store, models: Sequence[Path], options: Options) -> Built:
    """Makes the APK, unless it is up to date.

    Args:
        models: folders of exported artifacts (artifact.json and its file); those that its engines run go into it.

    Raises:
        BadOption, NeedsTool, StageFailed: an option that cannot be, a missing program, or a tool that refuses.
    """
    options.check()
    run = [target for engine, target in zip(ENGINES, TARGETS, strict=True) if engine in options.engines]
    models = [folder for folder in models if package.artifact(folder).target in run]
    key = _key(models, options)
    there = store.read_or_warn(Built, build.root / FOLDER / MANIFEST)
    apk = path(build)
    if there and there.key == key and apk.is_file() and store.sha256(apk) == there.sha256:
        return there
    packages.require("android")
    with store.lock(build, "the Android app's build"):
        parts.fetch([*parts.parts("app"), *parts.parts("sdk"), *parts.parts("compiler")])
        version = f"{parts.versions()['version-name']}-{key[:8]}"
        steps = code.Steps(build.root / FOLDER / "steps")
        linked = code.resources(steps, version, options.debug, models)
        dex = code.dex(steps, linked, options.engines, options.debug)
        contents = package.contents(linked, dex, options.abis, options.engines)
        package.lay_out(linked, contents, build.root / FOLDER)
        apk.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(apk) as temporary:
            package.write(contents, temporary)
            package.sign(temporary, options.key)
        made = Built(
            version, store.sha256(apk), apk.stat().st_size, package.weight(contents), package.unaligned(contents), key
        )
        store.write(build.root / FOLDER / MANIFEST, made)
    return made


def aar(build: Store) -> Path:
    """Makes the inference library as an AAR: our classes and R8's rules; the app that uses it names its runtimes."""
    packages.require("android")
    with store.lock(build, "the inference library's build"):
        parts.fetch([*parts.parts("app"), *parts.parts("sdk"), *parts.parts("compiler")])
        steps = code.Steps(build.root / FOLDER / "steps")
        target = build.root / FOLDER / AAR
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(target) as temporary:
            package.write_aar(code.inference(steps), temporary)
    return target


def identity() -> str:
    """Hash of the app's own files: of what a phone measures with, whatever models are in the APK."""
    return store.digest(_sources(parts.ROOT))


def line(built: Built, where: Path) -> str:
    """An APK for the terminal: what it weighs, and what of it a phone with 16 kB pages cannot load."""
    weight = ", ".join(f"{name} {size / 1000:,.0f} kB" for name, size in built.weight.items())
    text = f"{where}: version {built.version}, {built.size_bytes / 1e6:,.1f} MB: {weight}"
    if built.unaligned:
        text += f"\nnot made for 16 kB pages: {', '.join(built.unaligned)} (all else is aligned to them)"
    return text


def _key(models: Sequence[Path], options: Options) -> str:
    here = Path(__file__).parent
    return store.digest([
        _sources(parts.ROOT), _sources(here),
        [store.sha256(folder / name) for folder in models for name in package.model(folder)],
        options.abis, options.engines, options.debug, package.identity(options.key),
    ])  # fmt: skip


def _sources(folder: Path) -> list[tuple[str, str]]:
    """Our own files, which is what git would keep: what an IDE and Gradle leave beside them does not count."""
    found = []
    for home, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in ("build", "__pycache__", "test")
        )
        found += [Path(home) / name for name in sorted(files) if not name.startswith(".")]
    return [(str(path.relative_to(folder)), store.sha256(path)) for path in found]
