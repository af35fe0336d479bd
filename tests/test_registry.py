"""A folder is a registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.errors import MissingExtra, UnknownName

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "targets": "Target",
    "frameworks": "Framework",
    "datasets": "Dataset",
    "recipes": "RecipeModule",
    "devices": "DeviceKind",
    "framework_comparison.parts": "Comparison",
}
"""Folder → its Protocol."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_the_files_that_do_not_begin_with_an_underscore(folder: str) -> None:
    files = {path.name for path in ROOT.joinpath("pipeline", *folder.split(".")).iterdir() if path.suffix == ".py"}
    assert registry.names(folder) == sorted(name.removesuffix(".py") for name in files if not name.startswith("_"))
    assert registry.names(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_loads_its_module(folder: str) -> None:
    for name in registry.names(folder):
        assert registry.load(folder, name).__name__ == f"pipeline.{folder}.{name}"


@pytest.mark.parametrize("name", ["tflit", "_pt2e", "", "../core", "tflite.py"])
def test_an_unknown_name_is_refused_and_the_known_are_listed(name: str) -> None:
    known = ", ".join(registry.names("targets"))
    with pytest.raises(UnknownName) as caught:
        registry.load("targets", name)
    assert str(caught.value).startswith(f"unknown target {name!r}")
    assert str(caught.value).endswith(f"(known: {known})")


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UnknownName, match=r"^unknown target 'tflit'; did you mean 'tflite'\? "):
        registry.load("targets", "tflit")


def test_a_missing_package_gives_the_line_that_installs_it() -> None:
    with (
        pytest.raises(
            MissingExtra, match=r"^no_such_package is not installed; install it with: pip install '\.\[onnx]'"
        ),
        registry.extra("onnx"),
    ):
        import no_such_package  # noqa: F401


def test_another_error_inside_an_extra_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), registry.extra("onnx"):
        raise ZeroDivisionError


def test_versions_are_those_installed() -> None:
    found = registry.versions(("numpy", "no-such-distribution"))
    import numpy

    assert found == {"numpy": numpy.__version__, "no-such-distribution": "none"}


def test_every_tool_that_decides_what_comes_out_is_a_distribution_that_is_here() -> None:
    for folder in ("targets", "frameworks"):
        for name in registry.names(folder):
            versions = registry.versions(registry.load(folder, name).TOOLS)
            assert versions and "none" not in versions.values(), (name, versions)


def test_a_plug_ins_code_has_a_hash_of_its_own() -> None:
    hashes = {registry.source_hash("targets", name) for name in registry.names("targets")}
    assert len(hashes) == len(registry.names("targets"))


def test_every_plug_in_keeps_to_its_folders_protocol_as_mypy_reads_it(tmp_path: Path) -> None:
    lines = []
    for folder, protocol in FOLDERS.items():
        lines.append(f"from pipeline.{folder} import {protocol}")
        for name in registry.names(folder):
            alias = f"{folder.replace('.', '_')}_{name}"
            lines.append(f"from pipeline.{folder} import {name} as {alias}")
            lines.append(f"_{alias}: {protocol} = {alias}")
    file = tmp_path / "held.py"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n"


def test_a_plug_in_that_lacks_a_verb_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "lame.py").write_text('SUFFIX = ".lame"\n')
    (tmp_path / "held.py").write_text("import lame\nfrom pipeline.targets import Target\n_: Target = lame\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--strict"]
    environment = {"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "held.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'variable has type "Target"' in done.stdout
