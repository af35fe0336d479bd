"""Compiles Kotlin and resources to the content of an APK, in steps: aapt2, the Kotlin compiler, javac, R8.

The folder of a step is named by the hash of its inputs, so a step that is up to date is skipped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import dependencies, package
from pipeline.errors import StageFailed
from pipeline.system import proc, store
from pipeline.system.progress import say

INFERENCE, APP = dependencies.ROOT / "inference", dependencies.ROOT / "app"
STEP_SECONDS = 900.0
MODULE = "org.lastmile.inference"
"""Kotlin module of the library. The default, "main", would collide with the app's in META-INF/main.kotlin_module."""
# The compilers run for a short time, so the JVM's optimizing compiler would cost more than it saves.
JAVA = ("java", "-Xss4m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
HARMLESS = ("Unknown chunk type",)
"""Warnings of aapt2 about Robolectric's framework jar, which contains more than the SDK's."""


@dataclass(frozen=True)
class Steps:
    """The folder that contains the steps' output folders."""

    folder: Path

    def cached(self, name: str, inputs: object, run: Callable[[Path], None]) -> Path:
        """The output folder of a step. Runs the step if there is none for these inputs, and removes older ones."""
        key = store.digest([inputs, store.sha256(Path(__file__))])
        output = self.folder / f"{name}-{key[:16]}"
        if output.is_dir():
            return output
        say(f"  {name}")
        for old in self.folder.glob(f"{name}-{'?' * 16}"):
            store.remove(old)
        with store.atomic(output) as new:
            new.mkdir(parents=True)
            run(new)
        return output


def sdk() -> Path:
    """The jar with Android's classes and resources to compile against."""
    return dependencies.find("sdk", "android-all").path


def jars(section: str) -> list[Path]:
    """The jars of a section of checksums.toml; for an AAR, its classes."""
    return [jar for dependency in dependencies.pinned(section) for jar in classes(dependency)]


def inference(steps: Steps) -> Path:
    """Compiles the inference library to classes/, for the compilers and standard libraries of other projects."""
    runtimes = [dependency for dependency in dependencies.pinned("app") if dependency.name != "kotlin-stdlib"]
    path = [*jars("library"), *(jar for dependency in runtimes for jar in classes(dependency))]
    return library(steps, "inference", package.files(INFERENCE / "src" / "main" / "kotlin"), path, MODULE)


def library(steps: Steps, name: str, sources: Mapping[str, bytes], path: Sequence[Path], module: str) -> Path:
    """Compiles a library to classes/, for the compilers and standard libraries of other projects.

    Args:
        name: of the step.
        sources: Kotlin files by name.
        path: class path besides Android's classes.
        module: Kotlin module; no other library of an app may have the same.
    """
    level, jvm = library_level(), dependencies.versions()["library-jvm"]
    options = ["-language-version", level, "-api-version", level, "-Xsuppress-version-warnings"]
    options += ["-module-name", module]

    def run(new: Path) -> None:
        files = [new / "kotlin" / name for name in sources]
        for file, content in zip(files, sources.values(), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        kotlin(files, [sdk(), *path], new / "classes", options, jvm)

    hashes = [(name, hashlib.sha256(content).hexdigest()) for name, content in sources.items()]
    return steps.cached(
        name, [hashes, [str(part) for part in path], dependencies.CHECKSUMS.read_text(), options, jvm], run
    )


def library_level() -> str:
    """The Kotlin language and API level of the libraries, such as "2.1"."""
    return dependencies.versions()["library-kotlin"].rpartition(".")[0]


def resources(steps: Steps, version: str, debug: bool, models: Sequence[Path]) -> Path:
    """Links the app's manifest and resources and copies its models.

    Writes resources.apk, AndroidManifest.xml, rules.pro (R8 rules for the classes that the resources name), java/ and
    assets/.
    """
    source = APP / "src" / "main"
    model_files = [folder / name for folder in models for name in package.model(folder)]

    def run(new: Path) -> None:
        catalog = dependencies.versions()
        (new / "AndroidManifest.xml").write_text(manifest(version))
        (new / "assets" / "models").mkdir(parents=True)
        package.copy_models(models, new / "assets" / "models")
        _run(["aapt2", "compile", "--dir", source / "res", "-o", new / "compiled.zip"])
        argv: list[str | Path] = ["aapt2", "link", "-I", sdk(), "--manifest", new / "AndroidManifest.xml"]
        argv += ["-o", new / "resources.apk", "--java", new / "java", "-A", new / "assets"]
        argv += ["--min-sdk-version", catalog["min-sdk"], "--target-sdk-version", catalog["target-sdk"]]
        argv += ["--version-code", catalog["version-code"], "--version-name", version]
        argv += ["--proguard", new / "rules.pro"]
        _run([*argv, *(["--debug-mode"] if debug else []), new / "compiled.zip"])
        # The comments contain paths of this machine, which would change the hash of the rules.
        rules = (new / "rules.pro").read_text().splitlines(keepends=True)
        (new / "rules.pro").write_text("".join(line for line in rules if not line.startswith("#")))

    inputs = [
        store.sha256(source / "res"),
        manifest(version),
        debug,
        [store.sha256(file) for file in model_files],
        dict(dependencies.versions()),
    ]
    return steps.cached("resources", inputs, run)


def manifest(version: str) -> str:
    """The app's manifest as Gradle merges it: with the package name, and with the placeholders ${…} replaced."""
    catalog = dependencies.versions()
    text = (APP / "src" / "main" / "AndroidManifest.xml").read_text()
    for name in ("litert", "executorch"):
        text = text.replace("${" + name + "Version}", catalog[name])
    head = f'<manifest package="{catalog["application-id"]}" android:versionCode="{catalog["version-code"]}"'
    sdks = (
        f'<uses-sdk android:minSdkVersion="{catalog["min-sdk"]}" android:targetSdkVersion="{catalog["target-sdk"]}" />'
    )
    text = text.replace("<manifest", f'{head} android:versionName="{version}"', 1)
    return text.replace("<application", f"{sdks}\n    <application", 1)


def app(steps: Steps, linked: Path) -> Path:
    """Compiles the app, including its R class, to classes/. A new version in the manifest does not recompile it."""
    sources = sorted((APP / "src" / "main").rglob("*.kt"))
    library = inference(steps)
    generated = sorted((linked / "java").rglob("*.java"))

    def run(new: Path) -> None:
        _run(["javac", "--release", "11", "-nowarn", "-d", new / "classes", *generated])
        kotlin(sources, [sdk(), *jars("app"), library / "classes", new / "classes"], new / "classes")

    return steps.cached("app", [_hashes(sources), _hashes(generated), library.name], run)


def dex(steps: Steps, linked: Path, engines: Sequence[str], debug: bool) -> Path:
    """Compiles the app and its dependencies to dex files in out.zip, for Android's runtime."""
    return _shrink(steps, "dex", linked, engines, debug)


def classfiles(steps: Steps, linked: Path, engines: Sequence[str]) -> Path:
    """Shrinks the app with the same rules to class files in out.zip, for a JVM."""
    return _shrink(steps, "classfiles", linked, engines, debug=False)


def kotlin(
    sources: Sequence[Path], path: Sequence[Path], into: Path, options: Sequence[str] = (), jvm: str | None = None
) -> None:
    """Compiles Kotlin. Warnings are errors.

    Args:
        path: class path.
        options: further options of the compiler.
        jvm: the version of the class files; None for that of the app.

    Raises:
        StageFailed: the compiler reports an error.
    """
    compiler = ":".join(str(jar) for jar in jars("compiler") if not jar.name.startswith("r8-"))
    argv = [
        *JAVA,
        "-Xmx1g",
        "-cp",
        compiler,
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
        "-Werror",
        "-no-stdlib",
        "-no-reflect",
    ]
    argv += ["-jvm-target", jvm or dependencies.versions()["jvm"], "-classpath", ":".join(map(str, path))]
    _run([*argv, *options, "-d", into, *sources])


def _shrink(steps: Steps, name: str, linked: Path, engines: Sequence[str], debug: bool) -> Path:
    library, own = inference(steps), app(steps, linked)
    libraries = [jar for dependency in package.dependencies_of(engines) for jar in classes(dependency)]
    # Android instantiates the classes named in the manifest and the layouts by reflection; aapt2 writes rules for them.
    rules = [path.read_text() for path in (APP / "rules.pro", INFERENCE / "consumer-rules.pro", linked / "rules.pro")]

    def run(new: Path) -> None:
        for folder, jar in ((library, "inference.jar"), (own, "app.jar")):
            package.jar(folder / "classes", new / jar)
        (new / "rules.pro").write_text("".join([*rules, *(["-dontshrink\n-dontoptimize\n"] if debug else [])]))
        r8 = dependencies.find("compiler", "r8").path
        argv: list[str | Path] = [*JAVA, "-Xmx2g", "-cp", r8, "com.android.tools.r8.R8"]
        argv += ["--debug" if debug else "--release", "--lib", sdk(), "--lib", jdk(), "--pg-conf", new / "rules.pro"]
        if name == "dex":
            argv += ["--min-api", dependencies.versions()["min-sdk"], "--output", new / "out.zip"]
        else:
            argv += ["--classfile", "--output", new / "out.zip"]
        _run([*argv, new / "inference.jar", new / "app.jar", *libraries])

    inputs = [
        library.name,
        own.name,
        engines,
        debug,
        rules,
        dependencies.CHECKSUMS.read_text(),
    ]
    return steps.cached(name, inputs, run)


def classes(dependency: dependencies.Dependency) -> Iterator[Path]:
    """A dependency's classes as jars. Those of an AAR or an npm package are extracted once, next to it."""
    if dependency.kind == "jar":
        yield dependency.path
        return
    extracted = dependency.path.with_name("classes.jar")
    if not extracted.is_file():
        with store.atomic(extracted) as temporary:
            temporary.write_bytes(package.member(dependency, package.CLASSES[dependency.kind]))
    yield extracted


def jdk() -> Path:
    """The JDK's folder. R8 needs it because Robolectric's framework jar does not contain java.lang."""
    found = shutil.which("javac")
    assert found is not None  # packages.require("android") has checked
    return Path(found).resolve().parent.parent


def _hashes(paths: Sequence[Path]) -> list[tuple[str, str]]:
    return [(path.name, store.sha256(path)) for path in paths]


def _run(argv: Sequence[str | Path]) -> None:
    done = proc.run(argv, timeout=STEP_SECONDS)
    lines = [
        text for text in (done.out + done.err).splitlines() if text.strip() and not any(h in text for h in HARMLESS)
    ]
    if done.code != 0:
        tool = next(
            (str(w) for w in argv if str(w) in ("aapt2", "javac") or "K2JVM" in str(w) or str(w).endswith(".R8")),
            argv[0],
        )
        for text in lines[-30:]:
            say(f"    {text}")
        errors = [text for text in lines if "error" in text.lower()] or lines[-1:] or [done.reason]
        raise StageFailed(f"{str(tool).rsplit('.', maxsplit=1)[-1]} failed to build the app: {errors[0].strip()}")
