"""From parts to a signed APK: what lies in it where, how it is aligned and what it weighs.

The same inputs give the same bytes: entries are sorted and dated alike, and an RSA signature has no chance in it.
"""

from __future__ import annotations

import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.android import parts
from pipeline.core import Artifact, safe_file_name
from pipeline.errors import BadOption, Broken, StageFailed
from pipeline.system import proc, store

EPOCH = (1980, 1, 1, 0, 0, 0)
PAGE = 16384
"""Bytes of the largest page that a phone has; libraries are mapped from the APK as they lie."""
CLASSES = {"aar": "classes.jar", "tgz": "package/android/libs/classes.jar"}
LIBRARIES = {
    "litert": {"tensorflow-lite": "jni/{abi}/libtensorflowlite_jni.so"},
    "executorch": {
        "react-native-executorch": "package/third-party/android/libs/executorch/{abi}/libexecutorch.so",
        "fbjni": "jni/{abi}/libfbjni.so jni/{abi}/libc++_shared.so",
    },
}
"""Each engine's native libraries: by part, the members of it."""
ENGINE_PARTS = {
    "litert": ("tensorflow-lite", "tensorflow-lite-api"),
    "executorch": ("react-native-executorch", "fbjni", "nativeloader"),
}
# Source: the alignment block that zipalign and apksigner know, apksig's ZipUtils: id, size, alignment, zeros.
ALIGNMENT = struct.Struct("<HHH")
ALIGNMENT_ID = 0xD935
LOCAL_HEADER_BYTES = 30


@dataclass(frozen=True)
class Key:
    """Who signs.

    Attributes:
        store: a keystore of Java's; None for the debug key, which is made where there is none.
        alias: of the key in it; None where it holds only one.
        variable: of the environment, holds the password.
    """

    store: Path | None = None
    alias: str | None = None
    variable: str = "LASTMILE_KEYSTORE_PASSWORD"


DEBUG_KEY = Key()
DEBUG_STORE = Path(".android") / "debug.keystore"
"""Below the home folder: the same key as Android Studio's, so each may update what the other installed."""
DEBUG_ALIAS, DEBUG_PASSWORD = "androiddebugkey", "android"


# -- what goes in ------------------------------------------------------------------------------------------------------


def parts_of(engines: Sequence[str]) -> list[parts.Part]:
    """The parts whose classes go into the app: Kotlin's library and the engines'."""
    names = ["kotlin-stdlib", *(name for engine in engines for name in ENGINE_PARTS[engine])]
    return [parts.find("app", name) for name in names]


def libraries(abi: str, engines: Sequence[str]) -> dict[str, bytes]:
    """Native libraries by file name."""
    found = {}
    for engine in engines:
        for name, members in LIBRARIES[engine].items():
            for one in members.format(abi=abi).split():
                found[one.rsplit("/", 1)[-1]] = member(parts.find("app", name), one)
    return found


def member(part: parts.Part, name: str) -> bytes:
    """A file in an AAR or an npm package."""
    if part.kind == "tgz":
        with tarfile.open(part.path) as archive:
            file = archive.extractfile(name)
            assert file is not None  # the package's content is pinned
            return file.read()
    with zipfile.ZipFile(part.path) as aar:
        return aar.read(name)


def artifact(folder: Path) -> Artifact:
    """What an artifact's folder says that it is.

    Raises:
        Broken: there is no manifest.
    """
    found = store.read(Artifact, folder / "artifact.json")
    if found is None:
        raise Broken(f"{folder} has no artifact.json; inv export makes it")
    return found


def model(folder: Path) -> tuple[str, str]:
    """The names of an artifact's files in its folder: its manifest, and the model."""
    return "artifact.json", safe_file_name(artifact(folder).file)


def copy_models(folders: Sequence[Path], into: Path) -> None:
    """Each artifact as a folder <model>-<recipe>-<target>."""
    for folder in folders:
        one = artifact(folder)
        home = into / f"{one.model}-{one.recipe}-{one.target}"
        home.mkdir(parents=True)
        for name in model(folder):
            (home / name).write_bytes((folder / name).read_bytes())


def contents(linked: Path, dex: Path, abis: Sequence[str], engines: Sequence[str]) -> dict[str, bytes]:
    """All that the APK holds, by name."""
    found = {}
    with zipfile.ZipFile(linked / "resources.apk") as archive:
        found.update({name: archive.read(name) for name in archive.namelist()})
    with zipfile.ZipFile(dex / "out.zip") as archive:
        found.update({name: archive.read(name) for name in archive.namelist() if name.endswith(".dex")})
    for abi in abis:
        found.update({f"lib/{abi}/{name}": content for name, content in libraries(abi, engines).items()})
    return found


def lay_out(linked: Path, contents: Mapping[str, bytes], folder: Path) -> None:
    """Writes what Gradle's build takes from here: the models, and the parts that no Maven registry has."""
    with store.atomic(folder / "assets") as new:
        shutil.copytree(linked / "assets", new)
    with store.atomic(folder / "executorch") as new:
        new.mkdir(parents=True)
        part = parts.find("app", "react-native-executorch")
        (new / "classes.jar").write_bytes(member(part, CLASSES[part.kind]))
        for name, content in contents.items():
            if name.endswith("/libexecutorch.so"):
                target = new / "jni" / name.removeprefix("lib/")
                target.parent.mkdir(parents=True)
                target.write_bytes(content)


# -- zips --------------------------------------------------------------------------------------------------------------


