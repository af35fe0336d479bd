"""The signature of a bundle, in OpenSSF's model signing format: bundle.sig, which `model_signing verify key` accepts.

It is a sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement, which lists the sha256 of every file.
Sources: github.com/sigstore/model-transparency (signature v1.0); github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import Bundle
from pipeline.errors import BadOption, Broken
from pipeline.registry import extra
from pipeline.results import bundle as bundles
from pipeline.results.bundle import Problem
from pipeline.system import store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""The curves that the format knows, and the hash that goes with each."""
PASSWORD = "LASTMILE_KEY_PASSWORD"
"""The environment variable with the password of an encrypted private key."""
EXTRA = "ship"
LARGEST_KEY = 1 << 16
MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
DERIVE = "openssl ec -in key.pem -pubout -out pub.pem"


# -- keys --------------------------------------------------------------------------------------------------------------


def private_key(path: Path) -> EllipticCurvePrivateKey:
    """The private key in a PEM file.

    Raises:
        BadOption: the file cannot be read, or holds something else; the message says what.
    """
    with extra(EXTRA):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    text = _pem(path)
    if b"PRIVATE KEY-----" not in text:
        found = "a public key" if b"PUBLIC KEY-----" in text else "no private key in PEM format"
        raise BadOption(f"--key {path} is {found}: sign with a private EC key ({MAKE})")
    password = os.environ.get(PASSWORD)
    encrypted = b"ENCRYPTED" in text
    if encrypted and password is None:
        raise BadOption(f"--key {path} is encrypted: set {PASSWORD} to its password")
    try:
        key = load_pem_private_key(text, password.encode() if encrypted and password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "its password is another one, or it is damaged" if encrypted else "it is damaged, or of an unknown kind"
        raise BadOption(f"--key {path} cannot be used: {why}; make one with: {MAKE}") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise BadOption(f"--key {path} is {_kind(key)}: sign with an EC key on P-256 ({MAKE})")
    return key


def public_key(path: Path) -> EllipticCurvePublicKey:
    """The public key in a PEM file.

    Raises:
        BadOption: the file cannot be read, or holds something else; the message says what.
    """
    with extra(EXTRA):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    text = _pem(path)
    if b"PUBLIC KEY-----" not in text:
        found = "a private key" if b"PRIVATE KEY-----" in text else "no public key in PEM format"
        raise BadOption(f"--key {path} is {found}: check with the public key of the signer ({DERIVE})")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadOption(f"--key {path} cannot be used: it is damaged, or of an unknown kind") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise BadOption(f"--key {path} is {_kind(key)}: bundles are signed with EC keys on P-256, P-384 or P-521")
    return key


def _pem(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise BadOption(f"--key {path}: {'is not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > LARGEST_KEY:
            raise BadOption(f"--key {path} has {path.stat().st_size:,} bytes: it is not a key")
        return path.read_bytes()
    except OSError as error:
        raise BadOption(f"--key {path} cannot be read: {error.strerror}") from error


def _kind(key: Any) -> str:
    """What a key is, for a message."""
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve:
        return f"an EC key on {curve}"
    name = type(key).__name__.lstrip("_").removesuffix("PrivateKey").removesuffix("PublicKey")
    return f"an {name} key" if name[0] in "AEFHILMNORSX" else f"a {name} key"


# -- signing -----------------------------------------------------------------------------------------------------------


def write(root: Path, key: EllipticCurvePrivateKey) -> None:
    """Signs every file of the bundle in `root`: writes bundle.sig."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    bundle = bundles.manifest(root)
    payload = json.dumps(statement(bundle, root), indent=1).encode()
    signature = key.sign(_authenticated(payload), ECDSA(getattr(hashes, CURVES[key.curve.name])()))
    value = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    store.write_text(root / bundles.SIGNATURE, json.dumps(value, indent=1) + "\n")


def statement(bundle: Bundle, root: Path) -> dict[str, Any]:
    """The in-toto statement that is signed: every file but the signature, with its sha256."""
    digests = dict(sorted(_digests(bundle, root).items()))
    together = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
    return {
        "_type": STATEMENT,
        "subject": [{"name": f"{bundle.model}-{bundle.version}", "digest": {"sha256": together}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [bundles.SIGNATURE],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
            ],
        },
    }  # fmt: skip


def _digests(bundle: Bundle, root: Path) -> dict[str, str]:
    return {
        bundles.MANIFEST: store.sha256(root / bundles.MANIFEST),
        **{name: file.sha256 for name, file in bundle.files.items()},
    }


def _authenticated(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hint(key: EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


# -- checking ----------------------------------------------------------------------------------------------------------


def is_signed(root: Path) -> bool:
    """Whether the bundle has a signature, valid or not."""
    return (root / bundles.SIGNATURE).exists()


def check(root: Path, key: EllipticCurvePublicKey) -> list[Problem]:
    """What is wrong with the signature of a bundle: files that are not what was signed, or the signature itself.

    Raises:
        Broken: the bundle is not signed, its bundle.json cannot be trusted, or the signature is not one of this kind.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    if not is_signed(root):
        raise Broken(f"{root} is not signed: it has no {bundles.SIGNATURE}")
    payload, signature, hint = _envelope(root)
    if hint != _hint(key):
        return [Problem(bundles.SIGNATURE, "was made with another key")]
    try:
        key.verify(signature, _authenticated(payload), ECDSA(getattr(hashes, CURVES[key.curve.name])()))
    except InvalidSignature:
        return [Problem(bundles.SIGNATURE, "was changed: the signature is not valid")]
    signed = _signed(payload)
    actual = _digests(bundles.manifest(root), root)
    names = sorted({*signed, *actual}, key=lambda name: (name == bundles.MANIFEST, name))
    changed = [name for name in names if signed.get(name) != actual.get(name)]
    return [Problem(name, "was changed after the bundle was signed") for name in changed]


def _envelope(root: Path) -> tuple[bytes, bytes, str]:
    """The payload, the signature and the hint of the key.

    Raises:
        Broken: bundle.sig is not of this kind.
    """
    content = bundles.limited(root, bundles.SIGNATURE)
    try:
        value = json.loads(content.decode())
        if value["mediaType"] != MEDIA_TYPE:
            raise Broken(f"{bundles.SIGNATURE} is a signature of an unknown kind: {str(value['mediaType'])[:80]!r}")
        material = value["verificationMaterial"]
        if "publicKey" not in material:
            raise Broken(f"{bundles.SIGNATURE} was made with a certificate, and not with a key: it cannot be checked")
        envelope = value["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise Broken(f"{bundles.SIGNATURE} signs {str(envelope['payloadType'])[:80]!r}, not {PAYLOAD_TYPE}")
        return (
            base64.b64decode(envelope["payload"], validate=True),
            base64.b64decode(signature["sig"], validate=True),
            str(material["publicKey"]["hint"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Broken(f"{bundles.SIGNATURE} was changed: it is not a signature") from error


def _signed(payload: bytes) -> Mapping[str, str]:
    """The sha256 of every signed file.

    Raises:
        Broken: the statement is not one of this kind, although its signature is valid.
    """
    try:
        value = json.loads(payload.decode())
        if (value["_type"], value["predicateType"]) != (STATEMENT, PREDICATE):
            raise Broken(f"{bundles.SIGNATURE} holds a statement of an unknown kind")
        return {str(one["name"]): str(one["digest"]) for one in value["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Broken(f"{bundles.SIGNATURE} holds a statement of an unknown kind") from error
