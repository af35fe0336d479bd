"""Builds the Android app from package registries, without an Android SDK or Gradle.

    build/android/lastmile.apk, apk.json       the app and its manifest
    build/android/maven/                       a Maven repository with the app's inference library, for other apps
    build/android/phone/                       the same app for an emulated phone: see phone.py
    build/android/assets/, executorch/         models, and ExecuTorch's library and classes, for the Gradle build
    build/android/steps/<step>-<hash>/         output of each build step: compile, link, shrink

This build and the Gradle build read all versions from android-app/gradle/libs.versions.toml.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import code, dependencies, maven, package
from pipeline.errors import BadOption
from pipeline.system import packages, store
from pipeline.system.store import Store

ABIS = ("arm64-v8a", "x86_64")
ENGINES = ("litert", "executorch")
TARGETS = ("tflite", "executorch")
"""The target whose files each engine runs, in the order of ENGINES. The app bundles models of each."""
FOLDER, MANIFEST, APK, REPOSITORY = "android", "apk.json", "lastmile.apk", "maven"
GROUP = "org.lastmile"
"""Maven group ID of the libraries."""


@dataclass(frozen=True)
class Options:
    """What the APK contains and how it is built.

    Attributes:
        abis: ABIs to include native libraries for; a subset of ABIS.
        engines: runtimes to include; a subset of ENGINES.
        debug: whether to build a debuggable app that is not shrunk.
        key: the key that signs it.
    """

    abis: tuple[str, ...] = ("arm64-v8a",)
    engines: tuple[str, ...] = ENGINES
    debug: bool = False
    key: package.Key = package.DEBUG_KEY

    def check(self) -> None:
        """
        Raises:
            BadOption: an ABI or engine is unknown, or the list is empty.
        """
        for option, chosen, known in (("abi", self.abis, ABIS), ("engine", self.engines, ENGINES)):
            unknown = [name for name in chosen if name not in known]
            if unknown or not chosen:
                raise BadOption(
                    f"--{option} {','.join(chosen)!r}: expected a comma-separated list of {', '.join(known)}"
                )


@dataclass(frozen=True)
class Built:
    """An APK.

    Attributes:
        version: the app's version with the first digits of the cache key, so that it identifies the APK's content.
        weight: size in bytes of each kind of content: "code", "resources", each engine, "models".
        unaligned: native libraries that phones with 16 kB pages cannot load, because their segments are not aligned.
        key: cache key, the hash of all inputs.
    """

    version: str
    sha256: str
    size_bytes: int
    weight: Mapping[str, int]
    unaligned: tuple[str, ...]
    key: str
    schema: int = 1


def path(build: Store) -> Path:
    """The path of the APK."""
    return build.root / FOLDER / APK


def build(build: Store, models: Sequence[Path], options: Options) -> Built:
    """Builds the APK unless it is up to date.

    Args:
        models: folders of exported artifacts (artifact.json and its file). Those that the engines can run are bundled.

    Raises:
        BadOption: an option is invalid.
        NeedsTool: a program is missing.
        StageFailed: a build tool fails.
    """
    options.check()
    targets = [target for engine, target in zip(ENGINES, TARGETS, strict=True) if engine in options.engines]
    models = [folder for folder in models if package.artifact(folder).target in targets]
    key = _key(models, options)
    existing = store.read_or_warn(Built, build.root / FOLDER / MANIFEST)
    apk = path(build)
    if existing and existing.key == key and apk.is_file() and store.sha256(apk) == existing.sha256:
        return existing
    packages.require("android")
    with store.lock(build, "the Android app's build"):
        dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler"))
        version = f"{dependencies.versions()['version-name']}-{key[:8]}"
        steps = code.Steps(build.root / FOLDER / "steps")
        linked = code.resources(steps, version, options.debug, models)
        dex = code.dex(steps, linked, options.engines, options.debug)
        contents = package.contents(linked, dex, options.abis, options.engines)
        package.lay_out(linked, contents, build.root / FOLDER)
        apk.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(apk) as temporary:
            package.write(contents, temporary)
            package.sign(temporary, options.key)
        built = Built(
            version, store.sha256(apk), apk.stat().st_size, package.weight(contents), package.unaligned(contents), key
        )
        store.write(build.root / FOLDER / MANIFEST, built)
    return built


def aar(build: Store) -> Path:
    """Writes the inference library to the Maven repository build/android/maven. Returns the path of its AAR."""
    return maven.publish(inference(build), build.root / FOLDER / REPOSITORY)


def inference(build: Store) -> maven.Library:
    """Compiles the inference library. It needs Kotlin's standard library only: the app that uses it adds the runtimes.

    Raises:
        NeedsTool: a program is missing.
        StageFailed: the compiler fails.
    """
    packages.require("android")
    with store.lock(build, "the inference library's build"):
        dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler"))
        classes = package.files(code.inference(code.Steps(build.root / FOLDER / "steps")) / "classes")
    return maven.Library(
        coordinate=maven.Coordinate(GROUP, "inference", dependencies.versions()["version-name"], "aar"),
        description="Reads artifacts of Lastmile, preprocesses images as in training and runs models on Android",
        license="Apache-2.0",
        namespace=f"{GROUP}.inference",
        min_sdk=min_sdk(),
        classes=classes,
        sources=package.files(code.INFERENCE / "src" / "main" / "kotlin"),
        rules=(code.INFERENCE / "consumer-rules.pro").read_text(),
        dependencies=(standard_library(),),
    )


def classes(build: Store, name: str, sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """Compiles a library that uses the inference library. Returns its class files, by name.

    Args:
        name: of the library's Kotlin package; it identifies the library.
        sources: its Kotlin files, by name.

    Raises:
        NeedsTool: a program is missing.
        StageFailed: the compiler fails.
    """
    packages.require("android")
    with store.lock(build, f"the build of the library {name}"):
        dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler"))
        steps = code.Steps(build.root / FOLDER / "steps")
        path = [*code.jars("library"), code.inference(steps) / "classes"]
        return package.files(code.library(steps, name, sources, path, name) / "classes")


def min_sdk() -> int:
    """The oldest API level that the libraries run on."""
    return int(dependencies.versions()["min-sdk"])


def standard_library() -> maven.Coordinate:
    """The Kotlin standard library that the libraries depend on."""
    found = dependencies.find("library", "kotlin-stdlib")
    return maven.Coordinate(found.group, found.name, found.version)


def identity() -> str:
    """Hash of the app's source files. It identifies the code that measures, whatever models are in the APK."""
    return store.digest(_sources(dependencies.ROOT))