def write(contents: Mapping[str, bytes], target: Path) -> None:
    """An APK, not yet signed. What Android maps from it is stored and aligned: libraries to pages, the rest to 4."""
    with target.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(contents, key=lambda name: (name != "AndroidManifest.xml", name)):
            library = name.startswith("lib/")
            stored = library or name == "resources.arsc" or name.startswith("assets/models/")
            entry = _entry(name, stored)
            if stored:
                entry.extra = _padding(file.tell() + LOCAL_HEADER_BYTES + len(name.encode()), PAGE if library else 4)
            archive.writestr(entry, contents[name])


def jar(folder: Path, target: Path) -> None:
    """A jar of a folder's files."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.writestr(_entry(path.relative_to(folder).as_posix(), stored=False), path.read_bytes())


def write_aar(inference: Path, target: Path) -> None:
    """The library as an AAR: a manifest, its classes and the rules for whoever shrinks them."""
    classes = target.with_name(f"{target.name}.classes")
    try:
        jar(inference / "classes", classes)
        entries = {
            "AndroidManifest.xml": b'<manifest xmlns:android="http://schemas.android.com/apk/res/android" '
            b'package="org.lastmile.inference"><uses-sdk android:minSdkVersion="'
            + parts.versions()["min-sdk"].encode()
            + b'" /></manifest>\n',
            "R.txt": b"",
            "classes.jar": classes.read_bytes(),
            "proguard.txt": (parts.ROOT / "inference" / "consumer-rules.pro").read_bytes(),
        }
    finally:
        store.remove(classes)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(_entry(name, stored=False), content)


def _entry(name: str, stored: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    entry.create_system = 0
    return entry


def _padding(start: int, alignment: int) -> bytes:
    """An extra field that makes what follows the entry's header, now at `start`, begin at a multiple of `alignment`."""
    gap = -(start + ALIGNMENT.size) % alignment
    return ALIGNMENT.pack(ALIGNMENT_ID, 2 + gap, alignment) + bytes(gap)


# -- signing -----------------------------------------------------------------------------------------------------------


def identity(key: Key) -> str:
    """Which key signs: the keystore's content, whose password need not be known for it. The debug key is made first."""
    path = _store(key)
    return store.digest([store.sha256(path), key.alias])


def sign(apk: Path, key: Key) -> None:
    """Signs by schemes 2 and 3, in place, and holds that zipalign and apksigner are content.

    Raises:
        BadOption: the keystore's password is not given, or is wrong.
        StageFailed: apksigner refuses.
    """
    path = _store(key)
    password = DEBUG_PASSWORD if key.store is None else os.environ.get(key.variable)
    if password is None:
        raise BadOption(f"--keystore {key.store}: put its password into the variable {key.variable}")
    words: list[str | Path] = ["apksigner", "sign", "--ks", path, "--ks-pass", f"env:{key.variable}"]
    words += ["--v1-signing-enabled", "false", "--v4-signing-enabled", "false"]
    alias = DEBUG_ALIAS if key.store is None else key.alias
    done = proc.run([*words, *(["--ks-key-alias", alias] if alias else []), apk], 300, env={key.variable: password})
    if done.code != 0:
        if "password was incorrect" in done.err:
            raise BadOption(f"--keystore {path}: {key.variable} does not hold its password")
        raise StageFailed(
            f"apksigner cannot sign with {path}: {done.err.strip().splitlines()[0] if done.err else done.reason}"
        )
    checks: list[list[str | Path]] = [["apksigner", "verify", apk], ["zipalign", "-c", "-p", "4", apk]]
    for check in checks:
        done = proc.run(check, timeout=300)
        if done.code != 0:
            raise StageFailed(f"{check[0]} refuses the APK: {(done.err or done.out).strip()}")


def _store(key: Key) -> Path:
    if key.store is not None:
        if not key.store.is_file():
            raise BadOption(f"--keystore {key.store}: there is no such file")
        return key.store
    path = Path.home() / DEBUG_STORE
    if not path.is_file():
        words = ["keytool", "-genkeypair", "-storetype", "PKCS12", "-alias", DEBUG_ALIAS, "-keyalg", "RSA"]
        words += ["-keysize", "2048", "-validity", "10950", "-dname", "C=US, O=Android, CN=Android Debug"]
        # Everybody's debug key has this password: it guards nothing.
        words += ["-storepass", DEBUG_PASSWORD, "-keypass", DEBUG_PASSWORD, "-keystore"]
        with store.atomic(path) as temporary:
            done = proc.run([*words, temporary], timeout=120)
            if done.code != 0:
                raise StageFailed(f"keytool cannot make the debug key: {done.reason}")
    return path


# -- what it weighs ----------------------------------------------------------------------------------------------------


def weight(contents: Mapping[str, bytes]) -> dict[str, int]:
    """Bytes by what they are, as they come to a phone: what is deflated in the APK is counted deflated."""
    import zlib

    owner = {
        one.rsplit("/", 1)[-1]: engine for engine, by in LIBRARIES.items() for m in by.values() for one in m.split()
    }
    sums: dict[str, int] = {}
    for name, content in contents.items():
        if name.startswith("lib/"):
            kind, size = owner[name.rsplit("/", 1)[-1]], len(content)
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
    """Alignment of each loaded segment of a 64-bit ELF file. Source: elf(5), Elf64_Ehdr and Elf64_Phdr."""
    offset, size, count = struct.unpack_from("<Q", library, 32)[0], *struct.unpack_from("<HH", library, 54)
    for index in range(count):
        kind, *_, alignment = struct.unpack_from("<IIQQQQQQ", library, offset + index * size)
        if kind == 1:  # PT_LOAD
            yield alignment
