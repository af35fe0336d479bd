"""The app on Android 8.0, the oldest supported version: it guards calls to newer APIs and runs under Robolectric."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import android
from pipeline.android import code, dependencies
from pipeline.core import Artifact
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.android import jvm
from tests.android.conftest import MODEL

NEWER = {
    "Activity.setShowWhenLocked": 27,
    "Activity.setTurnScreenOn": 27,
    "Bitmap.setColorSpace": 29,
    "Build.SOC_MANUFACTURER": 31,
    "Build.SOC_MODEL": 31,
    "Intent.getParcelableExtra": 33,
    "PowerManager.getCurrentThermalStatus": 29,
    "PowerManager.getThermalHeadroom": 30,
}
"""APIs that the app uses and Android 8.0 lacks, with the API level that introduced them. Each use checks SDK_INT."""


@pytest.fixture(scope="module")
def models(matrix: Store) -> dict[str, Path]:
    """Folders of artifacts, by target."""
    return {target: matrix.cell(*MODEL, "fp32", target) for target in android.TARGETS}


def test_calls_to_apis_that_android_8_lacks_check_the_api_level(kept: Store, models: dict[str, Path]) -> None:
    dependencies.fetch(dependencies.pinned("app", "library", "sdk", "compiler", "oldest"))
    steps = code.Steps(kept.root / "android" / "steps")
    with store.lock(kept, "the tests of the app"):
        linked = code.resources(steps, "0.0.0-test", False, [*models.values()])
        app = code.classfiles(steps, linked, android.ENGINES)
    libraries = (
        dependencies.find("oldest", "android-all-instrumented").path,
        code.jdk(),
        dependencies.find("app", "kotlin-stdlib").path,
    )
    argv = [
        *code.JAVA,
        "-cp",
        dependencies.find("compiler", "r8").path,
        "com.android.tools.r8.tracereferences.TraceReferences",
    ]
    argv += ["--check", *(option for path in libraries for option in ("--lib", path)), "--source", app / "out.zip"]
    err = proc.run(argv, timeout=300).err
    found = set(re.findall(r"Missing (?:\w+) .*?(\w+\.\w+)(?:\([^()]*\))? \(referenced from: .*?(\w+)\.\w+\(", err))
    assert {member for member, _ in found} == set(NEWER), err
    sources = {path.stem: path.read_text() for path in jvm.sources()}
    for member, caller in found:
        assert f"SDK_INT >= {NEWER[member]}" in sources[caller], f"{caller} calls {member}"


def test_the_app_runs_on_android_8_with_the_hosts_outputs(
    kept: Store, matrix: Store, models: dict[str, Path], tmp_path: Path
) -> None:
    requests = jvm.Requests(tmp_path)
    inputs = requests.file(next(matrix.root.glob("data/*/images.npy")))
    for target, folder in models.items():
        artifact = store.read(Artifact, folder / "artifact.json")
        assert artifact is not None
        arguments = ["predict", requests.file(folder / artifact.file), "--inputs", inputs]
        arguments += ["--layout", str(artifact.inputs[0].layout), "--out", "predictions.npz"]
        requests.write(jvm.run_id(target), arguments)
    with store.lock(kept, "the tests of the app"):
        done = jvm.junit(kept, [*models.values()], ["org.lastmile.app.OldestAndroid"], tmp_path, {})
    assert done.code == 0, done.out[-4000:]
    ran = jvm.Ran(done, tmp_path)
    for target, folder in models.items():
        ran.output(jvm.run_id(target))
        with np.load(folder / "local" / "predictions.npz") as file:
            outputs = ran.arrays(jvm.run_id(target), "predictions.npz")["output_0"]
            np.testing.assert_allclose(outputs, file["output_0"], atol=1e-4)