def library_identity() -> str:
    """Hash of what the libraries are made from: the inference library's sources, the versions and the build itself."""
    return store.digest(
        [_sources(code.INFERENCE), _sources(dependencies.CATALOG.parent), _sources(Path(__file__).parent)]
    )


def line(built: Built, path: Path) -> str:
    """Describes an APK for the terminal: its size, and the libraries that phones with 16 kB pages cannot load."""
    weight = ", ".join(f"{name} {size / 1000:,.0f} kB" for name, size in built.weight.items())
    text = f"{path}: version {built.version}, {built.size_bytes / 1e6:,.1f} MB: {weight}"
    if built.unaligned:
        text += f"\nnot aligned to 16 kB pages: {', '.join(built.unaligned)} (the rest is)"
    return text


def _key(models: Sequence[Path], options: Options) -> str:
    return store.digest([
        _sources(dependencies.ROOT), _sources(Path(__file__).parent),
        [store.sha256(folder / name) for folder in models for name in package.model(folder)],
        options.abis, options.engines, options.debug, package.identity(options.key),
    ])  # fmt: skip


def _sources(folder: Path) -> list[tuple[str, str]]:
    """Source files with their hashes. Files that git ignores, such as those of an IDE or Gradle, are left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in ("build", "__pycache__", "test")
        )
        found += [Path(parent) / name for name in sorted(files) if not name.startswith(".")]
    return [(str(path.relative_to(folder)), store.sha256(path)) for path in found]
