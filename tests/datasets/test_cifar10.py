"""CIFAR-10 in its three formats. Official batches are read without running code in their pickles."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import Preprocessing
from pipeline.datasets import SPLITS, _cifar_batches, cifar10
from pipeline.errors import BadData
from tests.datasets import synthetic
from tests.datasets.synthetic import as_folder, as_tar, as_zip, class_files, contents, divided_files, official_files

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10-imagefolder.zip"


# -- the official format -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["archive", "folder", "parent folder"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "archive":
        return as_tar(tmp_path / "cifar-10-python.tar.gz", official_files())
    folder = as_folder(tmp_path, official_files())
    return folder if request.param == "parent folder" else folder / "cifar-10-batches-py"


def test_every_official_format_gives_the_same_splits(official: Path) -> None:
    assert cifar10.classes(official) == cifar10.CLASSES
    splits = {name: cifar10.load(official, name, synthetic.RGB) for name in SPLITS}
    assert {name: len(split) for name, split in splits.items()} == {"train": 180, "validation": 20, "test": 40}
    assert set(Counter(splits["validation"].labels.tolist()).values()) == {2}
    assert splits["train"].labels[:6].tolist() == [3, 1, 7, 6, 3, 2]


def test_pixels_and_labels_match_the_batches(official: Path) -> None:
    truth = {synthetic.pixels(n * 40 + i).tobytes(): i % 10 for n in range(6) for i in range(40)}
    for split in (cifar10.load(official, name, synthetic.RGB) for name in SPLITS):
        assert [truth[content] for content in contents(split)] == split.labels.tolist()


def test_arrays_pickled_by_a_current_numpy_are_read_as_well() -> None:
    images = np.stack([synthetic.pixels(i) for i in range(6)])
    planes = np.asfortranarray(images.transpose(0, 3, 1, 2).reshape(6, -1))
    modern = pickle.dumps({b"data": planes, b"labels": [1] * 6}, protocol=4)
    for content in (modern, synthetic.batch(images, [1] * 6)):
        pixels, labels = _cifar_batches._checked("x", _cifar_batches._loads(content, "x"))
        assert np.array_equal(pixels, planes) and labels == [1] * 6


# -- malicious and corrupt pickles -------------------------------------------------------------------------------------


class Runs:
    """Unpickles to the result of a call."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def attacks(trace: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would create the file `trace`, each with the global for which it must be refused."""
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    path = str(trace).encode()
    by_hand = b"\x80\x02cos\nsystem\nU" + bytes([len(path) + 6]) + b"touch " + path + b"\x85R."
    late = synthetic.batch(synthetic.pixels(0)[None], [0])[:-1] + b"0" + by_hand[2:]
    getattr_ = b"cbuiltins\ngetattr\n(cnumpy\nndarray\nU\x09__class__tR."
    return {
        "exec": (pickle.dumps(Runs(exec, code)), "builtins.exec"),
        "eval, in a batch": (pickle.dumps({b"data": Runs(eval, code), b"labels": []}, protocol=3), "builtins.eval"),
        "a system call": (by_hand, "os.system"),
        "after a good batch": (late, "os.system"),
        "attributes of allowed types": (getattr_, "builtins.getattr"),
        "another function of numpy": (b"cnumpy\nload\nU\x01x\x85R.", "numpy.load"),
        "a module through numpy": (
            b"\x80\x04\x8c\x05numpy\x8c\x13core.os.path.exists\x93.",
            "numpy.core.os.path.exists",
        ),
        "Python 2's builtins": (b"c__builtin__\neval\nU\x011\x85R.", "__builtin__.eval"),
        "copyreg": (b"\x80\x02\x82\x01.", "extension"),
    }


@pytest.mark.parametrize("what", attacks(Path("trace")))
@pytest.mark.parametrize("member", ["data_batch_3", "batches.meta"])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_a_pickle_with_code_is_refused_without_running_it(tmp_path: Path, form: str, member: str, what: str) -> None:
    trace = tmp_path / "trace"
    content, refused = attacks(trace)[what]
    files = official_files(10) | {f"cifar-10-batches-py/{member}": content}
    data = as_folder(tmp_path / "x", files) if form == "folder" else as_tar(tmp_path / "x.tar.gz", files)
    with pytest.raises(BadData, match=refused) as caught:
        cifar10.classes(data)
        cifar10.load(data, "train", synthetic.RGB)
    assert member in str(caught.value)
    assert not trace.exists()


def test_pickle_itself_would_run_the_code(tmp_path: Path) -> None:
    pickle.loads(attacks(tmp_path / "trace")["exec"][0])
    assert (tmp_path / "trace").exists()


