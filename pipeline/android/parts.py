"""The parts of others that the app is made of and with, by pinned version and content.

android-app/gradle/libs.versions.toml says which versions, for Gradle and for us; checksums.toml beside it says the
SHA-256 of each file. Maven and npm fetch them by the user's own settings, so a company's mirror is used where one is.

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
class Part:
    """A file out of a package registry.

    Attributes:
        group: Maven's group, or "npm".
        kind: "jar", "aar" or "tgz".
        classifier: Maven's; "" for the main file.
        sha256: of its content.
    """

    group: str
    name: str
    version: str
    kind: str
    classifier: str
    sha256: str

    @property
    def file(self) -> str:
        """Its name on disk, as Maven and npm call it."""
        return f"{self.name}-{self.version}{'-' * bool(self.classifier)}{self.classifier}.{self.kind}"

    @property
    def path(self) -> Path:
        """Where it is kept once it is fetched."""
        return _cache() / self.sha256 / self.file


@cache
def versions() -> Mapping[str, str]:
    """The catalog's versions, by name."""
    found: dict[str, str] = tomllib.loads(CATALOG.read_text())["versions"]
    return found


@cache
def parts(section: str) -> tuple[Part, ...]:
    """The parts of a section of checksums.toml: "app", "sdk", "compiler", "jvm", "oldest" or "lint"."""
    return tuple(
        _part(coordinate, sha256) for coordinate, sha256 in tomllib.loads(CHECKSUMS.read_text())[section].items()
    )


def find(section: str, name: str) -> Part:
    """The part of that name."""
    return next(part for part in parts(section) if part.name == name)


def fetch(wanted: Sequence[Part]) -> None:
    """Brings what is not here.

    Raises:
        NeedsTool: mvn or npm is missing.
        StageFailed: a registry does not give it; the reason is Maven's or npm's.
        Broken: what came is not the pinned content.
    """
    gone = [part for part in wanted if not part.path.is_file()]
    if not gone:
        return
    packages.require("android")
    say(f"fetching {len(gone)} parts of the Android app")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        maven = [part for part in gone if part.group != "npm"]
        if maven:
            _from_maven(maven, here)
        for part in gone:
            if part.group == "npm":
                _from_npm(part, here)
        for part in gone:
            _keep(part, here / part.file)


def _part(coordinate: str, sha256: str) -> Part:
    group, name, version, kind, *classifier = coordinate.split(":")
    return Part(group, name, version, kind, "".join(classifier), sha256)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lastmile" / "parts"


def _keep(part: Part, path: Path) -> None:
    found = store.sha256(path)
    if found != part.sha256:
        raise Broken(
            f"{part.file} has SHA-256 {found}, and {CHECKSUMS.name} says {part.sha256}: it is not the pinned file"
        )
    with store.atomic(part.path) as temporary:
        temporary.write_bytes(path.read_bytes())


def _from_maven(wanted: Sequence[Part], into: Path) -> None:
    """All at once: Maven takes seconds to start."""
    items = "".join(
        f"<artifactItem><groupId>{escape(p.group)}</groupId><artifactId>{escape(p.name)}</artifactId>"
        f"<version>{escape(p.version)}</version><type>{p.kind}</type><classifier>{escape(p.classifier)}</classifier>"
        f"</artifactItem>"
        for p in wanted
    )
    pom = into / "pom.xml"
    pom.write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>lastmile</groupId><artifactId>parts</artifactId><version>1</version><packaging>pom</packaging>"
        "<build><plugins><plugin><groupId>org.apache.maven.plugins</groupId>"
        f"<artifactId>maven-dependency-plugin</artifactId><version>{COPY.split(':')[2]}</version>"
        f"<configuration><outputDirectory>{escape(str(into))}</outputDirectory>"
        f"<artifactItems>{items}</artifactItems></configuration>"
        "</plugin></plugins></build></project>"
    )
    done = proc.run(["mvn", "--batch-mode", "--quiet", "--file", pom, COPY], timeout=FETCH_SECONDS)
    if done.code != 0:
        told = next((line for line in done.out.splitlines() if "[ERROR]" in line), done.reason)
        raise StageFailed(f"Maven cannot fetch the app's parts: {told}")


def _from_npm(part: Part, into: Path) -> None:
    words: list[str | Path] = ["npm", "pack", "--silent", "--pack-destination", into, f"{part.name}@{part.version}"]
    done = proc.run(words, timeout=FETCH_SECONDS)
    if done.code != 0:
        raise StageFailed(f"npm cannot fetch {part.name} {part.version}: {done.reason}")
