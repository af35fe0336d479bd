"""Class folders, in a folder or a zip."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("test", ["TEST", "testing"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "Valid"])
def test_the_splits_have_their_usual_names(tmp_path: Path, train: str, validation: str, test: str) -> None:
    files = class_files(f"{train}/", CLASSES) | class_files(f"{validation}/", {"cat": 4, "dog": 5}, seed=2_000_000)
    files |= class_files(f"{test}/", {"cat": 2, "dog": 3}, seed=1_000_000)
    assert counts(as_folder(tmp_path, files)) == {"train": [10, 20], "validation": [4, 5], "test": [2, 3]}


def test_without_a_test_folder_the_validation_folder_is_the_test_split(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The best epoch is chosen on a part of train/, so that the accuracy is that of images which chose nothing."""
    files = class_files("train/", CLASSES) | class_files("val/", {"cat": 4, "dog": 5}, seed=2_000_000)
    assert counts(as_folder(tmp_path, files)) == {"train": [9, 18], "validation": [1, 2], "test": [4, 5]}
    (line,) = capfd.readouterr().err.splitlines()
    assert all(word in line for word in (str(tmp_path), "val/", "test", "10%", "train/"))


@pytest.mark.parametrize("extra", [{}, {"README.md": b"", "docs/x.txt": b""}])
@pytest.mark.parametrize("top", ["", "pets/", "archive/pets/"])
def test_train_alone_is_split_80_10_10(
    tmp_path: Path, top: str, extra: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    files = class_files(f"{top}train/", CLASSES) | {f"{top}{name}": content for name, content in extra.items()}
    assert counts(as_zip(tmp_path / "train.zip", files)) == {"train": [8, 16], "validation": [1, 2], "test": [1, 2]}
    (line,) = capfd.readouterr().err.splitlines()
    assert "train.zip" in line and "train/" in line and "80/10/10" in line


@pytest.mark.parametrize("names", [("valid", "invalid"), ("dev", "prod")])
def test_names_of_validation_are_classes_without_a_train_or_test_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    assert set(imagefolder.classes(as_folder(tmp_path, class_files("", dict.fromkeys(names, 5))))) == set(names)


def test_folders_without_images_beside_the_splits_are_ignored(tmp_path: Path) -> None:
    files = divided_files(CLASSES) | {"annotations/cat.json": b"{}", ".cache/x.png": b"", "__MACOSX/train/a.png": b""}
    assert counts(as_folder(tmp_path, files)) == counts(as_folder(tmp_path / "clean", divided_files(CLASSES)))


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


def test_class_names_are_the_same_in_composed_and_decomposed_unicode(tmp_path: Path) -> None:
    """macOS and its zips decompose: é is e and an accent."""
    files = class_files("train/", {"caf\u00e9": 5, "\u65e5\u672c \U0001f431": 5})
    files |= class_files("test/", {"cafe\u0301": 2, "\u65e5\u672c \U0001f431": 2}, seed=50)
    data = as_zip(tmp_path / "x.zip", files)
    assert imagefolder.classes(data) == ("caf\u00e9", "\u65e5\u672c \U0001f431")
    assert counts(data) == {"train": [4, 4], "validation": [1, 1], "test": [2, 2]}


def test_long_names_and_names_with_spaces_and_newlines_are_read(tmp_path: Path) -> None:
    odd = {f"{'c' * 255}/{'n' * 251}.png": synthetic.png(90), "two words/a\nb c.png": synthetic.png(91)}
    data = as_folder(tmp_path, class_files("", {"c" * 255: 5, "two words": 5}) | odd)
    assert imagefolder.classes(data) == ("c" * 255, "two words")
    assert sum(len(imagefolder.load(data, split, synthetic.GREY)) for split in SPLITS) == 12


def test_hidden_files_and_other_file_types_are_ignored(tmp_path: Path) -> None:
    junk = dict.fromkeys(("README.md", "cat/.DS_Store", "cat/._000.png", ".git/x.png", "__MACOSX/cat/a.png"), b"no")
    files = class_files("", CLASSES)
    clean, messy = as_folder(tmp_path / "clean", files), as_folder(tmp_path / "messy", files | junk)
    zipped = as_zip(tmp_path / "messy.zip", files | junk)
    hashes = {imagefolder.load(data, "train", synthetic.GREY).sha256 for data in (clean, messy, zipped)}
    assert len(hashes) == 1


# -- images that are not used ------------------------------------------------------------------------------------------


def test_every_suffix_that_pillow_reads_counts_as_an_image(tmp_path: Path) -> None:
    forms = {"tif": "TIFF", "TIFF": "TIFF", "jfif": "JPEG", "jpe": "JPEG", "ppm": "PPM", "pgm": "PPM", "avif": "AVIF"}
    odd = {
        f"cat/odd.{suffix}": synthetic.encoded(synthetic.pixels(i, 8), form)
        for i, (suffix, form) in enumerate(forms.items())
    }
    data = as_folder(tmp_path, class_files("", CLASSES) | odd)
    assert sum(sum(own) for own in counts(data).values()) == 30 + len(forms)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_of_other_formats_are_counted_in_one_line(
    tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    others = {"cat/a.heic": b"", "cat/b.HEIC": b"", "dog/a.psd": b""}
    files = {f"pets/{name}": content for name, content in (class_files("", CLASSES) | others).items()}
    data = as_folder(tmp_path / "x", files) if form == "folder" else as_zip(tmp_path / "x.zip", files)
    assert counts(data)["train"] == [8, 16]
    (line,) = capfd.readouterr().err.splitlines()
    assert all(word in line for word in (str(data), "3 images", "2 .heic", "1 .psd", "pets/cat/a.heic"))


@pytest.mark.parametrize(
    ("files", "count", "first"),
    [
        (class_files("", CLASSES) | {"b.png": b"", "a.jpg": b""}, 2, "a.jpg"),
        (divided_files(CLASSES) | {"test/z.png": b"", "logo.png": b""}, 2, "logo.png"),
        (class_files("pets/", CLASSES) | {"pets/a.png": b"", "b.png": b""}, 2, "b.png"),
        (class_files("", CLASSES) | class_files("cat/", {"grey": 3}, seed=50), 3, "cat/grey/000.png"),
    ],
    ids=["in the root", "beside splits", "beside the top folder", "in folders of a class"],
)
def test_images_in_unexpected_places_are_counted_in_one_line(
    tmp_path: Path, files: dict[str, bytes], count: int, first: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = as_folder(tmp_path / "x", files)
    imagefolder.classes(data)
    (line,) = capfd.readouterr().err.splitlines()
    assert f" {count} images" in line and line.endswith(f"first {data}/{first}")
    imagefolder.load(data, "test", synthetic.GREY)
    assert capfd.readouterr().err == "", "each line is printed once"


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
    "no train": (class_files("test/", CLASSES), "test/ but no train/"),
    "no train, but validation": (class_files("test/", CLASSES) | class_files("valid/", CLASSES), "no train/"),
    "a class that is only in test": (divided_files(CLASSES) | {"test/bird/a.png": b""}, "only test/ has 'bird'"),
    "a class that is only in train": (
        divided_files(CLASSES) | class_files("train/", {"bird": 5}),
        "test/ lacks 'bird'",
    ),
    "a class that is only in val": (
        divided_files(CLASSES) | class_files("val/", {"cat": 1, "owl": 1}),
        "only val/ has 'owl' and val/ lacks 'dog'",
    ),
    "two validation folders": (
        divided_files(CLASSES) | class_files("val/", CLASSES) | class_files("validation/", CLASSES),
        "val/ and validation/",
    ),
    "two validation folders alone": (class_files("val/", CLASSES) | class_files("valid/", CLASSES), "val/ and valid/"),
    "two test folders": (divided_files(CLASSES) | class_files("Test/", CLASSES), "Test/ and test/"),
    "other folders with images": (
        divided_files(CLASSES) | {"extra/a.png": b"", "unlabelled/b/c.png": b""},
        "extra/, unlabelled/ .* train/, test/",
    ),
    "another folder beside train": (class_files("train/", CLASSES) | {"holdout/cat/a.heic": b""}, "holdout/ .* train/"),
    "classes beside a class called train": (class_files("", {"car": 5, "train": 5}), "car/ .* train/"),
    "a class without readable images": (
        class_files("", CLASSES) | {"bird/a.heic": b"", "bird/b.heic": b""},
        r"bird: .* no image and 2 images \(2 \.heic\)",
    ),
    "no readable images": ({"cat/a.heic": b"", "dog/a.svg": b""}, r"no images; 2 images \(1 \.heic, 1 \.svg\)"),
    "a class name with a newline": (class_files("", CLASSES | {"a\nb": 5}), r"'a\\nb'"),
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


def test_a_class_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    data = as_folder(tmp_path, class_files("", CLASSES))
    os.mkdir(os.fsencode(data) + b"/caf\xe9")  # noqa: PTH102
    with pytest.raises(BadData, match=r"caf\\udce9"):
        imagefolder.classes(data)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"no images: .*class folders"):
        imagefolder.classes(tmp_path)
