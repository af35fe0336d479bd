"""The Android package of a bundle: the model's library in another project, and the AI pack in an app bundle."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline import android, registry
from pipeline.android import code, dependencies, maven, package, phone
from pipeline.core import Artifact
from pipeline.packages import Contents, ShippedCell, _api, _templates
from pipeline.packages import android as android_package
from pipeline.results import bundle as bundles
from pipeline.stages import ship
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests import plans
from tests.android import consumers, jvm
from tests.make_matrix import ROOT

GUIDE = ROOT / "docs" / "ship-android.md"
CONSUMER = Path(__file__).parent / "model_consumer.kt"
LIBRARY = "org/lastmile/models/tiny/1.2.0/tiny-1.2.0"
IMAGES = 8
GRADLE = "{https://schema.gradle.org/dependency-verification}"
CONFIG = "{http://schemas.android.com/apk/config}"


@pytest.fixture(scope="session")
def bundle(matrix: Store, kept: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the matrix's model for Android."""
    build = Store(shutil.copytree(matrix.root, tmp_path_factory.mktemp("shipped") / "build"))
    steps = kept.root / android.FOLDER
    steps.mkdir(parents=True, exist_ok=True)
    (build.root / android.FOLDER).symlink_to(steps)
    plan = plans.plan(targets=android.TARGETS, recipes=("fp32", "int8"))
    options = ship.Options(
        "1.2.0", (registry.bind("packages", "android"),), licence="MIT",
        every_package=False, every_recipe=False, every_target=False,
    )  # fmt: skip
    with store.lock(kept, "the tests of the libraries"):
        return ship.ship(build, plan, options).path


@pytest.fixture(scope="session")
def aar(bundle: Path) -> Path:
    """The model's AAR in the bundle's Maven repository."""
    return bundle / "android" / "maven" / f"{LIBRARY}.aar"


