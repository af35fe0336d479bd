"""`inv android.build`: the APK, its dependencies and its signature."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tomllib
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline import android
from pipeline.android import dependencies, package, phone
from pipeline.errors import BadOption, Broken
from pipeline.system import proc
from pipeline.system.store import Store
from tests.android import jvm
from tests.android.conftest import MODEL

NAMESPACE = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="session")
def apk(kept: Store, matrix: Store) -> tuple[android.Built, Path]:
    """An APK for both ABIs with the matrix's models."""
    options = android.Options(abis=("arm64-v8a", "x86_64"))
    return android.build(kept, _models(matrix), options), android.path(kept)


def _models(matrix: Store) -> list[Path]:
    return [matrix.cell(*MODEL, recipe, target) for recipe in ("fp32", "int8") for target in android.TARGETS]


def test_the_app_requests_no_permissions_and_exports_one_activity_to_the_shell_only(
    apk: tuple[android.Built, Path], kept: Store, matrix: Store
) -> None:
    dump = proc.run(["aapt2", "dump", "badging", apk[1]]).out
    assert "uses-permission" not in dump
    folder = phone.make(kept, _models(matrix), apk[0])
    manifest = ElementTree.fromstring((folder / "AndroidManifest.xml").read_text())
    application = manifest.find("application")
    assert application is not None
    assert manifest.findall("uses-permission") == []
    assert application.get(f"{NAMESPACE}allowBackup") == "false"
    assert application.get(f"{NAMESPACE}debuggable") is None
    exported = {
        activity.get(f"{NAMESPACE}name"): activity.get(f"{NAMESPACE}permission")
        for activity in application
        if activity.get(f"{NAMESPACE}exported") == "true"
    }
    assert exported == {".MainActivity": None, ".RunActivity": "android.permission.DUMP"}
    assert {child.tag for child in application} == {"activity", "meta-data", "profileable"}


def test_the_apk_contains_the_models_and_both_runtimes_for_each_abi(apk: tuple[android.Built, Path]) -> None:
    names = set(zipfile.ZipFile(apk[1]).namelist())
    for abi in ("arm64-v8a", "x86_64"):
        assert {f"lib/{abi}/libtensorflowlite_jni.so", f"lib/{abi}/libexecutorch.so"} <= names
    assert "assets/models/tiny-int8-tflite/artifact.json" in names
    assert apk[0].weight["code"] + apk[0].weight["resources"] <= 300_000


def test_classes_named_in_layouts_and_the_manifest_survive_shrinking(
    apk: tuple[android.Built, Path], kept: Store, matrix: Store
) -> None:
    layouts = sorted((dependencies.ROOT / "app" / "src" / "main" / "res").glob("layout*/*.xml"))
    named = {element.tag for path in layouts for element in ElementTree.parse(path).iter() if "." in element.tag}
    assert {"org.lastmile.app.DrawView", "org.lastmile.app.BarsView"} <= named
    named |= {"org.lastmile.app.MainActivity", "org.lastmile.app.RunActivity"}
    with zipfile.ZipFile(apk[1]) as archive:
        assert named <= _classes(archive.read("classes.dex"))
    with zipfile.ZipFile(phone.make(kept, _models(matrix), apk[0]) / "app.jar") as jar:
        assert named <= {name.removesuffix(".class").replace("/", ".") for name in jar.namelist()}


def _classes(dex: bytes) -> set[str]:
    """The classes that a dex file defines. Source: Android's dex format: header_item, class_def_item."""
    strings, types = (struct.unpack_from("<I", dex, offset)[0] for offset in (60, 68))
    count, definitions = struct.unpack_from("<II", dex, 96)
    found = set()
    for index in range(count):
        (kind,) = struct.unpack_from("<I", dex, definitions + 32 * index)
        (name,) = struct.unpack_from("<I", dex, types + 4 * kind)
        (start,) = struct.unpack_from("<I", dex, strings + 4 * name)
        text = dex[start : dex.index(b"\0", start)].decode(errors="replace")  # the length comes first
        found.add(text[text.index("L") + 1 : -1].replace("/", "."))
    return found


def test_an_apk_with_one_runtime_contains_only_its_models_and_libraries(
    kept: Store, matrix: Store, tmp_path: Path
) -> None:
    for steps in (kept.root / "android" / "steps").glob("*"):  # reuses compiled code
        shutil.copytree(steps, tmp_path / "android" / "steps" / steps.name, copy_function=os.link)
    android.build(Store(tmp_path), _models(matrix), android.Options(engines=("litert",)))
    with zipfile.ZipFile(android.path(Store(tmp_path))) as archive:
        names = archive.namelist()
    assert {name.split("/")[2] for name in names if name.startswith("assets/models/")} == {
        "tiny-fp32-tflite", "tiny-int8-tflite",
    }  # fmt: skip
    assert [name for name in names if name.startswith("lib/")] == ["lib/arm64-v8a/libtensorflowlite_jni.so"]


