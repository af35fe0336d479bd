"""From Kotlin and resources to what an APK holds: aapt2, Kotlin's compiler, javac and R8, a step each.

A step's folder is named by the hash of what went in, so that what is up to date costs nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import package, parts
from pipeline.errors import StageFailed
from pipeline.system import proc, store
from pipeline.system.progress import say

INFERENCE, APP = parts.ROOT / "inference", parts.ROOT / "app"
STEP_SECONDS = 900.0
# The compilers are short programs: the JVM's second compiler would cost more than it gains.
JAVA = ("java", "-Xss4m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
HARMLESS = ("Unknown chunk type",)
"""What aapt2 says of Robolectric's framework jar, which has more in it than an SDK's."""


@dataclass(frozen=True)
class Steps:
    """A folder of steps' folders."""

    folder: Path

    def made(self, name: str, inputs: object, make: Callable[[Path], None]) -> Path:
        """The step's folder of these inputs; made, in place of an older one, where it is not there."""
        key = store.digest([inputs, store.sha256(Path(__file__))])
        there = self.folder / f"{name}-{key[:16]}"
        if there.is_dir():
            return there
        say(f"  {name}")
        for old in self.folder.glob(f"{name}-{'?' * 16}"):
            store.remove(old)
        with store.atomic(there) as new:
            new.mkdir(parents=True)
            make(new)
        return there


def sdk() -> Path:
    """Android's classes and resources, to compile against."""
    return parts.find("sdk", "android-all").path


def jars(section: str) -> list[Path]:
    """The jars of a section; of an AAR its classes."""
    return [jar for part in parts.parts(section) for jar in _classes(part)]


def inference(steps: Steps) -> Path:
    """The inference library: classes/."""
    sources = sorted((INFERENCE / "src" / "main").rglob("*.kt"))
    path = [sdk(), *jars("app")]
    return steps.made(
        "inference", [_hashes(sources), parts.CHECKSUMS.read_text()], lambda new: kotlin(sources, path, new / "classes")
    )


def resources(steps: Steps, version: str, debug: bool, models: Sequence[Path]) -> Path:
    """The app's manifest and resources, linked, with R8's rules for the classes that they name, and its models:
    resources.apk, AndroidManifest.xml, rules.pro, java/, assets/."""
    source = APP / "src" / "main"
    names = [folder / name for folder in models for name in package.model(folder)]

    def make(new: Path) -> None:
        catalog = parts.versions()
        (new / "AndroidManifest.xml").write_text(manifest(version))
        (new / "assets" / "models").mkdir(parents=True)
        package.copy_models(models, new / "assets" / "models")
        _run(["aapt2", "compile", "--dir", source / "res", "-o", new / "compiled.zip"])
        words: list[str | Path] = ["aapt2", "link", "-I", sdk(), "--manifest", new / "AndroidManifest.xml"]
        words += ["-o", new / "resources.apk", "--java", new / "java", "-A", new / "assets"]
        words += ["--min-sdk-version", catalog["min-sdk"], "--target-sdk-version", catalog["target-sdk"]]
        words += ["--version-code", catalog["version-code"], "--version-name", version]
        words += ["--proguard", new / "rules.pro"]
        _run([*words, *(["--debug-mode"] if debug else []), new / "compiled.zip"])
        # Its comments say in which folder of this machine a class is named.
        rules = (new / "rules.pro").read_text().splitlines(keepends=True)
        (new / "rules.pro").write_text("".join(line for line in rules if not line.startswith("#")))

    inputs = [
        store.sha256(source / "res"),
        manifest(version),
        debug,
        [store.sha256(name) for name in names],
        dict(parts.versions()),
    ]
    return steps.made("resources", inputs, make)


def manifest(version: str) -> str:
    """The app's manifest as Gradle would merge it: with the package, and the catalog's values in place of ${…}."""
    catalog = parts.versions()
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
    """The app's own classes, R among them: classes/. A version's number in the manifest compiles nothing anew."""
    sources = sorted((APP / "src" / "main").rglob("*.kt"))
    library = inference(steps)
    generated = sorted((linked / "java").rglob("*.java"))

    def make(new: Path) -> None:
        _run(["javac", "--release", "11", "-nowarn", "-d", new / "classes", *generated])
        kotlin(sources, [sdk(), *jars("app"), library / "classes", new / "classes"], new / "classes")

    return steps.made("app", [_hashes(sources), _hashes(generated), library.name], make)


