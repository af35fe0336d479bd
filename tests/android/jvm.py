"""The app's own tests, and the app's answers, out of one JVM: Robolectric with Android's own native libraries."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.android import code, parts, phone
from pipeline.core import Artifact, to_json
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.android import golden

TESTS = ("inference", "app")
TRACED = "exif6.jpg"
"""The golden picture that `trace` is asked for."""
CONFIG = "com/android/tools/test_config.properties"


REFUSED = [
    ("bad00000001", "is not what the host sent"),
    ("bad00000002", "is outside of"),
    ("bad00000003", "is not among the request's files"),
    ("bad00000004", "plain file name"),
    ("bad00000005", "schema is 9"),
    ("bad00000006", "is not a whole number of 1 or more"),
    ("bad00000007", "unknown word '--;rm'"),
    ("bad00000008", "it was cut short"),
    ("bad00000009", "refuses to load it"),
    ("bad0000000a", "is of another run"),
    ("bad0000000b", "is not there; push it again"),
    ("bad0000000c", "not of this form"),
]
"""Runs that the app must refuse, and what it says of each."""


@dataclass(frozen=True)
class Ran:
    """What came of the JVM.

    Attributes:
        done: JUnit's own words.
        place: what the adb shell's folder is on a phone; runs/<id>/answer is what a run gave.
    """

    done: proc.Done
    place: Path

    def answer(self, run: str) -> dict[str, Any]:
        """A run's result."""
        found: dict[str, Any] = json.loads((self.place / "runs" / run / "answer" / "result.json").read_text())
        return found

    def said(self, run: str) -> dict[str, Any]:
        """What a run that went well printed."""
        answer = self.answer(run)
        assert answer["code"] == 0, answer["err"]
        found: dict[str, Any] = json.loads(answer["out"])
        return found

    def arrays(self, run: str, name: str) -> dict[str, np.ndarray]:
        """The arrays of a file that a run left."""
        with np.load(self.place / "runs" / run / "answer" / name, allow_pickle=False) as file:
            return dict(file)


@dataclass
class Requests:
    """A phone's folder, filled as the host fills it."""

    place: Path

    def file(self, path: Path) -> str:
        """Brings a file there, as ``files/<sha256>/file.<suffix>``. Returns where it is there."""
        target = self.place / "files" / store.sha256(path) / f"file{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        return str(target)

    def ask(self, run: str, words: list[str], /, **changes: Any) -> None:
        """Writes a request; `changes` replace its entries."""
        files = {word: Path(word).parent.name for word in words if word.startswith(str(self.place))}
        request = {"schema": 1, "run": run, "runtime": "litert", "words": words, "files": files, **changes}
        folder = self.place / "runs" / run
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request))


def compiled(steps: code.Steps, linked: Path) -> list[Path]:
    """The app, its library and the tests of both, unshrunk: folders of classes."""
    library, app = code.inference(steps), code.app(steps, linked)
    tests = [path for path in sources() if "test" in path.relative_to(parts.ROOT).parts]
    ours = [library / "classes", app / "classes"]

    def make(new: Path) -> None:
        code.kotlin(tests, [code.sdk(), *code.jars("app"), *code.jars("jvm"), *ours], new / "classes")

    hashes = [(path.name, store.sha256(path)) for path in tests]
    return [*ours, steps.made("tests", [hashes, library.name, app.name], make) / "classes"]


def run(build: Store, models: list[Path], place: Path, pictures: Path) -> Ran:
    """Compiles and runs every test of android-app/."""
    classes = sorted(_class(path) for path in sources() if path.name.endswith("Test.kt"))
    return Ran(junit(build, models, classes, place, {"pictures": pictures}), place)


def junit(build: Store, models: list[Path], classes: list[str], place: Path, told: Mapping[str, Path]) -> proc.Done:
    """Runs classes of android-app/'s tests, compiled where they are not, in a JVM of their own.

    Args:
        models: folders of artifacts that the app has inside.
        place: what is /data/local/tmp/lastmile to the app.
        told: what else the classes ask for, as properties with `lastmile.` before the name.
    """
    parts.fetch([part for section in ("app", "sdk", "compiler", "jvm", "oldest") for part in parts.parts(section)])
    steps = code.Steps(build.root / "android" / "steps")
    linked = code.resources(steps, "0.0.0-test", False, models)
    ours = compiled(steps, linked)
    native = phone.libraries(steps)
    config = place / "config" / CONFIG
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        f"android_resource_apk={linked}/resources.apk\nandroid_merged_manifest={linked}/AndroidManifest.xml\n"
        f"android_custom_package=org.lastmile.app\nandroid_merged_assets={linked}/assets\n"
    )
    frameworks = place / "frameworks"
    frameworks.mkdir()
    for section in ("jvm", "oldest"):
        framework = parts.find(section, "android-all-instrumented").path
        (frameworks / framework.name).symlink_to(framework)
    jars = [*phone.classpath(), *code.jars("app"), *ours, place / "config"]
    words = [*code.JAVA, "-Xmx1500m", "-cp", ":".join(map(str, jars)), f"-Djava.library.path={native}"]
    words += ["-Drobolectric.offline=true", f"-Drobolectric.dependency.dir={frameworks}"]
    words += [f"-Dlastmile.{name}={path}" for name, path in {"place": place, **told}.items()]
    words += [f"-Dlastmile.begun={time.time_ns() // 1_000_000}", "org.junit.runner.JUnitCore", *classes]
    # TFLite takes XNNPACK from API level 20 on, and asks for it.
    env = {"LD_LIBRARY_PATH": str(native), "ro.build.version.sdk": parts.versions()["target-sdk"]}
    return proc.run(words, timeout=900, env=env)


