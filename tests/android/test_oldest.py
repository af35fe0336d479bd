"""The app on Android 8.0: what it calls is there, or guarded, and it runs under Robolectric's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline import android
from pipeline.android import code, parts
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
"""What the app calls and Android 8.0 has not: since which API level it is there. Each is asked for behind SDK_INT."""


@pytest.fixture(scope="module")
def models(matrix: Store) -> dict[str, Path]:
    """Folders of artifacts, by target."""
    return {target: matrix.cell(*MODEL, "fp32", target) for target in android.TARGETS}


def test_what_android_8_has_not_is_called_behind_a_look_at_the_version(kept: Store, models: dict[str, Path]) -> None:
    parts.fetch([part for section in ("app", "sdk", "compiler", "oldest") for part in parts.parts(section)])
    steps = code.Steps(kept.root / "android" / "steps")
    with store.lock(kept, "the tests of the app"):
        linked = code.resources(steps, "0.0.0-test", False, [*models.values()])
        app = code.classfiles(steps, linked, android.ENGINES)
    libraries = (
        parts.find("oldest", "android-all-instrumented").path,
        code.jdk(),
        parts.find("app", "kotlin-stdlib").path,
    )
    words = [
        *code.JAVA,
        "-cp",
        parts.find("compiler", "r8").path,
        "com.android.tools.r8.tracereferences.TraceReferences",
    ]
    words += ["--check", *(word for path in libraries for word in ("--lib", path)), "--source", app / "out.zip"]
    said = proc.run(words, timeout=300).err
    found = set(re.findall(r"Missing (?:\w+) .*?(\w+\.\w+)(?:\([^()]*\))? \(referenced from: .*?(\w+)\.\w+\(", said))
    assert {member for member, _ in found} == set(NEWER), said
    sources = {path.stem: path.read_text() for path in jvm.sources()}
    for member, caller in found:
        assert f"SDK_INT >= {NEWER[member]}" in sources[caller], f"{caller} calls {member}"


def test_the_app_runs_and_answers_on_android_8(
    kept: Store, matrix: Store, models: dict[str, Path], tmp_path: Path
) -> None:
    requests = jvm.Requests(tmp_path)
    inputs = requests.file(next(matrix.root.glob("data/*/images.npy")))
    for target, folder in models.items():
        artifact = store.read(Artifact, folder / "artifact.json")
        assert artifact is not None
        words = ["predict", requests.file(folder / artifact.file), "--inputs", inputs]
        words += ["--layout", str(artifact.inputs[0].layout), "--out", "predictions.npz"]
        requests.ask(jvm.run_name(target), words)
    with store.lock(kept, "the tests of the app"):
        done = jvm.junit(kept, [*models.values()], ["org.lastmile.app.OldestPhone"], tmp_path, {})
    assert done.code == 0, done.out[-4000:]
    ran = jvm.Ran(done, tmp_path)
    for target, folder in models.items():
        ran.said(jvm.run_name(target))
        with np.load(folder / "local" / "predictions.npz") as file:
            got = ran.arrays(jvm.run_name(target), "predictions.npz")["output_0"]
            np.testing.assert_allclose(got, file["output_0"], atol=1e-4)
