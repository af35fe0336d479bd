"""Packages and signs the APK: its content, alignment and size.

The same inputs give the same bytes: entries are sorted and have a fixed date, and RSA signatures are deterministic.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import dependencies
from pipeline.core import Artifact, safe_file_name
from pipeline.errors import BadOption, Broken, StageFailed
from pipeline.system import proc, store

EPOCH = (1980, 1, 1, 0, 0, 0)
PAGE = 16384
"""Largest page size of phones, in bytes. Libraries are mapped directly from the APK."""
CLASSES = {"aar": "classes.jar", "tgz": "package/android/libs/classes.jar"}
LIBRARIES = {
    "litert": {"tensorflow-lite": "jni/{abi}/libtensorflowlite_jni.so"},
    "executorch": {
        "react-native-executorch": "package/third-party/android/libs/executorch/{abi}/libexecutorch.so",
        "fbjni": "jni/{abi}/libfbjni.so jni/{abi}/libc++_shared.so",
    },
}
"""Native libraries of each engine: for each dependency, its members, separated by spaces."""
ENGINE_DEPENDENCIES = {
    "litert": ("tensorflow-lite", "tensorflow-lite-api"),
    "executorch": ("react-native-executorch", "fbjni", "nativeloader"),
}
# The alignment block that zipalign and apksigner use: id, size, alignment, zeros. Source: apksig, ZipUtils.
ALIGNMENT = struct.Struct("<HHH")
ALIGNMENT_ID = 0xD935
LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Key:
    """A signing key.

    Attributes:
        store: a Java keystore; None for the debug key, which is created if it does not exist.
        alias: alias of the key in the keystore; None if it contains only one key.
        variable: environment variable that contains the password.
    """

    store: Path | None = None
    alias: str | None = None
    variable: str = "LASTMILE_KEYSTORE_PASSWORD"


DEBUG_KEY = Key()
DEBUG_STORE = Path(".android") / "debug.keystore"
"""Path below the home folder. Android Studio uses the same key, so each can update an app that the other installed."""
DEBUG_ALIAS, DEBUG_PASSWORD = "androiddebugkey", "android"


# -- content -----------------------------------------------------------------------------------------------------------


def dependencies_of(engines: Sequence[str]) -> list[dependencies.Dependency]:
    """The dependencies whose classes go into the app: Kotlin's standard library and the engines."""
    names = ["kotlin-stdlib", *(name for engine in engines for name in ENGINE_DEPENDENCIES[engine])]
    return [dependencies.find("app", name) for name in names]


def libraries(abi: str, engines: Sequence[str]) -> dict[str, bytes]:
    """Native libraries by file name."""
    found = {}
    for engine in engines:
        for name, members in LIBRARIES[engine].items():
            for path in members.format(abi=abi).split():
                found[path.rsplit("/", 1)[-1]] = member(dependencies.find("app", name), path)
    return found


def member(dependency: dependencies.Dependency, name: str) -> bytes:
    """A file in an AAR or an npm package."""
    if dependency.kind == "tgz":
        with tarfile.open(dependency.path) as archive:
            file = archive.extractfile(name)
            assert file is not None  # the package's content is pinned
            return file.read()
    with zipfile.ZipFile(dependency.path) as aar:
        return aar.read(name)


def artifact(folder: Path) -> Artifact:
    """Reads the manifest in an artifact's folder.

    Raises:
        Broken: there is no manifest.
    """
    found = store.read(Artifact, folder / "artifact.json")
    if found is None:
        raise Broken(f"{folder} has no artifact.json; run inv export to create it")
    return found


def model(folder: Path) -> tuple[str, str]:
    """The names of an artifact's files: its manifest and the model."""
    return "artifact.json", safe_file_name(artifact(folder).file)


def copy_models(folders: Sequence[Path], into: Path) -> None:
    """Copies each artifact to a folder <model>-<recipe>-<target>."""
    for folder in folders:
        manifest = artifact(folder)
        target = into / f"{manifest.model}-{manifest.recipe}-{manifest.target}"
        target.mkdir(parents=True)
        for name in model(folder):
            (target / name).write_bytes((folder / name).read_bytes())


