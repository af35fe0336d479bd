"""Writes Android libraries to a Maven repository folder, with the files that Gradle's own publishing writes.

    <repository>/<group>/<name>/<version>/
        <name>-<version>.aar            the library
        <name>-<version>-sources.jar
        <name>-<version>.pom            for Maven; a comment refers Gradle to the module file
        <name>-<version>.module         Gradle module metadata
        <file>.md5, .sha1, .sha256, .sha512

The same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from pipeline.android import package
from pipeline.system import store

HASHES = ("sha512", "sha256", "sha1", "md5")
METADATA = "META-INF/com/android/build/gradle/aar-metadata.properties"
REFERS_TO_MODULE = "<!-- do_not_remove: published-with-gradle-metadata -->"
"""Gradle reads the module metadata only if the POM contains this line."""


@dataclass(frozen=True)
class Coordinate:
    """The Maven coordinate of a library, such as org.lastmile:inference:0.1.0.

    Attributes:
        kind: "jar" or "aar". Maven looks for a jar unless a dependency states another kind.
    """

    group: str
    name: str
    version: str
    kind: str = "jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def folder(self) -> Path:
        """Its folder in a repository."""
        return Path(*self.group.split("."), self.name, self.version)

    def file(self, suffix: str) -> str:
        """The name of one of its files, such as that with the suffix ".aar"."""
        return f"{self.name}-{self.version}{suffix}"


@dataclass(frozen=True)
class Library:
    """An Android library.

    Attributes:
        license: its SPDX identifier.
        namespace: its Android namespace; no other library of an app may have the same.
        min_sdk: the oldest API level that it runs on. Apps that use it compile against this level or a newer one.
        classes: its class files, by name.
        sources: its source files, by name.
        rules: R8 rules for apps that use it.
        assets: files for the app's assets, by name.
        dependencies: the libraries that it needs, at compile time and at run time.
    """

    coordinate: Coordinate
    description: str
    license: str
    namespace: str
    min_sdk: int
    classes: Mapping[str, bytes]
    sources: Mapping[str, bytes]
    rules: str = ""
    assets: Mapping[str, bytes] = field(default_factory=dict)
    dependencies: Sequence[Coordinate] = ()


def publish(library: Library, repository: Path) -> Path:
    """Writes a library to its folder in a repository and replaces what was there. Returns the path of the AAR."""
    name = library.coordinate
    aar, sources = package.zipped(_aar(library)), package.zipped(library.sources)
    files = {
        name.file(".aar"): aar,
        name.file("-sources.jar"): sources,
        name.file(".pom"): _pom(library).encode(),
        name.file(".module"): _module(library, aar, sources).encode(),
    }
    folder = repository / name.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic(folder) as new:
        new.mkdir()
        for file, content in files.items():
            (new / file).write_bytes(content)
            for algorithm in HASHES:
                (new / f"{file}.{algorithm}").write_text(_hash(algorithm, content))
    return folder / name.file(".aar")


def _aar(library: Library) -> dict[str, bytes]:
    """The entries of the AAR. Source: the AAR format and AGP's AarMetadataTask."""
    manifest = (
        f'<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="{escape(library.namespace)}">'
        f'<uses-sdk android:minSdkVersion="{library.min_sdk}" /></manifest>\n'
    )
    metadata = {
        "aarFormatVersion": "1.0",
        "aarMetadataVersion": "1.0",
        "minCompileSdk": library.min_sdk,
        "minCompileSdkExtension": 0,
        "minAndroidGradlePluginVersion": "1.0.0",
        "coreLibraryDesugaringEnabled": "false",
    }
    return {
        "AndroidManifest.xml": manifest.encode(),
        METADATA: "".join(f"{name}={value}\n" for name, value in metadata.items()).encode(),
        "R.txt": b"",
        "classes.jar": package.zipped(library.classes),
        "proguard.txt": library.rules.encode(),
        **{f"assets/{name}": content for name, content in library.assets.items()},
    }


def _pom(library: Library) -> str:
    dependencies = "".join(
        f"    <dependency>\n{_xml(needed, 6)}{_kind(needed)}      <scope>compile</scope>\n    </dependency>\n"
        for needed in library.dependencies
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<project xmlns="http://maven.apache.org/POM/4.0.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        ' xsi:schemaLocation="http://maven.apache.org/POM/4.0.0 https://maven.apache.org/xsd/maven-4.0.0.xsd">\n'
        f"  {REFERS_TO_MODULE}\n"
        f"  <modelVersion>4.0.0</modelVersion>\n{_xml(library.coordinate, 2)}  <packaging>aar</packaging>\n"
        f"  <description>{escape(library.description)}</description>\n"
        f"  <licenses>\n    <license>\n      <name>{escape(library.license)}</name>\n    </license>\n  </licenses>\n"
        f"  <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )


def _xml(coordinate: Coordinate, indent: int) -> str:
    parts = (("groupId", coordinate.group), ("artifactId", coordinate.name), ("version", coordinate.version))
    return "".join(f"{' ' * indent}<{tag}>{escape(text)}</{tag}>\n" for tag, text in parts)


def _kind(coordinate: Coordinate) -> str:
    return "" if coordinate.kind == "jar" else f"      <type>{coordinate.kind}</type>\n"


def _module(library: Library, aar: bytes, sources: bytes) -> str:
    """Gradle module metadata 1.1, with the variants that AGP publishes. Gradle requires formatVersion to come first."""
    name = library.coordinate
    code = {"org.gradle.category": "library", "org.gradle.libraryelements": "aar"}
    kotlin = {"org.gradle.jvm.environment": "android", "org.jetbrains.kotlin.platform.type": "androidJvm"}
    documentation = {"org.gradle.category": "documentation", "org.gradle.docstype": "sources"}
    dependencies = [
        {"group": needed.group, "module": needed.name, "version": {"requires": needed.version}}
        for needed in library.dependencies
    ]

    def variant(kind: str, usage: str, attributes: Mapping[str, str], suffix: str, content: bytes) -> dict[str, object]:
        file = name.file(suffix)
        hashes = {algorithm: _hash(algorithm, content) for algorithm in HASHES}
        shared = {"org.gradle.dependency.bundling": "external", "org.gradle.usage": usage}
        return {
            "name": f"releaseVariantRelease{kind}Publication",
            "attributes": dict(sorted({**shared, **attributes}.items())),
            "dependencies": dependencies if suffix == ".aar" else [],
            "files": [{"name": file, "url": file, "size": len(content), **hashes}],
        }

    module = {
        "formatVersion": "1.1",
        "component": {
            "group": name.group,
            "module": name.name,
            "version": name.version,
            "attributes": {"org.gradle.status": "release"},
        },
        "variants": [
            variant("Api", "java-api", code | kotlin, ".aar", aar),
            variant("Runtime", "java-runtime", code | kotlin, ".aar", aar),
            variant("Source", "java-runtime", documentation, "-sources.jar", sources),
        ],
    }
    return json.dumps(module, indent=2) + "\n"


def _hash(algorithm: str, content: bytes) -> str:
    return hashlib.new(algorithm, content).hexdigest()
