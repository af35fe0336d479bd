"""Projects that use the libraries: Maven, the oldest supported Kotlin compiler and R8."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.android import code, dependencies, package
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.make_matrix import ROOT

GUIDE = ROOT / "docs" / "android-app.md"
DEFAULT_RULE = "-keepclasseswithmembernames,includedescriptorclasses class * { native <methods>; }"
"""From Android's default rules, proguard-android-optimize.txt."""


def snippet(language: str, guide: Path = GUIDE) -> str:
    """A guide's only code block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def resolve(kept: Store, parts: str, project: Path) -> tuple[proc.Done, Path]:
    """Resolves a project's dependencies with Maven, which keeps its other downloads.

    Args:
        parts: XML of the repositories and dependencies.
        project: an empty folder.

    Returns:
        What Maven printed, and the folder of the files.
    """
    (project / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>com.example</groupId><artifactId>consumer</artifactId>"
        f"<version>1</version><packaging>pom</packaging>{parts}</project>"
    )
    local = kept.root / "m2"
    goal = f"{dependencies.COPY.removesuffix(':copy')}:copy-dependencies"
    argv: list[str | Path] = ["mvn", "--batch-mode", "--quiet", "--file", project / "pom.xml"]
    with store.lock(kept, "the tests of the libraries"):
        store.remove(local / "org" / "lastmile")
        done = proc.run([*argv, f"-Dmaven.repo.local={local}", goal], timeout=dependencies.FETCH_SECONDS)
    return done, project / "target" / "dependency"


def changed_byte(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unpacked(aar: Path, folder: Path) -> tuple[Path, str]:
    """An AAR's classes as a jar in a folder, and its R8 rules."""
    jar = folder / f"{aar.stem}.jar"
    with zipfile.ZipFile(aar) as archive:
        jar.write_bytes(archive.read("classes.jar"))
        return jar, archive.read("proguard.txt").decode()


def compile_with_the_oldest_kotlin(source: Path, path: Sequence[Path], into: Path, jvm: str = "1.8") -> None:
    """Compiles a file. Warnings are errors."""
    compiler = ":".join(str(jar) for jar in code.jars("consumer"))
    argv: list[str | Path] = [*code.JAVA, "-Xmx1g", "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    argv += ["-Werror", "-no-stdlib", "-no-reflect", "-jvm-target", jvm, "-classpath", ":".join(map(str, path))]
    done = proc.run([*argv, "-d", into, source], timeout=code.STEP_SECONDS)
    assert done.code == 0, done.err


def shrunk(
    jars: Sequence[Path], rules: Sequence[str], engines: Sequence[str], folder: Path, also: Sequence[Path] = ()
) -> Path:
    """Shrinks an app with runtimes to class files for a JVM. It keeps only what the rules name.

    Args:
        jars: the app and its libraries.
        rules: besides those of the runtimes' AARs.
        also: jars that the app refers to and that stay outside.
    """
    runtime = [dependencies.find("app", name) for engine in engines for name in package.ENGINE_DEPENDENCIES[engine]]
    own = [package.member(part, "proguard.txt").decode() for part in runtime if part.name.startswith("tensorflow-lite")]
    (folder / "rules.pro").write_text("\n".join([*rules, *own, DEFAULT_RULE]))
    argv: list[str | Path] = [*code.JAVA, "-Xmx2g", "-cp", dependencies.find("compiler", "r8").path]
    argv += ["com.android.tools.r8.R8", "--release", "--classfile", "--lib", code.sdk(), "--lib", code.jdk()]
    for jar in also:
        argv += ["--classpath", jar]
    argv += ["--pg-conf", folder / "rules.pro", "--output", folder / "app.jar", *jars]
    argv += [jar for part in runtime for jar in code.classes(part)]
    done = proc.run(argv, timeout=code.STEP_SECONDS)
    assert done.code == 0, done.err
    return folder / "app.jar"
