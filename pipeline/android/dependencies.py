"""The app's third-party dependencies and build tools, pinned by version and content.

android-app/gradle/libs.versions.toml lists the versions, for Gradle and for this build. checksums.toml in the same
folder lists the SHA-256 of each file. Maven and npm download them with the user's settings, for example from a mirror.

    ~/.cache/lastmile/parts/<sha256>/<file>      (or below XDG_CACHE_HOME)
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

from pipeline.errors import Broken, StageFailed
from pipeline.system import packages, proc, store
from pipeline.system.progress import say

ROOT = Path(__file__).parent.parent.parent / "android-app"
CATALOG = ROOT / "gradle" / "libs.versions.toml"
CHECKSUMS = ROOT / "gradle" / "checksums.toml"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy"
FETCH_SECONDS = 1800.0


@dataclass(frozen=True)
class Dependency:
    """A file from a package registry.

    Attributes:
        group: Maven group ID, or "npm".
        kind: "jar", "aar" or "tgz".
        classifier: Maven classifier; "" for the main file.
        sha256: hash of the content.
    """

    group: str
    name: str
    version: str
    kind: str
    classifier: str
    sha256: str

    @property
    def file(self) -> str:
        """The file name that Maven or npm gives it."""
        return f"{self.name}-{self.version}{'-' * bool(self.classifier)}{self.classifier}.{self.kind}"

    @property
    def path(self) -> Path:
        """Its path in the cache."""
        return _cache() / self.sha256 / self.file


@cache
def versions() -> Mapping[str, str]:
    """The versions in libs.versions.toml, by name."""
    found: dict[str, str] = tomllib.loads(CATALOG.read_text())["versions"]
    return found


@cache
def pinned(*sections: str) -> tuple[Dependency, ...]:
    """The dependencies in sections of checksums.toml: "app", "library", "sdk", "compiler", "jvm", …"""
    checksums = tomllib.loads(CHECKSUMS.read_text())
    return tuple(
        _dependency(coordinate, sha256) for section in sections for coordinate, sha256 in checksums[section].items()
    )


def find(section: str, name: str) -> Dependency:
    """The dependency with that name."""
    return next(dependency for dependency in pinned(section) if dependency.name == name)


def fetch(wanted: Sequence[Dependency]) -> None:
    """Downloads the dependencies that are not in the cache.

    Raises:
        NeedsTool: mvn or npm is missing.
        StageFailed: a download fails; the message is Maven's or npm's.
        Broken: a file does not have the pinned content.
    """
    missing = [dependency for dependency in wanted if not dependency.path.is_file()]
    if not missing:
        return
    packages.require("android")
    say(f"fetching {len(missing)} dependencies of the Android app")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maven = [dependency for dependency in missing if dependency.group != "npm"]
        if maven:
            _from_maven(maven, folder)
        for dependency in missing:
            if dependency.group == "npm":
                _from_npm(dependency, folder)
        for dependency in missing:
            _keep(dependency, folder / dependency.file)


def _dependency(coordinate: str, sha256: str) -> Dependency:
    group, name, version, kind, *classifier = coordinate.split(":")
    return Dependency(group, name, version, kind, "".join(classifier), sha256)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lastmile" / "parts"


def _keep(dependency: Dependency, path: Path) -> None:
    """Moves a downloaded file to the cache if it has the pinned content."""
    found = store.sha256(path)
    if found != dependency.sha256:
        raise Broken(
            f"{dependency.file} has SHA-256 {found}, but {CHECKSUMS.name} requires {dependency.sha256}: "
            "it is not the pinned file"
        )
    with store.atomic(dependency.path) as temporary:
        temporary.write_bytes(path.read_bytes())


def _from_maven(wanted: Sequence[Dependency], into: Path) -> None:
    """Downloads all in one call, because Maven takes seconds to start."""
    items = "".join(
        f"<artifactItem><groupId>{escape(p.group)}</groupId><artifactId>{escape(p.name)}</artifactId>"
        f"<version>{escape(p.version)}</version><type>{p.kind}</type><classifier>{escape(p.classifier)}</classifier>"
        f"</artifactItem>"
        for p in wanted
    )
    pom = into / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>lastmile</groupId><artifactId>dependencies</artifactId><version>1</version><packaging>pom</packaging>"
        "<build><plugins><plugin><groupId>org.apache.maven.plugins</groupId>"
        f"<artifactId>maven-dependency-plugin</artifactId><version>{COPY.split(':')[2]}</version>"
        f"<configuration><outputDirectory>{escape(str(into))}</outputDirectory>"
        f"<artifactItems>{items}</artifactItems></configuration>"
        "</plugin></plugins></build></project>"
    )
    done = proc.run(["mvn", "--batch-mode", "--quiet", "--file", pom, COPY], timeout=FETCH_SECONDS)
    if done.code != 0:
        error = next((line for line in done.out.splitlines() if "[ERROR]" in line), done.reason)
        raise StageFailed(f"Maven cannot fetch the app's dependencies: {error}")


def _from_npm(dependency: Dependency, into: Path) -> None:
    package = f"{dependency.name}@{dependency.version}"
    done = proc.run(["npm", "pack", "--silent", "--pack-destination", into, package], timeout=FETCH_SECONDS)
    if done.code != 0:
        raise StageFailed(f"npm cannot fetch {package}: {done.reason}")