@pytest.fixture(scope="session")
def resolved(kept: Store, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model's library and all that it needs, as Maven resolves them."""
    done, folder = _resolve(kept, bundle / "android" / "maven", tmp_path_factory.mktemp("consumer"))
    assert done.code == 0, done.out
    return folder


def _resolve(kept: Store, repository: Path, project: Path) -> tuple[proc.Done, Path]:
    """Resolves the library with Maven, in a project with the guide's XML."""
    parts = consumers.snippet("xml", GUIDE).replace("file:///path/to/bundle/android/maven", repository.as_uri())
    assert "<artifactId>digits-cnn</artifactId>" in parts
    return consumers.resolve(kept, parts.replace("digits-cnn", "tiny"), project)


def _assets(path: Path) -> dict[str, bytes]:
    """The assets in an AAR, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name.removeprefix("assets/"): archive.read(name) for name in archive.namelist() if "assets/" in name}


def test_the_library_contains_the_recommended_files_with_their_golden_outputs(bundle: Path, aar: Path) -> None:
    contents, assets = bundles.contents(bundle), _assets(aar)
    golden = {f"tiny/golden/{i}.png": (bundle / "golden" / "images" / f"{i}.png").read_bytes() for i in range(IMAGES)}
    assert {name: content for name, content in assets.items() if "/golden/" in name} == golden
    for target in android.TARGETS:
        cell = contents.recommended(target)
        assert cell is not None
        manifest = store.read(Artifact, bundle / cell.folder / "artifact.json")
        assert manifest is not None and manifest.sha256 == cell.artifact.sha256
        for name in ("artifact.json", manifest.file):
            assert assets[f"tiny/{target}/{name}"] == (bundle / cell.folder / name).read_bytes()
        outputs = np.load(bundle / "golden" / cell.recipe / target / "host.npy").astype("<f4")
        assert assets[f"tiny/{target}/golden.f32"] == outputs.tobytes()
    assert len(assets) == IMAGES + 3 * len(android.TARGETS)


def test_the_library_has_a_typed_class_of_its_own_and_depends_on_the_inference_library(aar: Path) -> None:
    with zipfile.ZipFile(aar) as archive, zipfile.ZipFile(archive.open("classes.jar")) as jar:
        names = set(jar.namelist())
    folder = "org/lastmile/models/tiny"
    assert {f"{folder}/{name}.class" for name in ("Tiny", "Tiny$Label", "Tiny$Runtime", "Tiny$Prediction")} <= names
    assert all(name.startswith((f"{folder}/Tiny", "META-INF/org.lastmile.models.tiny")) for name in names)
    root, space = ElementTree.parse(aar.with_suffix(".pom")).getroot(), "{http://maven.apache.org/POM/4.0.0}"
    needed = [[child.text for child in element] for element in root.iter(f"{space}dependency")]
    versions = dependencies.versions()
    assert needed == [
        ["org.lastmile", "inference", versions["version-name"], "aar", "compile"],
        ["org.jetbrains.kotlin", "kotlin-stdlib", versions["library-kotlin"], "compile"],
    ]
    assert root.findtext(f"{space}licenses/{space}license/{space}name") == "MIT"
    with zipfile.ZipFile(aar.with_name(f"{aar.stem}-sources.jar")) as sources:
        assert sources.namelist() == [f"{folder}/Tiny.kt"]


def test_gradles_verification_file_has_the_hash_of_every_file_in_the_repository(bundle: Path) -> None:
    repository = bundle / "android" / "maven"
    found = {}
    for component in ElementTree.parse(bundle / "android" / android_package.VERIFICATION).iter(f"{GRADLE}component"):
        name = maven.Coordinate(component.attrib["group"], component.attrib["name"], component.attrib["version"])
        for artifact in component.iter(f"{GRADLE}artifact"):
            (checksum,) = artifact.iter(f"{GRADLE}sha256")
            found[str(name.folder / artifact.attrib["name"])] = checksum.attrib["value"]
    files = {path: store.sha256(repository / path) for path in package.files(repository)}
    assert found == {path: sha for path, sha in files.items() if path.rpartition(".")[2] not in maven.HASHES}
    assert len(found) == 8


def test_the_same_contents_give_the_same_bytes(kept: Store, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "android").mkdir()
    with store.lock(kept, "the tests of the libraries"):
        android_package.write(bundles.contents(bundle), tmp_path / "android")
    assert package.files(tmp_path / "android") == package.files(bundle / "android")


def test_maven_resolves_the_model_with_the_inference_library(resolved: Path, aar: Path) -> None:
    versions = dependencies.versions()
    assert (resolved / aar.name).read_bytes() == aar.read_bytes()
    assert {path.name for path in resolved.iterdir()} >= {
        f"inference-{versions['version-name']}.aar", f"kotlin-stdlib-{versions['library-kotlin']}.jar",
    }  # fmt: skip


def test_maven_refuses_a_model_of_which_one_byte_changed(kept: Store, bundle: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(bundle / "android" / "maven", tmp_path / "maven")
    consumers.changed_byte(repository / f"{LIBRARY}.aar")
    done, folder = _resolve(kept, repository, tmp_path)
    assert done.code != 0
    assert "tiny:aar" in done.out and "Checksum validation failed" in done.out
    assert not (folder / "tiny-1.2.0.aar").exists()


def test_an_app_compiled_by_the_oldest_kotlin_and_shrunk_by_r8_passes_the_golden_self_test(
    kept: Store, bundle: Path, resolved: Path, aar: Path, tmp_path: Path
) -> None:
    dependencies.fetch(dependencies.pinned("app", "sdk", "compiler", "consumer", "jvm"))
    libraries, rules = zip(
        *(consumers.unpacked(path, tmp_path) for path in sorted(resolved.glob("*.aar"))), strict=True
    )
    path = [*libraries, *resolved.glob("*.jar")]
    outside = [jar for jar in code.jars("jvm") if not jar.name.startswith("android-all")]
    consumers.compile_with_the_oldest_kotlin(CONSUMER, [*path, code.sdk(), *outside], tmp_path / "classes", "11")
    package.jar(tmp_path / "classes", tmp_path / "consumer.jar")
    own = ["-keep class ModelConsumer { *; }", "-keepattributes RuntimeVisibleAnnotations"]
    runtimes = consumers.snippet("proguard")
    app = consumers.shrunk(
        [tmp_path / "consumer.jar", *path], [*rules, runtimes, *own], android.ENGINES, tmp_path, outside
    )
    done = _robolectric(kept, app, _assets(aar), tmp_path)
    assert done.code == 0, done.out[-6000:] + done.err[-2000:]
    assert "OK (6 tests)" in done.out
    contents = bundles.contents(bundle)
    cells = {target: contents.recommended(target) for target in android.TARGETS}
    for target, cell in cells.items():
        assert cell is not None
        runtime = android_package.RUNTIMES[target][0]
        images, same, error, tolerance, recipe, sha256 = (tmp_path / f"{runtime}.txt").read_text().split()
        assert (images, same, recipe, sha256) == (str(IMAGES), str(IMAGES), cell.recipe, cell.artifact.sha256)
        assert float(error) <= float(tolerance) == pytest.approx(cell.tolerance)
    hashes = [cell.artifact.sha256 for cell in cells.values() if cell]
    constants = (tmp_path / "constants.txt").read_text().splitlines()
    assert constants == ["tiny", "1.2.0", contents.weights_sha256, *hashes]


def _robolectric(kept: Store, app: Path, assets: Mapping[str, bytes], folder: Path) -> proc.Done:
    """Runs the consumer's tests with these assets."""
    for name, content in assets.items():
        (folder / "assets" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "assets" / name).write_bytes(content)
    manifest = folder / "AndroidManifest.xml"
    manifest.write_text(
        '<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="com.example">'
        '<uses-sdk android:minSdkVersion="26" android:targetSdkVersion="34" /><application /></manifest>\n'
    )
    argv: list[str | Path] = ["aapt2", "link", "-I", code.sdk(), "--manifest", manifest]
    done = proc.run([*argv, "-A", folder / "assets", "-o", folder / "resources.apk"])
    assert done.code == 0, done.err
    config = folder / "config" / jvm.CONFIG
    config.parent.mkdir(parents=True)
    config.write_text(
        f"android_resource_apk={folder}/resources.apk\nandroid_merged_manifest={manifest}\n"
        f"android_custom_package=com.example\nandroid_merged_assets={folder}/assets\n"
    )
    with store.lock(kept, "the tests of the libraries"):
        native = phone.libraries(code.Steps(kept.root / android.FOLDER / "steps"))
    argv = [*code.JAVA, "-Xmx1g", "-cp", ":".join(map(str, [*phone.classpath(), app, folder / "config"]))]
    argv += [f"-Djava.library.path={native}", "-Drobolectric.offline=true"]
    argv += [f"-Drobolectric.dependency.dir={phone.framework()}", f"-Dconsumer.files={folder}"]
    env = {"LD_LIBRARY_PATH": str(native), "ro.build.version.sdk": dependencies.versions()["target-sdk"]}
    return proc.run([*argv, "org.junit.runner.JUnitCore", "ModelConsumer"], timeout=600, env=env)


NASTY = (
    "class",
    "C",
    "C++",
    "C#",
    "",
    "日本",
    '"${evil()}"',
    "*/ }",
    "a\nb",
    "🐈",
    "\u202e",
    "val",
    "LABEL_0",
    "0",
    "\\",
)


def test_labels_and_models_with_any_name_compile(kept: Store, bundle: Path) -> None:
    contents = bundles.contents(bundle)
    contents = replace(contents, model="runtime", spec=replace(contents.spec, labels=NASTY))
    api = android_package._describe(contents)
    name = f"com.example.{api.module}"
    sources = {"Api.kt": android_package._source(contents, api, name).encode()}
    assert api.type == "RuntimeModel"
    with store.lock(kept, "the tests of the libraries"):
        found = android.classes(kept, name, sources)
    assert f"com/example/{api.module}/RuntimeModel$Label.class" in found
    for label in NASTY:
        assert _templates.kotlin(label) in sources["Api.kt"].decode()
    assert _api.unsupported(contents.spec) is None


# -- the AI pack -------------------------------------------------------------------------------------------------------

GIB = 1 << 30


def _on_phones(contents: Contents, phones: Mapping[str, tuple[int, Mapping[str, float]]]) -> Contents:
    """The contents as if phones had measured the tflite files.

    Args:
        phones: by name: memory in bytes, and milliseconds by recipe.
    """

    def measured(cell: ShippedCell) -> ShippedCell:
        if cell.target != "tflite":
            return cell
        (result, *_), (measurement, *_) = cell.results, cell.measurements
        assert result.latency_ms is not None
        own = [
            (
                replace(
                    result,
                    device=name,
                    latency_ms=replace(result.latency_ms, p50=latency[cell.recipe]),
                    verdict="no worse",
                ),
                replace(measurement, device={"name": name, "kind": "adb", "memory_bytes": memory}),
            )
            for name, (memory, latency) in phones.items()
        ]
        return replace(cell, results=tuple(r for r, _ in own), measurements=tuple(m for _, m in own))

    return replace(contents, cells=tuple(map(measured, contents.cells)))


PHONES: Mapping[str, tuple[int, Mapping[str, float]]] = {
    "small": (int(3.6 * GIB), {"fp32": 9.0, "int8": 4.0}),
    "large": (int(7.4 * GIB), {"fp32": 1.0, "int8": 2.0}),
    "another": (int(7.8 * GIB), {"fp32": 1.5, "int8": 3.0}),
}


def _recipes(groups: list[android_package.Group], target: str) -> dict[str | None, str]:
    return {group.name: cell.recipe for group in groups for cell in group.cells if cell.target == target}


def test_phones_with_more_memory_get_the_file_that_is_fastest_on_all_of_them(bundle: Path) -> None:
    contents = replace(bundles.contents(bundle), recipes={"tflite": "int8", "executorch": "int8"})
    found = android_package.groups(_on_phones(contents, PHONES))
    assert [(g.name, g.least, g.below) for g in found] == [
        ("other", None, None), ("ram_3gb", 3 * GIB, 7 * GIB), ("ram_7gb", 7 * GIB, None),
    ]  # fmt: skip
    assert _recipes(found, "tflite") == {"other": "int8", "ram_3gb": "int8", "ram_7gb": "fp32"}
    assert _recipes(found, "executorch") == {"other": "int8", "ram_3gb": "int8", "ram_7gb": "int8"}


def test_a_file_that_loses_accuracy_or_was_not_measured_on_every_phone_is_no_choice(bundle: Path) -> None:
    contents = replace(bundles.contents(bundle), recipes={"tflite": "fp32", "executorch": "fp32"})
    phones = _on_phones(contents, PHONES)

    def changed(cell: ShippedCell) -> ShippedCell:
        if (cell.target, cell.recipe) != ("tflite", "int8"):
            return cell
        small, large, another = cell.results
        return replace(cell, results=(replace(small, verdict="worse"), replace(large, latency_ms=None), another))

    found = android_package.groups(replace(phones, cells=tuple(map(changed, phones.cells))))
    assert _recipes(found, "tflite") == {"other": "fp32", "ram_3gb": "fp32", "ram_7gb": "fp32"}


def test_without_a_measured_phone_the_pack_has_no_device_groups(bundle: Path) -> None:
    contents = bundles.contents(bundle)
    (group,) = android_package.groups(contents)
    assert (group.name, group.least, group.below) == (None, None, None)
    pack = bundle / "android" / "ai-pack" / "tiny_pack"
    files = package.files(pack)
    names = {"build.gradle.kts"} | {
        f"src/main/assets/tiny_pack/{cell.target}/{name}"
        for cell in group.cells for name in ("artifact.json", cell.artifact.file, "golden.f32")
    }  # fmt: skip
    assert set(files) == names


def test_bundletool_splits_an_app_bundle_with_the_ai_pack_by_device_group(bundle: Path, tmp_path: Path) -> None:
    """Makes the modules and the groups' JSON as Gradle does."""
    contents = replace(bundles.contents(bundle), recipes={"tflite": "int8", "executorch": "int8"})
    android_package._write_pack(_on_phones(contents, PHONES), tmp_path / "ai-pack")
    dependencies.fetch(dependencies.pinned("sdk", "bundletool"))
    pack = tmp_path / "ai-pack" / "tiny_pack"
    head = '<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="com.example"'
    dist = 'xmlns:dist="http://schemas.android.com/apk/distribution"'
    delivery = '<dist:delivery><dist:install-time /></dist:delivery><dist:fusing dist:include="true" />'
    base = _module(tmp_path, "base", f'{head} android:versionCode="1"><application android:hasCode="false" />', {})
    asset_pack = f'{head} {dist} split="tiny_pack"><dist:module dist:type="ai-pack">{delivery}</dist:module>'
    assets = {f"assets/{name}": content for name, content in package.files(pack / "src" / "main" / "assets").items()}
    modules = f"{base},{_module(tmp_path, 'tiny_pack', asset_pack, assets)}"
    groups = [
        {
            "name": group.attrib["name"],
            "deviceSelectors": [
                {"deviceRam": {
                    json_name: selector.attrib[name]
                    for name, json_name in (("ram-min-bytes", "minBytes"), ("ram-max-bytes", "maxBytes"))
                    if name in selector.attrib
                }}
                for selector in group
            ],
        }
        for group in ElementTree.parse(pack / "device_targeting_config.xml").iter(f"{CONFIG}device-group")
    ]  # fmt: skip
    (tmp_path / "groups.json").write_text(json.dumps({"deviceGroups": groups}))
    dimension = {"value": "DEVICE_GROUP", "suffixStripping": {"enabled": True, "defaultSuffix": "other"}}
    splits = {"optimizations": {"splitsConfig": {"splitDimension": [dimension]}}}
    (tmp_path / "config.json").write_text(json.dumps(splits))
    metadata = f"com.android.tools.build.bundletool/DeviceGroupConfig.json:{tmp_path}/groups.json"
    argv = [f"--modules={modules}", f"--config={tmp_path}/config.json", f"--metadata-file={metadata}"]
    built = _bundletool("build-bundle", *argv, f"--output={tmp_path}/app.aab")
    assert "not defined" not in built
    key = tmp_path / "key"
    words = ["keytool", "-genkeypair", "-alias", "me", "-keyalg", "RSA", "-dname", "CN=somebody", "-keystore", key]
    assert proc.run([*words, "-storepass", "secret12", "-keypass", "secret12"]).code == 0
    signing = [f"--ks={key}", "--ks-pass=pass:secret12", "--ks-key-alias=me", f"--aapt2={shutil.which('aapt2')}"]
    _bundletool("build-apks", f"--bundle={tmp_path}/app.aab", f"--output={tmp_path}/app.apks", *signing)
    for group, recipe in {"ram_3gb": "int8", "ram_7gb": "fp32", "other": "int8"}.items():
        spec = {"supportedAbis": ["arm64-v8a"], "supportedLocales": ["en"], "screenDensity": 420, "sdkVersion": 34}
        (tmp_path / "spec.json").write_text(json.dumps(spec | {"deviceGroups": [group]}))
        out = tmp_path / group
        argv = [f"--apks={tmp_path}/app.apks", f"--device-spec={tmp_path}/spec.json", f"--output-dir={out}"]
        _bundletool("extract-apks", *argv)
        found = {name: content for apk in sorted(out.glob("tiny_pack-*.apk")) for name, content in _assets(apk).items()}
        manifest = json.loads(found["tiny_pack/tflite/artifact.json"])
        assert manifest["recipe"] == recipe, group
        assert {name.split("/")[0] for name in found} == {"tiny_pack"}


def _module(folder: Path, name: str, manifest: str, assets: Mapping[str, bytes]) -> Path:
    """A module of an app bundle, for bundletool. Args: manifest: without its end tag."""
    xml, linked, module = folder / f"{name}.xml", folder / f"{name}.apk", folder / f"{name}.zip"
    sdks = '<uses-sdk android:minSdkVersion="26" android:targetSdkVersion="34" />' if name == "base" else ""
    xml.write_text(f"{manifest}{sdks}</manifest>\n")
    done = proc.run(["aapt2", "link", "--proto-format", "-I", code.sdk(), "--manifest", xml, "-o", linked])
    assert done.code == 0, done.err
    with zipfile.ZipFile(linked) as archive:
        entries = {"manifest/AndroidManifest.xml": archive.read("AndroidManifest.xml")}
        if name == "base":
            entries["resources.pb"] = archive.read("resources.pb")
    module.write_bytes(package.zipped(entries | dict(assets)))
    return module


def _bundletool(*words: str) -> str:
    """What bundletool printed."""
    path = ":".join(str(jar) for jar in code.jars("bundletool"))
    done = proc.run([*code.JAVA, "-cp", path, "com.android.tools.build.bundletool.BundleToolMain", *words], timeout=300)
    assert done.code == 0, done.out + done.err
    return done.out + done.err
