"""The Swift packages: their files, resources and golden data, and that every Swift file parses.

Nothing here was compiled: Core ML, CoreGraphics and ExecuTorch's package exist on Apple's systems only.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.packages import Contents, ios
from pipeline.system import store

NAME = "Tiny"
PARSE = """
import sys
from pathlib import Path
import tree_sitter, tree_sitter_swift
parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
wrong = [name for name in sys.argv[1:] if parser.parse(Path(name).read_bytes()).root_node.has_error]
sys.exit(" ".join(wrong) or 0)
"""


@pytest.fixture(scope="module")
def folder(contents: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ios")
    ios.write(contents, path)
    return path


def test_the_same_contents_give_the_same_packages(contents: Contents, folder: Path, tmp_path: Path) -> None:
    ios.write(contents, tmp_path)
    assert store.sha256(tmp_path) == store.sha256(folder)


def test_core_ml_and_executorch_have_a_package_each(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {NAME, f"{NAME}ExecuTorch"}
    for package in folder.iterdir():
        manifest = (package / "Package.swift").read_text()
        assert manifest.startswith("// swift-tools-version:") and f'"{package.name}"' in manifest
        assert list((package / "Tests" / f"{package.name}Tests").glob("*.swift"))


def test_every_swift_file_parses(folder: Path, programs: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.swift"))
    assert len(files) >= 8
    command = [programs / "python", "-c", PARSE]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "broken.swift"
    broken.write_text(files[-1].read_text() + "\nfunc {")
    assert subprocess.run([*command, broken], capture_output=True, check=False).returncode == 1


def test_the_resources_are_the_bundles_files_and_golden_outputs(contents: Contents, folder: Path) -> None:
    inputs = np.load(contents.root / "golden" / "inputs.npy")
    for target, package in (("coreml", NAME), ("executorch", f"{NAME}ExecuTorch")):
        cell = contents.recommended(target)
        assert cell is not None
        resources = folder / package / "Sources" / package / "Resources"
        assert store.sha256(resources / cell.artifact.file) == cell.artifact.sha256
        golden = np.frombuffer((resources / "golden" / f"{target}.bin").read_bytes(), "<f4")
        source = f"{cell.recipe}/{target}/host.npy" if cell.golden else "float.npy"
        assert (golden == np.load(contents.root / "golden" / source).ravel()).all()
    pixels = (folder / NAME / "Sources" / NAME / "Resources" / "golden" / "inputs.bin").read_bytes()
    assert pixels == inputs.astype(np.uint8).tobytes()


def test_the_api_has_the_labels_version_and_hashes(contents: Contents, folder: Path) -> None:
    source = (folder / NAME / "Sources" / NAME / f"{NAME}.swift").read_text()
    for text in (contents.version, contents.weights_sha256, *contents.spec.labels):
        assert f'"{text}"' in source
