"""inv verify, edge-bench verify and Verify.java find the same changes in a bundle, and name the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from edge_bench import bundle as on_device
from edge_bench.errors import BadBundle

from pipeline.core import BundledFile
from pipeline.errors import PipelineError
from pipeline.results import bundle as bundles
from pipeline.results import signature
from pipeline.stages.ship import VERIFY
from tests import bundles as writing
from tests.cli import tree as content

Check = Callable[[Path, Path | None], str]
"""Checks a bundle, with a key or without. Returns the complaint, empty if there is none."""


def in_pipeline(root: Path, key: Path | None) -> str:
    try:
        found = bundles.problems(root)
        found += signature.check(root, signature.public_key(key)) if key else []
    except PipelineError as error:
        return str(error)
    return "\n".join(map(str, found))


def in_edge_bench(root: Path, key: Path | None) -> str:
    try:
        found = on_device.verify(root, key)
    except BadBundle as error:
        return str(error)
    assert found["signature"] == ("valid" if key else "not checked: --key names no public key")
    return ""


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    classes = tmp_path_factory.mktemp("classes")
    subprocess.run(["javac", "-Xlint:all", "-Werror", "--release", "11", "-d", classes, VERIFY], check=True)

    def in_java(root: Path, key: Path | None) -> str:
        command = ["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "Verify", root, *([key] if key else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Exception" not in done.stderr
        assert done.returncode == (1 if done.stderr else 0)
        return done.stderr

    return {"inv": in_pipeline, "edge-bench": in_edge_bench, "java": in_java}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return writing.keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    return writing.made(writing.usual(tmp_path_factory.mktemp("bundle") / "build"), key=keys[0]).path


def byte(name: str) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        changed = bytearray((root / name).read_bytes())
        changed[len(changed) // 2] ^= 1
        (root / name).write_bytes(bytes(changed))
        return name

    return change


def controlling(root: Path) -> str:
    """A name that would change the title and the colours of a terminal."""
    (root / "models" / "\x1b]0;owned\x07\x1b[31mred").write_bytes(b"x")
    return "red"


def missing(root: Path) -> str:
    (root / "golden" / "golden.json").unlink()
    return "golden/golden.json"


def added(root: Path) -> str:
    (root / "models" / "more.bin").write_bytes(b"x")
    return "models/more.bin"


def linked(root: Path) -> str:
    path = root / "models/int8/tflite/model.bin"
    shutil.move(path, root.with_name("same.bin"))
    path.symlink_to(root.with_name("same.bin"))
    return "models/int8/tflite/model.bin"


def pipe(root: Path) -> str:
    os.mkfifo(root / "pipe")
    return "pipe"


def enlarged(root: Path) -> str:
    with (root / "models/int8/tflite/model.bin").open("r+b") as file:
        file.truncate(1 << 40)
    return "models/int8/tflite/model.bin"


def escaping(root: Path) -> str:
    file = BundledFile("0" * 64, 1)
    writing.rewrite(root, lambda bundle: replace(bundle, files={**bundle.files, "../../secret": file}))
    return "../../secret"


def together(root: Path) -> str:
    """A file and the manifest, as someone changes them who can compute hashes. Only the signature tells."""
    (root / "models/int8/tflite/model.bin").write_bytes(b"another model")
    writing.rewrite(root, lambda bundle: bundle)
    return "models/int8/tflite/model.bin"


CHANGES: dict[str, Callable[[Path], str]] = {
    **{f"a byte of {name}": byte(name) for name in (
        "models/int8/tflite/model.bin", "bundle.json", "bundle.sig", "README.md", "provenance.intoto.json",
        "sbom.cdx.json", "Verify.java",
    )},
    "a missing file": missing, "a file more": added, "a link": linked, "a pipe": pipe,
    "a name that controls the terminal": controlling, "a terabyte": enlarged,
    "a path that escapes": escaping, "file and manifest together": together,
}  # fmt: skip


@pytest.mark.parametrize("check", ["inv", "edge-bench", "java"])
def test_an_intact_bundle_passes(checks: dict[str, Check], original: Path, keys: tuple[Path, Path], check: str) -> None:
    assert checks[check](original, None) == ""
    assert checks[check](original, keys[1]) == ""


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("check", ["inv", "edge-bench", "java"])
def test_a_change_is_found_and_the_file_is_named(
    checks: dict[str, Check], original: Path, keys: tuple[Path, Path], tmp_path: Path, check: str, what: str
) -> None:
    root = Path(shutil.copytree(original, tmp_path / original.name))
    name = CHANGES[what](root)
    complaint = checks[check](root, keys[1])
    assert name in complaint
    assert all(line.isprintable() for line in complaint.splitlines())
    signed_only = what in ("a byte of bundle.sig", "file and manifest together")
    assert (name in checks[check](root, None)) != signed_only


@pytest.mark.parametrize("check", ["inv", "edge-bench", "java"])
def test_another_key_and_no_key_are_refused(
    checks: dict[str, Check], original: Path, keys: tuple[Path, Path], tmp_path: Path, check: str
) -> None:
    _, other = writing.keys(tmp_path / "other")
    assert "bundle.sig" in checks[check](original, other)
    assert "key.pem" in checks[check](original, keys[0])
    assert "nowhere" in checks[check](original, tmp_path / "nowhere")
    unsigned = Path(shutil.copytree(original, tmp_path / "unsigned", ignore=shutil.ignore_patterns("bundle.sig")))
    assert "not signed" in checks[check](unsigned, keys[1])


def test_edge_bench_finds_one_changed_byte_in_every_file(original: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(original, tmp_path / original.name))
    for name, before in content(root).items():
        if name == "bundle.sig":
            continue
        (root / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BadBundle, match=name.rpartition("/")[2].replace(".", r"\.")):
            on_device.verify(root, None)
        (root / name).write_bytes(before)


def test_edge_bench_fails_where_it_cannot_check_the_signature_that_it_was_asked_to_check(
    original: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "cryptography.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "edge_bench", "verify", original, "--key", keys[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "cryptography" in done.stderr
    without_key = subprocess.run(command[:-2], capture_output=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert json.loads(without_key.stdout)["signature"] == "not checked: --key names no public key"


def test_the_command_of_edge_bench_exits_with_2_and_one_line(original: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(original, tmp_path / original.name))
    name = added(root)
    command = [sys.executable, "-m", "edge_bench", "verify", root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert name in done.stderr
