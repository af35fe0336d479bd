"""Runs the app's tests and requests to the app in one JVM: Robolectric with Android's native libraries."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.android import code, dependencies, phone
from pipeline.core import Artifact, to_json
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.android import golden

PROJECTS = ("inference", "app")
TRACED = "exif6.jpg"
"""The golden image that `trace` runs on."""
VECTORS = Path(__file__).parent.parent / "vectors"
CONFIG = "com/android/tools/test_config.properties"


REJECTED = [
    ("bad00000001", "sha256 differs"),
    ("bad00000002", "is outside"),
    ("bad00000003", "/proc/self/status"),
    ("bad00000004", "'../../$(x) y.npz'"),
    ("bad00000005", "schema 9"),
    ("bad00000006", "--threads"),
    ("bad00000007", "'--;rm'"),
    ("bad00000008", "truncated"),
    ("bad00000009", "refuses to load it"),
    ("bad0000000a", "another run"),
    ("bad0000000b", "does not exist"),
    ("bad0000000c", "format"),
    ("bad0000000d", "--cpus"),
]
"""Runs that the app must reject, and a part of each error message."""


@dataclass(frozen=True)
class Ran:
    """Results of the JVM.

    Attributes:
        done: JUnit's exit code and output.
        folder: the folder that the adb shell writes on a phone; runs/<id>/results contains a run's results.
    """

    done: proc.Done
    folder: Path

    def result(self, run: str) -> dict[str, Any]:
        """A run's result.json."""
        found: dict[str, Any] = json.loads((self.folder / "runs" / run / "results" / "result.json").read_text())
        return found

    def output(self, run: str) -> dict[str, Any]:
        """The JSON that a successful run printed."""
        result = self.result(run)
        assert result["code"] == 0, result["err"]
        found: dict[str, Any] = json.loads(result["out"])
        return found

    def arrays(self, run: str, name: str) -> dict[str, np.ndarray]:
        """The arrays in a file that a run wrote."""
        with np.load(self.folder / "runs" / run / "results" / name, allow_pickle=False) as file:
            return dict(file)


@dataclass
class Requests:
    """A phone's folder with files and requests as the host writes them."""

    folder: Path

    def file(self, path: Path) -> str:
        """Copies a file to ``files/<sha256>/file.<suffix>``. Returns the path of the copy."""
        target = self.folder / "files" / store.sha256(path) / f"file{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        return str(target)

    def write(self, run: str, arguments: list[str], /, **changes: Any) -> None:
        """Writes a request; `changes` replace its entries."""
        files = {path: Path(path).parent.name for path in arguments if path.startswith(str(self.folder))}
        request = {"schema": 1, "run": run, "runtime": "litert", "words": arguments, "files": files, **changes}
        folder = self.folder / "runs" / run
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request))


def compiled(steps: code.Steps, linked: Path) -> list[Path]:
    """Compiles the app, its library and the tests of both, not shrunk. Returns the folders of classes."""
    library, app = code.inference(steps), code.app(steps, linked)
    tests = sources_of_tests()
    tested = [library / "classes", app / "classes"]

    def run(new: Path) -> None:
        code.kotlin(tests, [code.sdk(), *code.jars("app"), *code.jars("jvm"), *tested], new / "classes")

    hashes = [(path.name, store.sha256(path)) for path in tests]
    return [*tested, steps.cached("tests", [hashes, library.name, app.name], run) / "classes"]


def run(build: Store, models: list[Path], folder: Path, screens: Path) -> Ran:
    """Compiles and runs all tests of android-app/; screenshots go to `screens`."""
    classes = sorted(_class(path) for path in sources_of_tests() if path.name.endswith("Test.kt"))
    return Ran(junit(build, models, classes, folder, {"screens": screens}), folder)


def junit(
    build: Store, models: list[Path], classes: list[str], folder: Path, properties: Mapping[str, Path]
) -> proc.Done:
    """Compiles test classes of android-app/ if needed and runs them in a JVM.

    Args:
        models: folders of the artifacts that are bundled in the app.
        folder: the app's /data/local/tmp/lastmile.
        properties: further properties that the classes read, named without the prefix `lastmile.`.
    """
    dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler", "jvm", "oldest"))
    steps = code.Steps(build.root / "android" / "steps")
    linked = code.resources(steps, "0.0.0-test", False, models)
    classpath = compiled(steps, linked)
    native = phone.libraries(steps)
    config = folder / "config" / CONFIG
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        f"android_resource_apk={linked}/resources.apk\nandroid_merged_manifest={linked}/AndroidManifest.xml\n"
        f"android_custom_package=org.lastmile.app\nandroid_merged_assets={linked}/assets\n"
    )
    frameworks = folder / "frameworks"
    frameworks.mkdir()
    for section in ("jvm", "oldest"):
        framework = dependencies.find(section, "android-all-instrumented").path
        (frameworks / framework.name).symlink_to(framework)
    jars = [*phone.classpath(), *code.jars("app"), *classpath, folder / "config"]
    argv = [*code.JAVA, "-Xmx1500m", "-cp", ":".join(map(str, jars)), f"-Djava.library.path={native}"]
    argv += ["-Drobolectric.offline=true", f"-Drobolectric.dependency.dir={frameworks}"]
    argv += [f"-Dlastmile.{name}={path}" for name, path in {"folder": folder, "vectors": VECTORS, **properties}.items()]
    argv += [f"-Dlastmile.started_ms={time.time_ns() // 1_000_000}", "org.junit.runner.JUnitCore", *classes]
    # TFLite uses XNNPACK from API level 20 on and reads the level from this property.
    env = {"LD_LIBRARY_PATH": str(native), "ro.build.version.sdk": dependencies.versions()["target-sdk"]}
    return proc.run(argv, timeout=900, env=env)