GOOD = synthetic.batch(synthetic.pixels(0)[None], [3])
NOT_BATCHES = {
    "empty": b"",
    "text": b"<html>404</html>",
    "truncated": GOOD[:1000],
    "a list": synthetic.python2_pickle([1, 2]),
    "without data": synthetic.python2_pickle({b"labels": [1]}),
    "too few labels": synthetic.batch(synthetic.pixels(0)[None], []),
    "a label out of range": synthetic.batch(synthetic.pixels(0)[None], [10]),
    "a label that is a string": synthetic.python2_pickle(
        {b"data": synthetic.pixels(0).reshape(1, -1), b"labels": [b"0"]}
    ),
    "another size": synthetic.python2_pickle({b"data": synthetic.pixels(0, 8).reshape(1, -1), b"labels": [0]}),
    "another dtype": GOOD.replace(b"U\x02u1", b"U\x02f8"),
    "a shape that does not match its size": GOOD.replace(b"J\x00\x0c\x00\x00", b"J\x01\x0c\x00\x00"),
    "an array without state": pickle.dumps({b"data": np.ndarray, b"labels": []}, protocol=2),
}


@pytest.mark.parametrize("what", NOT_BATCHES)
def test_an_invalid_batch_is_refused_by_name(tmp_path: Path, what: str) -> None:
    data = as_folder(tmp_path, official_files(10) | {"cifar-10-batches-py/test_batch": NOT_BATCHES[what]})
    with pytest.raises(BadData, match="cifar-10-batches-py/test_batch: "):
        cifar10.load(data, "test", synthetic.RGB)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_a_missing_batch_is_named(tmp_path: Path, form: str) -> None:
    files = official_files(10)
    del files["cifar-10-batches-py/data_batch_5"]
    data = as_folder(tmp_path, files) if form == "folder" else as_tar(tmp_path / "x.tar.gz", files)
    assert len(cifar10.load(data, "test", synthetic.RGB)) == 10
    with pytest.raises(BadData, match=r"data_batch_5"):
        cifar10.load(data, "train", synthetic.RGB)


def test_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = as_tar(tmp_path / "in" / "x.tar.gz", official_files(10, top="../../"))
    assert len(cifar10.load(data, "train", synthetic.RGB)) == 40
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "x.tar.gz"]


@pytest.mark.parametrize("keep", [0, 100, 50_000])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: int) -> None:
    data = as_tar(tmp_path / "cifar-10-python.tar.gz", official_files())
    data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(BadData, match=r"cifar-10-python\.tar\.gz: corrupt archive"):
        cifar10.load(data, "train", synthetic.RGB)


# -- image files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full dataset as a zip of image files if it is available, otherwise a small one of the same format."""
    if REAL.is_file():
        return REAL
    files = divided_files(dict.fromkeys(reversed(cifar10.CLASSES), 20), test=8, top="cifar10/")
    return as_zip(tmp_path_factory.mktemp("zip") / "cifar10.zip", files)


def test_image_files_keep_the_official_order_of_classes(images: Path) -> None:
    assert cifar10.classes(images) == cifar10.CLASSES


def test_image_files_are_split_evenly_per_class(images: Path) -> None:
    splits = {name: cifar10.load(images, name, synthetic.RGB) for name in SPLITS}
    train, validation, test = (np.bincount(split.labels, minlength=10) for split in splits.values())
    assert (train == train[0]).all() and (validation == validation[0]).all() and (test == test[0]).all()
    assert train[0] == 9 * validation[0]
    assert splits["test"].inputs(range(16)).shape == (16, 32, 32, 3)
    assert set(splits["train"].labels[:100].tolist()) == set(range(10))


def test_images_can_be_read_in_any_order(images: Path) -> None:
    split = cifar10.load(images, "test", synthetic.RGB)
    forward = [split.read(i).tobytes() for i in range(20)]
    assert [split.read(i).tobytes() for i in reversed(range(20))] == forward[::-1]


def test_other_class_names_are_sorted(tmp_path: Path) -> None:
    assert cifar10.classes(as_folder(tmp_path, divided_files({"zebra": 4, "ant": 4}))) == ("ant", "zebra")


def test_class_folders_without_train_and_test_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="--dataset imagefolder"):
        cifar10.classes(as_folder(tmp_path, class_files("", {"cat": 4, "dog": 4})))


def test_without_data_the_error_names_the_download_command() -> None:
    with pytest.raises(BadData, match=r"--data PATH.*inv data\.download --dataset cifar10"):
        cifar10.load(None, "test", synthetic.RGB)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_in_no_known_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.bin").write_bytes(content)
    with pytest.raises(BadData, match="neither a folder nor a zip"):
        cifar10.classes(tmp_path / "data.bin")


def test_images_are_resized_to_the_preprocessing(tmp_path: Path) -> None:
    data = as_tar(tmp_path / "cifar-10-python.tar.gz", official_files(10))
    assert cifar10.load(data, "test", Preprocessing("L", 24, 20, (0.0,), (1.0,))).read(0).shape == (20, 20, 1)