def dex(steps: Steps, linked: Path, engines: Sequence[str], debug: bool) -> Path:
    """The app for Android's runtime, with what it uses of others: classes.dex."""
    return _shrunk(steps, "dex", linked, engines, debug)


def classfiles(steps: Steps, linked: Path, engines: Sequence[str]) -> Path:
    """The app for a JVM, shrunk by the same rules: app.jar."""
    return _shrunk(steps, "classfiles", linked, engines, debug=False)


def kotlin(sources: Sequence[Path], path: Sequence[Path], into: Path) -> None:
    """Compiles Kotlin; a warning is an error.

    Raises:
        StageFailed: the compiler's own lines.
    """
    compiler = ":".join(str(jar) for jar in jars("compiler") if not jar.name.startswith("r8-"))
    words = [
        *JAVA,
        "-Xmx1g",
        "-cp",
        compiler,
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
        "-Werror",
        "-no-stdlib",
        "-no-reflect",
    ]
    words += ["-jvm-target", parts.versions()["jvm"], "-classpath", ":".join(map(str, path)), "-d", str(into)]
    _run([*words, *map(str, sources)])


def _shrunk(steps: Steps, name: str, linked: Path, engines: Sequence[str], debug: bool) -> Path:
    library, ours = inference(steps), app(steps, linked)
    others = [jar for part in package.parts_of(engines) for jar in _classes(part)]
    # Android makes by name what the manifest and the layouts name: aapt2 has written down what that is.
    rules = [path.read_text() for path in (APP / "rules.pro", INFERENCE / "consumer-rules.pro", linked / "rules.pro")]

    def make(new: Path) -> None:
        for folder, jar in ((library, "inference.jar"), (ours, "app.jar")):
            package.jar(folder / "classes", new / jar)
        (new / "rules.pro").write_text("".join([*rules, *(["-dontshrink\n-dontoptimize\n"] if debug else [])]))
        words: list[str | Path] = [*JAVA, "-Xmx2g", "-cp", parts.find("compiler", "r8").path, "com.android.tools.r8.R8"]
        words += ["--debug" if debug else "--release", "--lib", sdk(), "--lib", jdk(), "--pg-conf", new / "rules.pro"]
        if name == "dex":
            words += ["--min-api", parts.versions()["min-sdk"], "--output", new / "out.zip"]
        else:
            words += ["--classfile", "--output", new / "out.zip"]
        _run([*words, new / "inference.jar", new / "app.jar", *others])

    inputs = [
        library.name,
        ours.name,
        engines,
        debug,
        rules,
        parts.CHECKSUMS.read_text(),
    ]
    return steps.made(name, inputs, make)


def _classes(part: parts.Part) -> Iterator[Path]:
    """A part's classes as jars: an AAR's and an npm package's are taken out beside it, once."""
    if part.kind == "jar":
        yield part.path
        return
    taken = part.path.with_name("classes.jar")
    if not taken.is_file():
        with store.atomic(taken) as temporary:
            temporary.write_bytes(package.member(part, package.CLASSES[part.kind]))
    yield taken


def jdk() -> Path:
    """The JDK's folder: Robolectric's framework jar has Android's classes without java.lang."""
    found = shutil.which("javac")
    assert found is not None  # system.require("android") has looked
    return Path(found).resolve().parent.parent


def _hashes(paths: Sequence[Path]) -> list[tuple[str, str]]:
    return [(path.name, store.sha256(path)) for path in paths]


def _run(words: Sequence[str | Path]) -> None:
    done = proc.run(words, timeout=STEP_SECONDS)
    lines = [
        text for text in (done.out + done.err).splitlines() if text.strip() and not any(h in text for h in HARMLESS)
    ]
    if done.code != 0:
        tool = next(
            (str(w) for w in words if str(w) in ("aapt2", "javac") or "K2JVM" in str(w) or str(w).endswith(".R8")),
            words[0],
        )
        for text in lines[-30:]:
            say(f"    {text}")
        told = [text for text in lines if "error" in text.lower()] or lines[-1:] or [done.reason]
        raise StageFailed(f"{str(tool).rsplit('.', maxsplit=1)[-1]} refuses the app: {told[0].strip()}")