def _class(source: Path) -> str:
    """The class that a Kotlin file is named after."""
    return ".".join(source.with_suffix("").parts[source.parts.index("kotlin") + 1 :])


def request_all(
    requests: Requests, build: Store, cells: list[tuple[str, str]], images: Path, model_name: tuple[str, str]
) -> None:
    """Writes requests for every (recipe, target), and all golden images."""
    inputs = requests.file(images)
    requests.write("0000fac75", ["facts"])
    requests.write("0000aaaa", ["runtimes"])
    for recipe, target in cells:
        folder = build.cell(*model_name, recipe, target)
        artifact = store.read(Artifact, folder / "artifact.json")
        assert artifact is not None
        model = requests.file(folder / artifact.file)
        common = ["--inputs", inputs, "--layout", str(artifact.inputs[0].layout)]
        requests.write(run_id("predict", recipe, target), ["predict", model, *common, "--out", "predictions.npz"])
        if recipe == "fp32":
            bounds = ["--min-runs", "64", "--min-seconds", "0.05", "--warmup-seconds", "0.02"]
            requests.write(run_id("run", recipe, target), ["run", model, *common, *bounds])
            requests.write(run_id("memory", recipe, target), ["memory", model, *common, *bounds])
    model = requests.file(build.cell(*model_name, "fp32", "tflite") / "model.tflite")
    _write_rejected(requests, model, inputs, images)
    folder = requests.folder / "golden" / "images"
    folder.mkdir(parents=True)
    (folder.parent / "preprocessing.json").write_text(json.dumps(to_json(golden.PREPROCESSING)))
    for name, content in golden.images().items():
        (folder / name).write_bytes(content)
    for target in ("tflite", "executorch"):
        artifact = store.read(Artifact, build.cell(*model_name, "fp32", target) / "artifact.json")
        assert artifact is not None
        preprocessing = json.dumps(to_json(artifact.spec.preprocessing))
        arguments = ["trace", requests.file(build.cell(*model_name, "fp32", target) / artifact.file)]
        arguments += ["--image", requests.file(folder / TRACED), "--preprocessing", preprocessing]
        arguments += ["--layout", str(artifact.inputs[0].layout), "--out", "trace.npz"]
        requests.write(run_id("trace", target), arguments)


def _write_rejected(requests: Requests, model: str, inputs: str, images: Path) -> None:
    """Writes the requests of REJECTED, in the same order."""
    runs = iter(run for run, _ in REJECTED)
    scratch = requests.folder / "scratch"
    scratch.mkdir()
    sha256 = Path(model).parent.name
    run = ["run", model, "--inputs", inputs, "--layout", "NHWC"]
    requests.write(next(runs), run, files={model: "0" * 64, inputs: Path(inputs).parent.name})
    outside = f"{requests.folder}/files/../golden/x"
    requests.write(next(runs), ["run", outside], files={outside: sha256})
    requests.write(next(runs), ["run", "/proc/self/status", "--runtime", "litert"])
    requests.write(next(runs), ["predict", *run[1:], "--out", "../../$(x) y.npz"])
    requests.write(next(runs), ["facts"], schema=9)
    requests.write(next(runs), [*run, "--threads", "0"])
    requests.write(next(runs), [*run, "--;rm"])
    (scratch / "truncated.npy").write_bytes(images.read_bytes()[:-100])
    requests.write(next(runs), ["run", model, "--inputs", requests.file(scratch / "truncated.npy"), "--layout", "NHWC"])
    (scratch / "corrupt.pte").write_bytes(b"\x04\0\0\0ET12" + bytes(range(200)))
    requests.write(next(runs), ["run", requests.file(scratch / "corrupt.pte")])
    requests.write(next(runs), ["facts"], run="0123456789")
    missing = f"{requests.folder}/files/{'1' * 64}/file.tflite"
    requests.write(next(runs), ["run", missing], files={missing: "1" * 64})
    requests.write(next(runs), ["facts"], words=None)
    requests.write(next(runs), [*run, "--cpus", "0"])


def run_id(*words: str) -> str:
    """A hexadecimal run ID derived from words."""
    return store.digest(words)[:16]


def sources() -> list[Path]:
    """All Kotlin files in android-app/."""
    return sorted(path for name in PROJECTS for path in (dependencies.ROOT / name / "src").rglob("*.kt"))


def sources_of_tests() -> list[Path]:
    """Those of the tests."""
    return [path for path in sources() if "test" in path.relative_to(dependencies.ROOT).parts]
