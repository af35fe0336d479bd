"""Bundles are checked file by file; what was changed, is missing or does not belong to it is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from pipeline.core import BundledFile
from pipeline.errors import BadOption, Broken
from pipeline.results import bundle as bundles
from pipeline.results import signature
from tests import bundle_schema
from tests import bundles as writing
from tests.cli import tree as content


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return writing.keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    """A signed bundle. Read only."""
    return writing.made(writing.usual(tmp_path_factory.mktemp("bundle") / "build"), key=keys[0]).path


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy of a signed bundle."""
    return Path(shutil.copytree(original, tmp_path / original.name))


def named(root: Path) -> list[str]:
    return [problem.file for problem in bundles.problems(root)]


def test_an_intact_bundle_has_no_problems(original: Path, keys: tuple[Path, Path]) -> None:
    assert bundles.problems(original) == []
    assert signature.check(original, signature.public_key(keys[1])) == []


def test_one_changed_byte_in_any_file_is_found_and_the_file_is_named(root: Path, keys: tuple[Path, Path]) -> None:
    key = signature.public_key(keys[1])
    for name, before in content(root).items():
        for place in (0, len(before) // 2, len(before) - 1):
            changed = bytearray(before)
            changed[place] ^= 1
            (root / name).write_bytes(bytes(changed))
            try:
                found = [*named(root), *(problem.file for problem in signature.check(root, key))]
            except Broken as error:
                found = [name] if name in str(error) else []
            assert found == [name], (name, place)
        (root / name).write_bytes(before)
    assert bundles.problems(root) == []


def test_a_missing_an_added_and_a_longer_file_are_named(root: Path) -> None:
    (root / "golden" / "float.npy").unlink()
    (root / "models" / "extra.bin").write_bytes(b"x")
    with (root / "models/int8/onnx/model.bin").open("ab") as file:
        file.write(b"\0")
    assert sorted(named(root)) == ["golden/float.npy", "models/extra.bin", "models/int8/onnx/model.bin"]


def test_links_and_pipes_are_refused_and_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(root / "golden" / "images", outside)
    victim = root / "models/int8/onnx/model.bin"
    shutil.copyfile(victim, tmp_path / "same.bin")
    victim.unlink()
    victim.symlink_to(tmp_path / "same.bin")
    shutil.rmtree(root / "golden" / "images")
    (root / "golden" / "images").symlink_to(outside)
    os.mkfifo(root / "pipe")
    found = {problem.file: problem.reason for problem in bundles.problems(root)}
    assert found["models/int8/onnx/model.bin"] == "is a symbolic link"
    assert found["golden/images"] == "is a symbolic link"
    assert "golden/images/0.png" in found
    assert found["pipe"] == "is not a plain file"


ESCAPES = ["../secret", "/etc/passwd", "models/../../secret", "a\\..\\b", "models//x", "./models", "", "a\nb", "C:\\x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_path_that_points_out_of_the_bundle_is_refused(root: Path, name: str) -> None:
    file = BundledFile("0" * 64, 1)
    writing.rewrite(root, lambda bundle: replace(bundle, files={**bundle.files, name: file}))
    with pytest.raises(Broken, match="path"):
        bundles.problems(root)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_cell_that_points_out_of_the_bundle_is_refused(root: Path, name: str) -> None:
    writing.rewrite(root, lambda bundle: replace(bundle, cells=(replace(bundle.cells[0], file=name),)))
    with pytest.raises(Broken, match="path"):
        bundles.problems(root)
    writing.rewrite_raw(root, lambda value: value["cells"][0].update(file="models/x", recipe=name))
    with pytest.raises(Broken):
        bundles.problems(root)


def test_a_file_is_not_read_beyond_its_size(root: Path) -> None:
    with (root / "models/int8/onnx/model.bin").open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file of a terabyte: reading it would take hours
    assert named(root) == ["models/int8/onnx/model.bin"]


def test_a_manifest_that_is_too_large_is_refused(root: Path) -> None:
    with (root / "bundle.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(Broken, match=r"bundle\.json"):
        bundles.problems(root)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 200_000, '{"digest": 1}', "\xff", "null", '{"schema": 2}'])
def test_a_manifest_of_another_form_is_refused(root: Path, text: str) -> None:
    (root / "bundle.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Broken, match=r"bundle\.json"):
        bundles.problems(root)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(Broken):
            bundles.problems(path)


def test_an_array_that_claims_to_be_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with pytest.raises(Broken):
        bundles.array(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(Broken):
        bundles.array(path)


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_together_with_the_manifest_is_named(root: Path, keys: tuple[Path, Path]) -> None:
    (root / "models/int8/onnx/model.bin").write_bytes(b"another model")
    writing.rewrite(root, lambda bundle: bundle)
    assert bundles.problems(root) == []
    found = signature.check(root, signature.public_key(keys[1]))
    assert [problem.file for problem in found] == ["models/int8/onnx/model.bin", "bundle.json"]


def test_another_key_is_told_from_a_changed_signature(root: Path, tmp_path: Path) -> None:
    _, other = writing.keys(tmp_path / "other")
    (problem,) = signature.check(root, signature.public_key(other))
    assert (problem.file, problem.reason) == ("bundle.sig", "was made with another key")


def test_an_unsigned_bundle_is_no_signed_one(root: Path, keys: tuple[Path, Path]) -> None:
    (root / "bundle.sig").unlink()
    assert bundles.problems(root) == []
    with pytest.raises(Broken, match="not signed"):
        signature.check(root, signature.public_key(keys[1]))


def _certificate(value: dict[str, object]) -> None:
    value["verificationMaterial"] = {"certificate": {"rawBytes": ""}, "tlogEntries": []}


UNKNOWN: dict[str, Callable[[dict[str, object]], None]] = {
    "certificate": _certificate,
    "media type": lambda value: value.update(mediaType="application/x-other"),
    "no envelope": lambda value: value.pop("dsseEnvelope", None) and None,
    "payload": lambda value: value["dsseEnvelope"].update(payloadType="text/plain"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_signature_of_an_unknown_kind_is_refused(root: Path, keys: tuple[Path, Path], what: str) -> None:
    value = json.loads((root / "bundle.sig").read_text())
    UNKNOWN[what](value)
    (root / "bundle.sig").write_text(json.dumps(value))
    with pytest.raises(Broken, match=r"bundle\.sig"):
        signature.check(root, signature.public_key(keys[1]))


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_the_other_curves_of_the_format_sign_too(original: Path, tmp_path: Path, curve: str) -> None:
    root = Path(shutil.copytree(original, tmp_path / "copy"))
    private, public = writing.keys(tmp_path / "keys", curve)
    (root / "bundle.sig").unlink()
    signature.write(root, signature.private_key(private))
    assert signature.check(root, signature.public_key(public)) == []


def test_keys_as_openssl_writes_them_are_read(keys: tuple[Path, Path], tmp_path: Path) -> None:
    wanted = signature.private_key(keys[0]).private_numbers()
    writing.openssl("ecparam", "-genkey", "-name", "prime256v1", "-out", tmp_path / "with-parameters.pem")
    assert signature.private_key(tmp_path / "with-parameters.pem").curve.name == "secp256r1"
    writing.openssl("pkcs8", "-topk8", "-nocrypt", "-in", keys[0], "-out", tmp_path / "pkcs8.pem")
    assert signature.private_key(tmp_path / "pkcs8.pem").private_numbers() == wanted


def test_an_encrypted_key_needs_its_password(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "encrypted.pem"
    writing.openssl("pkcs8", "-topk8", "-passout", "pass:secret", "-in", keys[0], "-out", path)
    with pytest.raises(BadOption, match=signature.PASSWORD):
        signature.private_key(path)
    monkeypatch.setenv(signature.PASSWORD, "wrong")
    with pytest.raises(BadOption, match="password"):
        signature.private_key(path)
    monkeypatch.setenv(signature.PASSWORD, "secret")
    assert signature.private_key(path).curve.name == "secp256r1"


@pytest.mark.parametrize(
    "words",
    [
        ("genrsa", "-out", "KEY", "2048"),
        ("genpkey", "-algorithm", "ed25519", "-out", "KEY"),
        ("ecparam", "-genkey", "-name", "secp256k1", "-noout", "-out", "KEY"),
    ],
)
def test_keys_of_other_kinds_are_refused_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / "key.pem"
    writing.openssl(*(str(path) if word == "KEY" else word for word in words))
    with pytest.raises(BadOption, match="P-256"):
        signature.private_key(path)
    writing.openssl("pkey", "-in", path, "-pubout", "-out", tmp_path / "pub.pem")
    with pytest.raises(BadOption, match="P-256"):
        signature.public_key(tmp_path / "pub.pem")


@pytest.mark.parametrize("text", [b"", b"hello", b"\xff\x00" * 50, b"-----BEGIN CERTIFICATE-----\n", b"x" * 100_000])
def test_what_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(text)
    for read in (signature.private_key, signature.public_key):
        with pytest.raises(BadOption, match=r"--key .*key\.pem"):
            read(path)


@pytest.mark.parametrize("kind", ["PRIVATE", "EC PRIVATE", "PUBLIC"])
def test_a_damaged_key_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key.pem"
    path.write_text(f"-----BEGIN {kind} KEY-----\nAAAA\n-----END {kind} KEY-----\n")
    for read in (signature.private_key, signature.public_key):
        with pytest.raises(BadOption):
            read(path)


def test_keys_are_not_taken_for_each_other(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(BadOption, match="is a public key"):
        signature.private_key(public)
    with pytest.raises(BadOption, match="is a private key"):
        signature.public_key(private)
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BadOption):
            signature.private_key(missing)


# -- the published schema ----------------------------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_nouns_and_a_bundle_fits_it(original: Path) -> None:
    published = json.loads(bundle_schema.FILE.read_text())
    assert published == bundle_schema.schema()
    Draft202012Validator.check_schema(published)
    value = json.loads((original / "bundle.json").read_text())
    assert list(Draft202012Validator(published).iter_errors(value)) == []
    for key in value:
        without = {name: one for name, one in value.items() if name != key}
        assert list(Draft202012Validator(published).iter_errors(without))
    assert list(Draft202012Validator(published).iter_errors({**value, "surprise": 1}))
