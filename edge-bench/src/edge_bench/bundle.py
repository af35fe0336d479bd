"""Checks a bundle of Lastmile's file by file, and its signature: on a device, without Lastmile.

bundle.json has the sha256 and the size of every file, and its own digest. bundle.sig is OpenSSF's model signature.
Nothing in a bundle is trusted: no link is followed, no name may point out of the folder, and a file of another size is
not read.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BadBundle

MANIFEST, SIGNATURE = "bundle.json", "bundle.sig"
LARGEST_MANIFEST = 64 << 20
MOST_FILES, DEEPEST = 100_000, 64
PAYLOAD_TYPE = "application/vnd.in-toto+json"
HASHES = {256: "SHA256", 384: "SHA384", 521: "SHA512"}
"""By the size of the key's curve."""
UNINSTALLED = "cryptography is not installed (pip install cryptography)"


def verify(root: Path, key: Path | None) -> dict[str, Any]:
    """Checks every file, and the signature if there is a key to check it with.

    Raises:
        BadBundle: it is no bundle, or a file was changed, and the message names the first; or the signature cannot be
            checked although there is a key.
    """
    manifest, content = _manifest(root)
    files = _files(manifest)
    digests = {MANIFEST: hashlib.sha256(content).hexdigest(), **{name: digest for name, (digest, _) in files.items()}}
    problems = list(_problems(root, files))
    signature = _signature(root, key, digests, problems)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise BadBundle(f"{root}: {problems[0]}{more}")
    return {
        "schema": 1,
        "model": manifest.get("model"),
        "version": manifest.get("version"),
        "files": len(digests),
        "signature": signature,
    }


def _manifest(root: Path) -> tuple[dict[str, Any], bytes]:
    """bundle.json, parsed and as it is.

    Raises:
        BadBundle: it is missing, or was changed.
    """
    if not root.is_dir():
        raise BadBundle(f"{root} is not a folder" if root.exists() else f"{root}: no such folder")
    content = _limited(root, MANIFEST)
    try:
        value = json.loads(content.decode())
        recorded = value["digest"]
        if not re.fullmatch("[0-9a-f]{64}", recorded):
            raise ValueError("no digest")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadBundle(f"{root}: {MANIFEST} was changed: it is not the manifest of a bundle") from None
    if hashlib.sha256(content.replace(recorded.encode(), b"0" * 64, 1)).hexdigest() != recorded:
        raise BadBundle(f"{root}: {MANIFEST} was changed: its digest does not match")
    return value, content


def _files(manifest: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """The sha256 and the size of every file, by path.

    Raises:
        BadBundle: a path points out of the bundle, or the manifest has another form.
    """
    found = {}
    try:
        for name, file in manifest["files"].items():
            pure = PurePosixPath(name)
            outside = pure.is_absolute() or ".." in pure.parts or str(pure) != name or "\\" in name
            if outside or not name.isprintable():
                raise BadBundle(f"{MANIFEST} names {name!r}, which is not the path of a file of the bundle")
            found[name] = str(file["sha256"]), int(file["size_bytes"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadBundle(f"{MANIFEST} is not the manifest of a bundle: its files cannot be read") from None
    return found


def _problems(root: Path, files: dict[str, tuple[str, int]]) -> Iterator[str]:
    seen = set()
    for name, wrong in _walk(root):
        seen.add(name)
        if wrong:
            yield f"{_shown(name)} {wrong}"
        elif name in files:
            digest, size = files[name]
            if (root / name).stat().st_size != size or _sha256(root / name) != digest:
                yield f"{name} was changed"
        elif name not in (MANIFEST, SIGNATURE):
            yield f"{_shown(name)} does not belong to the bundle"
    for name in files:
        if name not in seen:
            yield f"{name} is missing"


def _shown(name: str) -> str:
    """A file's name for a message: it must not control the terminal."""
    return name if name.isprintable() else ascii(name)


def _walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """Every file, with the reason where it is no plain file."""
    left, count = [root], 0
    while left:
        with os.scandir(left.pop()) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            inside = Path(entry.path).relative_to(root)
            count += 1
            if count > MOST_FILES or len(inside.parts) > DEEPEST:
                raise BadBundle(f"{root}: more than {MOST_FILES:,} files, or more than {DEEPEST} folders deep")
            if entry.is_symlink():
                yield inside.as_posix(), "is a symbolic link"
            elif entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield inside.as_posix(), None
            else:
                yield inside.as_posix(), "is not a plain file"


def _limited(root: Path, name: str) -> bytes:
    try:
        about = (root / name).lstat()
    except OSError:
        raise BadBundle(f"{root} is not a bundle: it has no {name}") from None
    if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_MANIFEST:
        raise BadBundle(f"{root}: {name} is not a plain file of at most {LARGEST_MANIFEST:,} bytes")
    return (root / name).read_bytes()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _signature(root: Path, key: Path | None, actual: dict[str, str], problems: list[str]) -> str:
    """Checks the signature, and adds what is wrong to `problems`. Returns what was found out about it."""
    if not (root / SIGNATURE).exists():
        if key is not None:
            raise BadBundle(f"{root} is not signed: it has no {SIGNATURE}")
        return "not signed"
    if key is None:
        return "not checked: --key names no public key"
    try:
        serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
        hashes = importlib.import_module("cryptography.hazmat.primitives.hashes")
        ec = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
        invalid = importlib.import_module("cryptography.exceptions").InvalidSignature
    except ImportError:
        raise BadBundle(f"--key {key}: the signature cannot be checked: {UNINSTALLED}") from None
    public = _public_key(key, serialization)
    try:
        value = json.loads(_limited(root, SIGNATURE).decode())
        envelope = value["dsseEnvelope"]
        (one,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(one["sig"], validate=True)
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("another kind of payload")
    except (ValueError, KeyError, TypeError, RecursionError):
        problems.append(f"{SIGNATURE} was changed: it is not a signature of this kind")
        return "not valid"
    signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    try:
        public.verify(signature, signed, ec.ECDSA(getattr(hashes, HASHES[public.key_size])()))
        listed = {one["name"]: one["digest"] for one in json.loads(payload)["predicate"]["resources"]}
    except invalid:
        problems.append(f"{SIGNATURE} is not valid: it was changed, or made with another key")
        return "not valid"
    except (ValueError, KeyError, TypeError, RecursionError):
        problems.append(f"{SIGNATURE} signs a statement of another kind")
        return "not valid"
    names = sorted({*listed, *actual}, key=lambda name: (name == MANIFEST, name))
    changed = [name for name in names if listed.get(name) != actual.get(name)]
    problems += [f"{name} was changed after the bundle was signed" for name in changed]
    return "valid"


def _public_key(path: Path, serialization: Any) -> Any:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise BadBundle(f"--key {path} cannot be read: {error.strerror}") from None
    except Exception:  # the kinds of error differ between versions of cryptography
        raise BadBundle(f"--key {path} is no public key in PEM format") from None
    if not hasattr(key, "curve") or key.key_size not in HASHES:
        raise BadBundle(f"--key {path} is no EC key on P-256, P-384 or P-521")
    return key
