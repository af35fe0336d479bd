"""Programs of others accept what `inv ship` writes: OpenSSF's model_signing, and CycloneDX's strict validator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import bundles as writing

VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
found = JsonStrictValidator(SchemaVersion.V1_7).validate_str(open(sys.argv[1]).read())
sys.exit(str(found) if found else 0)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return writing.keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    return writing.made(writing.usual(tmp_path_factory.mktemp("bundle") / "build"), key=keys[0]).path


def verified(programs: Path, root: Path, key: Path) -> subprocess.CompletedProcess[str]:
    command = [programs / "model_signing", "verify", "key", root, "--signature", root / "bundle.sig"]
    return subprocess.run([*command, "--public_key", key], capture_output=True, text=True, check=False)


def test_model_signing_accepts_the_signature(programs: Path, original: Path, keys: tuple[Path, Path]) -> None:
    done = verified(programs, original, keys[1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_model_signing_refuses_a_changed_file(
    programs: Path, original: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(original, tmp_path / original.name))
    (root / "models/int8/tflite/model.bin").write_bytes(b"another model")
    assert verified(programs, root, keys[1]).returncode != 0


def test_the_cyclonedx_validator_accepts_the_bill_of_materials(programs: Path, original: Path, tmp_path: Path) -> None:
    text = (original / "sbom.cdx.json").read_text()
    (tmp_path / "sbom.cdx.json").write_text(text.replace("w" * 64, "a" * 64))  # the tree's hash of weights is not hex
    command = [programs / "python", "-c", VALIDATE, tmp_path / "sbom.cdx.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