def test_libraries_are_aligned_to_16_kb_pages_and_those_that_cannot_be_are_reported(
    apk: tuple[android.Built, Path],
) -> None:
    with zipfile.ZipFile(apk[1]) as archive, apk[1].open("rb") as file:
        for info in archive.infolist():
            if info.filename.startswith("lib/"):
                file.seek(info.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))
                assert (info.header_offset + 30 + name + extra) % package.PAGE == 0, info.filename
    assert apk[0].unaligned == tuple(f"lib/{abi}/libtensorflowlite_jni.so" for abi in ("arm64-v8a", "x86_64"))
    assert all(name in android.line(*apk) for name in apk[0].unaligned)


def test_the_same_inputs_give_the_same_bytes(apk: tuple[android.Built, Path], tmp_path: Path) -> None:
    contents = {"classes.dex": b"dex", "AndroidManifest.xml": b"<m/>", "lib/x86_64/a.so": b"so", "resources.arsc": b"r"}
    package.write(contents, tmp_path / "one")
    package.write(dict(reversed(contents.items())), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    one = tmp_path / "signed"
    one.write_bytes(apk[1].read_bytes())
    package.sign(one, package.DEBUG_KEY)
    assert one.read_bytes() == apk[1].read_bytes()


def test_an_apk_that_is_up_to_date_is_not_rebuilt(apk: tuple[android.Built, Path], kept: Store, matrix: Store) -> None:
    before = apk[1].stat().st_mtime_ns
    assert android.build(kept, _models(matrix), android.Options(abis=("arm64-v8a", "x86_64"))) == apk[0]
    assert apk[1].stat().st_mtime_ns == before


@pytest.mark.parametrize("options", [android.Options(abis=("mips",)), android.Options(engines=())])
def test_the_error_for_an_invalid_option_lists_the_known_values(options: android.Options) -> None:
    with pytest.raises(BadOption) as caught:
        options.check()
    assert any(", ".join(known) in str(caught.value) for known in (android.ABIS, android.ENGINES))


def test_a_keystore_without_a_password_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASTMILE_KEYSTORE_PASSWORD", raising=False)
    (tmp_path / "keys").write_bytes(b"k")
    with pytest.raises(BadOption, match="LASTMILE_KEYSTORE_PASSWORD"):
        package.sign(tmp_path / "apk", package.Key(tmp_path / "keys"))


def test_a_users_keystore_signs_only_with_its_password(
    apk: tuple[android.Built, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, signed = tmp_path / "keys", tmp_path / "signed.apk"
    words = ["keytool", "-genkeypair", "-alias", "me", "-keyalg", "RSA", "-dname", "CN=somebody", "-validity", "9"]
    done = proc.run([*words, "-storepass", "secret12", "-keypass", "secret12", "-keystore", keys])
    assert done.code == 0, done.err
    signed.write_bytes(apk[1].read_bytes())
    monkeypatch.setenv("LASTMILE_KEYSTORE_PASSWORD", "another1")
    with pytest.raises(BadOption, match="LASTMILE_KEYSTORE_PASSWORD"):
        package.sign(signed, package.Key(keys))
    monkeypatch.setenv("LASTMILE_KEYSTORE_PASSWORD", "secret12")
    package.sign(signed, package.Key(keys, "me"))
    assert "CN=somebody" in proc.run(["apksigner", "verify", "--print-certs", signed]).out


def test_every_library_in_the_catalog_has_a_checksum_for_its_version() -> None:
    catalog = tomllib.loads(dependencies.CATALOG.read_text())
    sections = tomllib.loads(dependencies.CHECKSUMS.read_text())
    pinned = {tuple(name.split(":")[:3]) for section in sections.values() for name in section}
    for name, library in catalog["libraries"].items():
        group, module = library["module"].split(":")
        assert (group, module, catalog["versions"][library["version"]["ref"]]) in pinned, name


def test_no_build_file_or_manifest_contains_a_version() -> None:
    files = [*dependencies.ROOT.rglob("*.kts"), *dependencies.ROOT.rglob("AndroidManifest.xml")]
    assert len(files) >= 5
    for path in files:
        assert re.findall(r"\d+\.\d+\.\d+|Sdk = \d+|versionCode = \d+", path.read_text()) == [], path


def test_the_gradle_wrapper_pins_the_catalogs_version_and_a_checksum() -> None:
    lines = (dependencies.ROOT / "gradle" / "wrapper" / "gradle-wrapper.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert properties["distributionUrl"].endswith(f"/gradle-{dependencies.versions()['gradle']}-bin.zip")
    assert re.fullmatch("[0-9a-f]{64}", properties["distributionSha256Sum"])


def test_a_dependency_with_another_checksum_is_rejected(tmp_path: Path) -> None:
    dependency = dependencies.find("app", "kotlin-stdlib")
    (tmp_path / dependency.file).write_bytes(b"something else")
    with pytest.raises(Broken, match=dependency.sha256):
        dependencies._keep(dependency, tmp_path / dependency.file)


def test_kotlin_code_follows_ktlints_style(tools: None) -> None:
    (ktlint,) = dependencies.pinned("lint")
    dependencies.fetch([ktlint])
    argv: list[str | Path] = ["java", "-Xmx1g", "-XX:TieredStopAtLevel=1", "-jar", ktlint.path, *jvm.sources()]
    done = proc.run(argv, cwd=dependencies.ROOT)
    assert done.code == 0, done.out[-3000:]
