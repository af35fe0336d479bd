"""The inference library in other projects: its Maven repository, Maven, an old Kotlin compiler and R8."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline import android
from pipeline.android import code, dependencies, maven, package, phone
from pipeline.system import proc, store
from pipeline.system.store import Store
from tests.android import consumers
from tests.android.conftest import MODEL

CONSUMER = Path(__file__).parent / "consumer.kt"
IMAGES = 20
JAVA_11 = 55
"""The version of Java 11's class files."""


@pytest.fixture(scope="session")
def aar(kept: Store) -> Path:
    """The AAR in its Maven repository."""
    return android.aar(kept)


@pytest.fixture(scope="session")
def resolved(kept: Store, aar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the AAR and its dependencies, as Maven resolves them."""
    done, folder = _resolve(kept, _repository(aar), tmp_path_factory.mktemp("consumer"))
    assert done.code == 0, done.out
    return folder


def _repository(aar: Path) -> Path:
    return aar.parents[4]


def _resolve(kept: Store, repository: Path, project: Path) -> tuple[proc.Done, Path]:
    """Resolves the library with Maven, in a project with the guide's XML."""
    parts = consumers.snippet("xml").replace("file:///path/to/build/android/maven", repository.as_uri())
    return consumers.resolve(kept, parts, project)


def test_the_repository_contains_all_files_with_their_checksums(aar: Path) -> None:
    version = dependencies.versions()["version-name"]
    assert aar.relative_to(_repository(aar)).as_posix() == f"org/lastmile/inference/{version}/inference-{version}.aar"
    files = {f"inference-{version}{suffix}" for suffix in (".aar", "-sources.jar", ".pom", ".module")}
    hashes = {f"{name}.{algorithm}" for name in files for algorithm in maven.HASHES}
    assert {path.name for path in aar.parent.iterdir()} == files | hashes
    for name in hashes:
        content = (aar.parent / name.rpartition(".")[0]).read_bytes()
        assert (aar.parent / name).read_text() == hashlib.new(name.rpartition(".")[2], content).hexdigest()


def test_the_pom_and_the_gradle_metadata_describe_the_same_library(aar: Path) -> None:
    pom = aar.with_suffix(".pom").read_text()
    assert maven.REFERS_TO_MODULE in pom
    root, space = ElementTree.fromstring(pom), "{http://maven.apache.org/POM/4.0.0}"
    names = [root.findtext(f"{space}{tag}") for tag in ("groupId", "artifactId", "version")]
    assert root.findtext(f"{space}packaging") == "aar"
    assert root.findtext(f"{space}licenses/{space}license/{space}name") == "Apache-2.0"
    needed = [[child.text for child in element] for element in root.iter(f"{space}dependency")]
    assert needed == [["org.jetbrains.kotlin", "kotlin-stdlib", dependencies.versions()["library-kotlin"], "compile"]]
    module = json.loads(aar.with_suffix(".module").read_text())
    assert next(iter(module)) == "formatVersion"
    assert [module["component"][key] for key in ("group", "module", "version")] == names
    assert [variant["attributes"]["org.gradle.usage"] for variant in module["variants"]] == [
        "java-api", "java-runtime", "java-runtime",
    ]  # fmt: skip
    for variant in module["variants"]:
        (file,) = variant["files"]
        content = (aar.parent / file["url"]).read_bytes()
        assert file["size"] == len(content)
        assert all(file[name] == hashlib.new(name, content).hexdigest() for name in maven.HASHES)
        if file["url"] == aar.name:
            assert variant["attributes"]["org.gradle.libraryelements"] == "aar"
            (dependency,) = variant["dependencies"]
            assert [dependency["group"], dependency["module"], dependency["version"]["requires"]] == needed[0][:3]


def test_the_aar_states_what_projects_need_and_its_rules_concern_its_own_classes_only(aar: Path) -> None:
    with zipfile.ZipFile(aar) as archive:
        properties = dict(line.split("=") for line in archive.read(maven.METADATA).decode().splitlines())
        rules = archive.read("proguard.txt").decode().splitlines()
        with zipfile.ZipFile(archive.open("classes.jar")) as jar:
            names = jar.namelist()
            versions = {jar.read(name)[7] for name in names if name.endswith(".class")}
    assert properties["minCompileSdk"] == dependencies.versions()["min-sdk"]
    assert properties["aarFormatVersion"] == properties["aarMetadataVersion"] == "1.0"
    stated = [rule.split() for rule in rules if rule and not rule.startswith("#")]
    assert stated and all(rule[-1].startswith("org.lastmile.inference.") for rule in stated)
    assert versions == {JAVA_11}
    assert f"META-INF/{code.MODULE}.kotlin_module" in names
    assert all(name.startswith(("org/lastmile/inference/", "META-INF/")) for name in names)
    with zipfile.ZipFile(aar.with_name(f"{aar.stem}-sources.jar")) as jar:
        assert "org/lastmile/inference/Classifier.kt" in jar.namelist()


def test_the_same_sources_give_the_same_bytes(kept: Store, aar: Path, tmp_path: Path) -> None:
    again = maven.publish(android.inference(kept), tmp_path)
    assert package.files(again.parent) == package.files(aar.parent)


def test_a_library_can_have_assets_and_depend_on_the_inference_library(aar: Path, tmp_path: Path) -> None:
    inference = maven.Coordinate("org.lastmile", "inference", "0.1.0")
    library = maven.Library(
        maven.Coordinate("com.example", "digits", "1.2.0"), "a & b", "MIT", "com.example.digits", 26, {}, {},
        assets={"digits/model.tflite": b"model"}, dependencies=(inference,),
    )  # fmt: skip
    path = maven.publish(library, tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("assets/digits/model.tflite") == b"model"
    root = ElementTree.fromstring(path.with_suffix(".pom").read_text())
    assert "a & b" in [element.text for element in root]
    assert "inference" in [element.text for element in root.iter() if element.tag.endswith("artifactId")]


def test_maven_resolves_the_library_with_the_standard_library_that_it_states(resolved: Path, aar: Path) -> None:
    assert (resolved / aar.name).read_bytes() == aar.read_bytes()
    assert (resolved / f"kotlin-stdlib-{dependencies.versions()['library-kotlin']}.jar").is_file()


def test_maven_refuses_an_aar_of_which_one_byte_changed(kept: Store, aar: Path, tmp_path: Path) -> None:
    repository = tmp_path / "maven"
    shutil.copytree(_repository(aar), repository)
    changed = repository / aar.relative_to(_repository(aar))
    consumers.changed_byte(changed)
    done, folder = _resolve(kept, repository, tmp_path)
    assert done.code != 0
    assert "inference:aar" in done.out and "Checksum validation failed" in done.out
    assert not (folder / aar.name).exists()


def test_the_guide_states_the_versions_of_the_catalog() -> None:
    text, versions = consumers.GUIDE.read_text(), dependencies.versions()
    for name in ("version-name", "litert", "gradle", "agp", "kotlin", "library-kotlin", "oldest-kotlin"):
        assert re.search(rf"(?<![\d.]){re.escape(versions[name])}(?!\.?\d)", text), name


def test_the_guides_rules_for_the_runtimes_are_those_of_our_own_app() -> None:
    own = (code.APP / "rules.pro").read_text().splitlines()
    keeps = [line for line in consumers.snippet("proguard").splitlines() if line.startswith("-keep")]
    assert keeps and all(line in own for line in keeps)


def test_an_app_compiled_by_the_oldest_kotlin_and_shrunk_by_r8_gives_the_hosts_outputs(
    kept: Store, matrix: Store, resolved: Path, aar: Path, tmp_path: Path
) -> None:
    """The app has one of the two runtimes. It renames and shrinks the runtime too: it keeps none of its classes."""
    dependencies.fetch(dependencies.pinned("app", "sdk", "compiler", "consumer"))
    library, rules = consumers.unpacked(resolved / aar.name, tmp_path)
    path = [library, *resolved.glob("*.jar")]
    consumers.compile_with_the_oldest_kotlin(CONSUMER, path, tmp_path / "classes")
    package.jar(tmp_path / "classes", tmp_path / "consumer.jar")
    kept_class = "-keep class Consumer { public static void main(java.lang.String[]); }"
    ignored = [rule for rule in consumers.snippet("proguard").splitlines() if rule.startswith("-dontwarn")]
    app = consumers.shrunk([tmp_path / "consumer.jar", *path], [rules, *ignored, kept_class], ["litert"], tmp_path)
    folder = matrix.cell(*MODEL, "fp32", "tflite")
    images = np.load(next((matrix.root / "data").glob("*/images.npy")))[:IMAGES]
    (tmp_path / "images").write_bytes(images.tobytes())
    with store.lock(kept, "the tests of the library"):
        native = phone.libraries(code.Steps(kept.root / "android" / "steps"))
    argv = [*code.JAVA, "-cp", f"{app}:{code.sdk()}", f"-Djava.library.path={native}", "Consumer"]
    env = {"LD_LIBRARY_PATH": str(native), "ro.build.version.sdk": dependencies.versions()["target-sdk"]}
    done = proc.run([*argv, folder, tmp_path / "images"], timeout=120, env=env)
    assert done.code == 0, done.out + done.err
    runtimes, delegate, *outputs = [line for line in done.out.splitlines() if not line.startswith("[tflite]")]
    assert "litert available" in runtimes and "ExecuTorch is not in this build" in runtimes
    assert "org.tensorflow.lite" in delegate  # TFLite has no public method for it, and R8 removed the private one
    with np.load(folder / "local" / "predictions.npz") as file:
        expected = file["output_0"][:IMAGES]
    np.testing.assert_allclose(np.array([line.split() for line in outputs], np.float32), expected, atol=1e-4)