def _class(source: Path) -> str:
    """The class that a file of Kotlin is named for."""
    return ".".join(source.with_suffix("").parts[source.parts.index("kotlin") + 1 :])


def ask_all(
    requests: Requests, build: Store, cells: list[tuple[str, str]], images: Path, home: tuple[str, str]
) -> None:
    """Requests for every (recipe, target), and for every golden picture."""
    inputs = requests.file(images)
    requests.ask("0000fac75", ["facts"])
    requests.ask("0000aaaa", ["runtimes"])
    for recipe, target in cells:
        folder = build.cell(*home, recipe, target)
        artifact = store.read(Artifact, folder / "artifact.json")
        assert artifact is not None
        model = requests.file(folder / artifact.file)
        name = run_name("predict", recipe, target)
        common = ["--inputs", inputs, "--layout", str(artifact.inputs[0].layout)]
        requests.ask(name, ["predict", model, *common, "--out", "predictions.npz"])
        if recipe == "fp32":
            bounds = ["--min-runs", "64", "--min-seconds", "0.05", "--warmup-seconds", "0.02"]
            requests.ask(run_name("run", recipe, target), ["run", model, *common, *bounds])
    _ask_the_impossible(requests, requests.file(build.cell(*home, "fp32", "tflite") / "model.tflite"), inputs, images)
    folder = requests.place / "golden" / "pictures"
    folder.mkdir(parents=True)
    (folder.parent / "preprocessing.json").write_text(json.dumps(to_json(golden.PREPROCESSING)))
    for name, content in golden.pictures().items():
        (folder / name).write_bytes(content)
    for target in ("tflite", "executorch"):
        artifact = store.read(Artifact, build.cell(*home, "fp32", target) / "artifact.json")
        assert artifact is not None
        words = ["trace", requests.file(build.cell(*home, "fp32", target) / artifact.file), "--image"]
        words += [requests.file(folder / TRACED), "--preprocessing", json.dumps(to_json(artifact.spec.preprocessing))]
        words += ["--layout", str(artifact.inputs[0].layout), "--out", "trace.npz"]
        requests.ask(run_name("trace", target), words)


def _ask_the_impossible(requests: Requests, model: str, inputs: str, images: Path) -> None:
    """The requests of REFUSED, in its order."""
    runs = iter(run for run, _ in REFUSED)
    scratch = requests.place / "scratch"
    scratch.mkdir()
    sha256 = Path(model).parent.name
    run = ["run", model, "--inputs", inputs, "--layout", "NHWC"]
    requests.ask(next(runs), run, files={model: "0" * 64, inputs: Path(inputs).parent.name})
    outside = f"{requests.place}/files/../golden/x"
    requests.ask(next(runs), ["run", outside], files={outside: sha256})
    requests.ask(next(runs), ["run", "/proc/self/status", "--runtime", "litert"])
    requests.ask(next(runs), ["predict", *run[1:], "--out", "../../$(x) y.npz"])
    requests.ask(next(runs), ["facts"], schema=9)
    requests.ask(next(runs), [*run, "--threads", "0"])
    requests.ask(next(runs), [*run, "--;rm"])
    (scratch / "cut.npy").write_bytes(images.read_bytes()[:-100])
    requests.ask(next(runs), ["run", model, "--inputs", requests.file(scratch / "cut.npy"), "--layout", "NHWC"])
    (scratch / "broken.pte").write_bytes(b"\x04\0\0\0ET12" + bytes(range(200)))
    requests.ask(next(runs), ["run", requests.file(scratch / "broken.pte")])
    requests.ask(next(runs), ["facts"], run="0123456789")
    gone = f"{requests.place}/files/{'1' * 64}/file.tflite"
    requests.ask(next(runs), ["run", gone], files={gone: "1" * 64})
    requests.ask(next(runs), ["facts"], words=None)


def run_name(*words: str) -> str:
    """A run's name, which is hexadecimal."""
    return store.digest(words)[:16]


def sources() -> list[Path]:
    """Every file of Kotlin in android-app/."""
    return sorted(path for name in TESTS for path in (parts.ROOT / name / "src").rglob("*.kt"))