def contents(linked: Path, dex: Path, abis: Sequence[str], engines: Sequence[str]) -> dict[str, bytes]:
    """All entries of the APK, by name."""
    found = {}
    with zipfile.ZipFile(linked / "resources.apk") as archive:
        found.update({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(dex / "out.zip") as archive:
        found.update({name: archive.read(name) for name in archive.namelist() if name.endswith(".dex")})
    for abi in abis:
        found.update({f"lib/{abi}/{name}": content for name, content in libraries(abi, engines).items()})
    return found


def lay_out(linked: Path, contents: Mapping[str, bytes], folder: Path) -> None:
    """Writes the files that the Gradle build needs: the models, and the dependencies that no Maven registry has."""
    with store.atomic(folder / "assets") as new:
        shutil.copytree(linked / "assets", new)
    with store.atomic(folder / "executorch") as new:
        new.mkdir(parents=True)
        dependency = dependencies.find("app", "react-native-executorch")
        (new / "classes.jar").write_bytes(member(dependency, CLASSES[dependency.kind]))
        for name, content in contents.items():
            if name.endswith("/libexecutorch.so"):
                target = new / "jni" / name.removeprefix("lib/")
                target.parent.mkdir(parents=True)
                target.write_bytes(content)


# -- zips --------------------------------------------------------------------------------------------------------------


def write(contents: Mapping[str, bytes], target: Path) -> None:
    """Writes an unsigned APK.

    Entries that Android maps are stored uncompressed and aligned: libraries to pages, others to 4 bytes.
    """
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(contents, key=lambda name: (name != "AndroidManifest.xml", name)):
            library = name.startswith("lib/")
            stored = library or name == "resources.arsc" or name.startswith("assets/models/")
            entry = _entry(name, stored)
            if stored:
                entry.extra = _padding(file.tell() + LOCAL_HEADER_BYTES + len(name.encode()), PAGE if library else 4)
            archive.writestr(entry, contents[name])


def jar(folder: Path, target: Path) -> None:
    """Writes a folder's files to a jar."""
    target.write_bytes(zipped(files(folder)))


def files(folder: Path) -> dict[str, bytes]:
    """A folder's files, by their path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def zipped(contents: Mapping[str, bytes]) -> bytes:
    """A zip file with these entries, such as a jar or an AAR."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(_entry(name, stored=False), content)
    return file.getvalue()


def _entry(name: str, stored: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    entry.create_system = 0
    return entry


def _padding(start: int, alignment: int) -> bytes:
    """An extra field that moves the entry's data from `start` to a multiple of `alignment`."""
    gap = -(start + ALIGNMENT.size) % alignment
    return ALIGNMENT.pack(ALIGNMENT_ID, 2 + gap, alignment) + bytes(gap)


# -- signing -----------------------------------------------------------------------------------------------------------


def identity(key: Key) -> str:
    """Hash that identifies the key: the keystore's content, without its password. Creates the debug key if needed."""
    path = _store(key)
    return store.digest([store.sha256(path), key.alias])


def sign(apk: Path, key: Key) -> None:
    """Signs an APK in place with signature schemes v2 and v3, then verifies it with apksigner and zipalign.

    Raises:
        BadOption: the keystore's password is missing or wrong.
        StageFailed: apksigner fails, or the APK does not pass verification.
    """
    path = _store(key)
    password = DEBUG_PASSWORD if key.store is None else os.environ.get(key.variable)
    if password is None:
        raise BadOption(f"--keystore {key.store}: set the environment variable {key.variable} to its password")
    argv: list[str | Path] = ["apksigner", "sign", "--ks", path, "--ks-pass", f"env:{key.variable}"]
    argv += ["--v1-signing-enabled", "false", "--v4-signing-enabled", "false"]
    alias = DEBUG_ALIAS if key.store is None else key.alias
    done = proc.run([*argv, *(["--ks-key-alias", alias] if alias else []), apk], 300, env={key.variable: password})
    if done.code != 0:
        if "password was incorrect" in done.err:
            raise BadOption(f"--keystore {path}: the password in {key.variable} is wrong")
        raise StageFailed(
            f"apksigner cannot sign with {path}: {done.err.strip().splitlines()[0] if done.err else done.reason}"
        )
    checks: list[list[str | Path]] = [["apksigner", "verify", apk], ["zipalign", "-c", "-p", "4", apk]]
    for check in checks:
        done = proc.run(check, timeout=300)
        if done.code != 0:
            raise StageFailed(f"{check[0]} rejects the APK: {(done.err or done.out).strip()}")


def _store(key: Key) -> Path:
    if key.store is not None:
        if not key.store.is_file():
            raise BadOption(f"--keystore {key.store}: no such file")
        return key.store
    path = Path.home() / DEBUG_STORE
    if not path.is_file():
        argv = ["keytool", "-genkeypair", "-storetype", "PKCS12", "-alias", DEBUG_ALIAS, "-keyalg", "RSA"]
        argv += ["-keysize", "2048", "-validity", "10950", "-dname", "C=US, O=Android, CN=Android Debug"]
        # Not a secret: all Android debug keys have this password.
        argv += ["-storepass", DEBUG_PASSWORD, "-keypass", DEBUG_PASSWORD, "-keystore"]
        with store.atomic(path) as temporary:
            done = proc.run([*argv, temporary], timeout=120)
            if done.code != 0:
                raise StageFailed(f"keytool cannot create the debug key: {done.reason}")
    return path


# -- size --------------------------------------------------------------------------------------------------------------


def weight(contents: Mapping[str, bytes]) -> dict[str, int]:
    """Size in bytes of each kind of content. What the APK stores compressed is counted compressed."""
    import zlib

    engine_of = {
        path.rsplit("/", 1)[-1]: engine
        for engine, members in LIBRARIES.items()
        for paths in members.values()
        for path in paths.split()
    }
    sums: dict[str, int] = {}
    for name, content in contents.items():
        if name.startswith("lib/"):
            kind, size = engine_of[name.rsplit("/", 1)[-1]], len(content)
        elif name.startswith("assets/models/"):
            kind, size = "models", len(content)
        else:
            kind = "code" if name.endswith(".dex") else "resources"
            size = len(content) if name == "resources.arsc" else len(zlib.compress(content))
        sums[kind] = sums.get(kind, 0) + size
    order = ["code", "resources", *LIBRARIES, "models"]
    return {kind: sums[kind] for kind in order if kind in sums}


def unaligned(contents: Mapping[str, bytes]) -> tuple[str, ...]:
    """The native libraries whose segments are not aligned to 16 kB."""
    return tuple(name for name in sorted(contents) if name.startswith("lib/") and min(_segments(contents[name])) < PAGE)


def _segments(library: bytes) -> Iterator[int]:
    """Alignment of each loadable segment of a 64-bit ELF file. Source: elf(5), Elf64_Ehdr and Elf64_Phdr."""
    offset, size, count = struct.unpack_from("<Q", library, 32)[0], *struct.unpack_from("<HH", library, 54)
    for index in range(count):
        kind, *_, alignment = struct.unpack_from("<IIQQQQQQ", library, offset + index * size)
        if kind == 1:  # PT_LOAD
            yield alignment
