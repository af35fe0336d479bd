"""Class folders, in a folder or a zip."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, imagefolder
from pipeline.errors import BadData
from tests.datasets import synthetic
from tests.datasets.synthetic import as_folder, as_zip, class_files, contents, divided_files

CLASSES = {"dog": 20, "cat": 10}


def counts(data: Path) -> dict[str, list[int]]:
    """Number of images per class, by split."""
    labels = {split: imagefolder.load(data, split, synthetic.GREY).labels.tolist() for split in SPLITS}
    return {split: [Counter(own)[label] for label in (0, 1)] for split, own in labels.items()}


# -- formats -----------------------------------------------------------------------------------------------------------


def test_plain_class_folders_are_split_80_10_10(tmp_path: Path) -> None:
    data = as_folder(tmp_path, class_files("", CLASSES))
    assert imagefolder.classes(data) == ("cat", "dog")
    assert counts(data) == {"train": [8, 16], "validation": [1, 2], "test": [1, 2]}


def test_without_a_validation_folder_a_tenth_of_train_is_used(tmp_path: Path) -> None:
    data = as_folder(tmp_path, divided_files(CLASSES, test=3))
    assert counts(data) == {"train": [9, 18], "validation": [1, 2], "test": [3, 3]}


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_is_used(tmp_path: Path, name: str) -> None:
    files = divided_files(CLASSES) | class_files(f"{name}/", {"cat": 4, "dog": 5}, seed=2_000_000)
    assert counts(as_folder(tmp_path, files)) == {"train": [10, 20], "validation": [4, 5], "test": [2, 2]}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "pets/"])
def test_a_zip_gives_the_same_splits_as_its_folder(tmp_path: Path, top: str, method: int) -> None:
    folder = as_folder(tmp_path / "folder", divided_files(CLASSES))
    archive = as_zip(tmp_path / "pets.zip", divided_files(CLASSES, top=top), method)
    for split in SPLITS:
        one, two = (imagefolder.load(data, split, synthetic.GREY) for data in (folder, archive))
        assert one.sha256 == two.sha256 and contents(one) == contents(two)


def test_the_order_in_the_zip_does_not_matter(tmp_path: Path) -> None:
    files = class_files("", CLASSES)
    one, two = as_zip(tmp_path / "1.zip", files), as_zip(tmp_path / "2.zip", dict(reversed(files.items())))
    assert (
        imagefolder.load(one, "train", synthetic.GREY).sha256 == imagefolder.load(two, "train", synthetic.GREY).sha256
    )


def test_labels_match_their_images(tmp_path: Path) -> None:
    files = class_files("", CLASSES)
    data = as_folder(tmp_path, files)
    truth = {synthetic.pixels(seed, 8).tobytes(): name.partition("/")[0] for seed, name in enumerate(files)}
    preprocessing = Preprocessing("RGB", 8, 8, (0.0,), (1.0,))
    for split in (imagefolder.load(data, name, preprocessing) for name in SPLITS):
        named = [imagefolder.classes(data)[label] for label in split.labels]
        assert [truth[content] for content in contents(split)] == named


def test_class_folders_may_have_subfolders(tmp_path: Path) -> None:
    data = as_folder(tmp_path, class_files("cat/", {"grey": 3, "red": 3}) | class_files("", {"dog": 6}, seed=50))
    assert imagefolder.classes(data) == ("cat", "dog")
    assert len(imagefolder.load(data, "train", synthetic.GREY)) == 8


def test_hidden_files_and_other_file_types_are_ignored(tmp_path: Path) -> None:
    junk = dict.fromkeys(("README.md", "cat/.DS_Store", "cat/._000.png", ".git/x.png", "__MACOSX/cat/a.png"), b"no")
    files = class_files("", CLASSES)
    clean, messy = as_folder(tmp_path / "clean", files), as_folder(tmp_path / "messy", files | junk)
    zipped = as_zip(tmp_path / "messy.zip", files | junk)
    hashes = {imagefolder.load(data, "train", synthetic.GREY).sha256 for data in (clean, messy, zipped)}
    assert len(hashes) == 1


# -- lazy reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_corrupt_image_is_reported_when_it_is_read(tmp_path: Path, form: str) -> None:
    files = divided_files(CLASSES) | {"test/dog/broken.png": synthetic.png(9)[:60]}
    data = as_folder(tmp_path / "pets", files) if form == "folder" else as_zip(tmp_path / "pets.zip", files)
    split = imagefolder.load(data, "test", synthetic.GREY)
    assert len(split) == 5
    failures = []
    for i in range(5):
        try:
            split.read(i)
        except BadData as error:
            failures.append(str(error))
    where = f"{data}{'/' if form == 'folder' else '!'}test/dog/broken.png"
    assert len(failures) == 1 and failures[0].startswith(f"{where}: ")


def test_a_deleted_image_is_named(tmp_path: Path) -> None:
    data = as_folder(tmp_path, divided_files(CLASSES))
    split = imagefolder.load(data, "test", synthetic.GREY)
    for path in data.glob("test/*/*.png"):
        path.unlink()
    with pytest.raises(BadData, match=r"test/(cat|dog)/00\d\.png: .*No such file"):
        split.read(0)


# -- refusals ----------------------------------------------------------------------------------------------------------

EMPTY = {"train/bird/notes.txt": b"none yet"}
WRONG = {
    "no images": ({"cat/a.txt": b"", "dog/a.txt": b""}, "has no images"),
    "images without classes": ({"a.png": b"", "b.png": b""}, "has no class folders"),
    "one class": (class_files("", {"cat": 5}), "one class folder, 'cat'"),
    "an empty class": (class_files("", CLASSES) | {"bird/notes.txt": b""}, "bird: .* no image"),
    "an empty class in train": (divided_files(CLASSES) | EMPTY, "train/bird: .* no image"),
    "too few to split": (class_files("", {"cat": 2, "dog": 5}), "cat: .* 2 images; .* 3"),
    "too few in train": (divided_files({"cat": 1, "dog": 5}), "cat: .* 1 image; .* 2"),
    "no test": (class_files("train/", CLASSES), "no test/"),
    "no train": (class_files("test/", CLASSES), "no train/"),
    "a class that is only in test": (divided_files(CLASSES) | {"test/bird/a.png": b""}, "'bird'"),
    "two validation folders": (
        divided_files(CLASSES) | {"val/cat/a.png": b"", "validation/cat/a.png": b""},
        "val/ and validation/",
    ),
}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_layout_is_refused(tmp_path: Path, what: str, form: str) -> None:
    files, message = WRONG[what]
    data = as_folder(tmp_path / "x", files) if form == "folder" else as_zip(tmp_path / "x.zip", files)
    with pytest.raises(BadData, match=message) as caught:
        imagefolder.classes(data)
    assert str(data) in str(caught.value)


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    data = as_folder(tmp_path, class_files("", CLASSES))
    (data / "bird").mkdir()
    with pytest.raises(BadData, match=r"bird: .* no image; .* 3"):
        imagefolder.classes(data)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no images \(\.jpg, "):
        imagefolder.classes(tmp_path)
