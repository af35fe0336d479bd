"""The difference of two bundles: contract, licence, size, latency, accuracy by class and flips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.results import release_diff, releases
from pipeline.results.releases import Release
from tests import bundles
from tests.builds import LOCAL
from tests.cli import inv


def release(root: Path, version: str, wrong: int, size: int) -> Path:
    """A bundle with one file whose first `wrong` samples are classified wrongly."""
    made = bundles.tree(root)
    bundles.cell(made, "int8", "tflite", LOCAL, outputs=made.wrong(wrong), content=version.encode().ljust(size))
    return bundles.made(made, version, targets=["tflite"], recipes=["int8"]).path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("diff")
    return release(folder / "old", "1.0.0", 0, 640), release(folder / "new", "1.1.0", 6, 512)


def read(pair: tuple[Path, Path]) -> tuple[Release, Release]:
    old, new = (releases.read(path) for path in pair)
    return old, new


def test_size_latency_accuracy_and_flips_are_compared_for_each_file(pair: tuple[Path, Path]) -> None:
    found = release_diff.difference(*read(pair))
    assert (found.old, found.new, found.contract, found.facts) == ("tiny 1.0.0", "tiny 1.1.0", (), ())
    (file,) = found.files
    assert (file.recipe, file.target, file.device, file.same_file) == ("int8", "tflite", "local", False)
    assert (file.old_bytes, file.new_bytes) == (640, 512)
    assert file.old_ms == file.new_ms == pytest.approx(0.025, rel=0.1)
    assert file.drop_points == pytest.approx(3)
    assert file.classes == (("a", 4.0), ("b", 4.0), ("c", 2.0), ("d", 2.0))
    assert (file.flips, len(file.examples)) == (6, release_diff.MOST_FLIPS)
    first = file.examples[0]
    assert (first.sample, first.truth, first.old, first.new) == (0, "a", "a", "b")


def test_a_changed_contract_and_licence_are_listed(pair: tuple[Path, Path]) -> None:
    old, new = read(pair)
    spec = dataclasses.replace(new.spec, labels=("a", "b", "c", "e"))
    found = release_diff.difference(old, dataclasses.replace(new, spec=spec, licence="MIT"))
    ((what, before, after),) = found.contract
    assert what == "labels" and '"d"' in before and '"e"' in after
    assert ("licence", "NOASSERTION", "MIT") in found.facts
    assert found.files[0].drop_points is None and found.files[0].reason == "the labels differ"


def test_files_of_one_release_only_are_listed(pair: tuple[Path, Path]) -> None:
    old, new = read(pair)
    found = release_diff.difference(old, dataclasses.replace(new, files={}))
    assert (found.removed, found.added, found.files) == (("int8 on tflite",), (), ())


def test_the_command_prints_markdown_or_json(pair: tuple[Path, Path], tmp_path: Path) -> None:
    lines = inv(tmp_path, "diff", *pair).lines
    assert lines[0].startswith("## tiny 1.0.0")
    assert [line for line in lines if line.startswith("| int8 on tflite | local | 0.6 → 0.5 |")]
    assert inv(tmp_path, "diff", *pair, "--json").json["files"][0]["flips"] == 6
    assert inv(tmp_path, "diff", pair[0], tmp_path).only


def test_a_release_does_not_differ_from_itself(pair: tuple[Path, Path]) -> None:
    found = release_diff.difference(*read((pair[0], pair[0])))
    assert (found.contract, found.facts, found.removed, found.added) == ((), (), (), ())
    assert (found.files[0].same_file, found.files[0].flips, found.files[0].classes) == (True, 0, ())
