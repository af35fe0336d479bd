"""The contract of all datasets. A new file in pipeline/datasets/ needs a maker here unless it is embedded."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import registry, sources
from pipeline.core import Audio, Preprocessing, Standardization
from pipeline.datasets import SPLITS, Dataset, Split
from pipeline.errors import BadData, BadModel, BadOption
from tests.datasets import synthetic

ROOT = Path(__file__).parents[2]
NAMES = registry.names("datasets")
CLASSES = {"cat": 40, "dog": 60}

MASKS = {f"{i}": np.roll(np.eye(32, dtype=np.uint8) + 2 * np.eye(32, k=9, dtype=np.uint8), i) for i in range(40)}

MAKERS = {
    "audiofolder": lambda folder: synthetic.as_folder(
        folder / "sounds", synthetic.sound_files("", {"low": 300.0, "high": 1500.0}, 30)
    ),
    "maskfolder": lambda folder: synthetic.as_zip(folder / "masks.zip", synthetic.mask_files(MASKS)),
    "voc": lambda folder: synthetic.as_zip(folder / "voc.zip", synthetic.voc_files()),
    "coco": lambda folder: synthetic.as_folder(folder / "coco", synthetic.coco_files()),
    "yolo": lambda folder: synthetic.as_zip(folder / "yolo.zip", synthetic.yolo_files()),
    "fsdd": lambda folder: synthetic.as_zip(folder / "fsdd.zip", synthetic.spoken_digits()),
    "wearable": lambda folder: synthetic.as_folder(folder / "trials", synthetic.trials()),
    "seriescsv": lambda folder: synthetic.as_zip(folder / "series.zip", synthetic.series_files()),
    "textlist": lambda folder: synthetic.text_list(folder / "texts.tsv", synthetic.messages()),
    "arrays": lambda folder: synthetic.as_arrays(folder / "arrays", CLASSES),
    "cifar10": lambda folder: synthetic.as_tar(folder / "cifar-10-python.tar.gz", synthetic.official_files()),
    "imagefolder": lambda folder: synthetic.as_folder(folder / "images", synthetic.class_files("", CLASSES)),
}


SOUND = Audio(8000, 4000, (0.0,), (1.0,))
TEXT = sources.find("text_tiny_transformer")
assert TEXT.spec.tokens is not None
TOKENS = replace(TEXT.spec.tokens, tokenizer=str(TEXT.folder / TEXT.spec.tokens.tokenizer))
USUAL = {"audiofolder": SOUND, "fsdd": SOUND, "textlist": TOKENS}


@dataclass(frozen=True)
class DatasetWithData:
    """A dataset with data for it."""

    module: Dataset
    data: Path | None

    def load(self, split: str, preprocessing: Preprocessing | None = None) -> Split:
        usual = synthetic.RGB if self.module.IMAGES else USUAL.get(self.name, Standardization((0.0,), (1.0,)))
        return self.module.load(self.data, split, preprocessing or usual)

    @property
    def name(self) -> str:
        return str(self.module.__name__).rpartition(".")[2]  # type: ignore[attr-defined]  # it is a module


def with_data(name: str, tmp_path_factory: pytest.TempPathFactory) -> DatasetWithData:
    module: Dataset = registry.load("datasets", name)
    return DatasetWithData(module, None if module.EMBEDDED else MAKERS[name](tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module", params=NAMES)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DatasetWithData:
    return with_data(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=[name for name in NAMES if registry.load("datasets", name).IMAGES])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DatasetWithData:
    return with_data(request.param, tmp_path_factory)


def test_importing_them_loads_no_heavy_package() -> None:
    code = (
        "import sys; from pipeline import registry\nfor n in registry.names('datasets'): registry.load('datasets', n)\n"
    )
    code += "print([m for m in ('numpy', 'PIL', 'sklearn', 'torch', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_its_summary_is_one_line(dataset: DatasetWithData) -> None:
    assert dataset.module.SUMMARY and "\n" not in dataset.module.SUMMARY
    assert isinstance(dataset.module.EMBEDDED, bool) and isinstance(dataset.module.IMAGES, bool)


def test_its_classes_are_distinct_names_or_none(dataset: DatasetWithData) -> None:
    names = dataset.module.classes(dataset.data)
    assert isinstance(names, tuple) and len(set(names)) == len(names) != 1
    assert all(isinstance(name, str) and name for name in names)
    assert names or not dataset.module.IMAGES


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_every_class_or_numbers(dataset: DatasetWithData, split: str) -> None:
    labels, names = dataset.load(split).labels, dataset.module.classes(dataset.data)
    if labels.dtype == np.uint8:  # masks
        assert labels.ndim == 3 and labels.max() < len(names)
        return
    if labels.ndim == 3:  # boxes
        assert labels.dtype == np.float32 and set(labels[:, :, 0].ravel()) - {-1} == set(range(len(names)))
        return
    if not names:
        assert labels.dtype == np.float32 and labels.ndim == 2 and np.isfinite(labels).all()
        return
    assert labels.dtype == np.int64 and labels.ndim == 1
    assert sorted(set(labels.tolist())) == list(range(len(names)))


def test_the_splits_share_no_sample(dataset: DatasetWithData) -> None:
    train, validation, test = (set(synthetic.contents(dataset.load(split))) for split in SPLITS)
    assert not (train & validation or train & test or validation & test)
    assert len(train) > len(validation) and train and test


@pytest.mark.parametrize(("color", "channels"), [("RGB", 3), ("L", 1)])
def test_an_image_has_the_shape_of_the_preprocessing(images: DatasetWithData, color: str, channels: int) -> None:
    split = images.load("test", Preprocessing(color, 20, 12, (0.0,), (1.0,)))
    image = split.read(0)
    assert image.dtype == np.uint8 and image.shape == (12, 12, channels)
    assert image.flags.writeable
    assert np.array_equal(split.inputs([1, 0]), np.stack([split.read(1), image]))


def test_pixels_use_the_range_0_to_255(images: DatasetWithData) -> None:
    pixels = images.load("test").inputs(range(8))
    assert pixels.min() < 16 and pixels.max() > 239


def test_samples_that_are_no_images_are_vectors_or_series_of_floats_or_token_ids(dataset: DatasetWithData) -> None:
    if not dataset.module.IMAGES:
        inputs = dataset.load("test").inputs([1, 0])
        assert inputs.dtype == (np.int32 if dataset.name == "textlist" else np.float32)
        assert inputs.ndim in (2, 3) and len(inputs) == 2 and np.isfinite(inputs).all()


def test_loading_twice_gives_the_same_split(dataset: DatasetWithData) -> None:
    one, two = dataset.load("train"), dataset.load("train")
    assert one.sha256 == two.sha256 and len(one.sha256) == 64
    assert np.array_equal(one.labels, two.labels) and np.array_equal(one.read(3), two.read(3))


def test_the_hash_differs_between_splits(dataset: DatasetWithData) -> None:
    assert len({dataset.load(split).sha256 for split in SPLITS}) == 3


def test_the_hash_differs_between_preprocessings(images: DatasetWithData) -> None:
    one, other = (images.load("test", replace(synthetic.RGB, crop=crop)).sha256 for crop in (32, 16))
    assert one != other


def test_other_processes_read_the_same_samples(dataset: DatasetWithData) -> None:
    split = dataset.load("test")
    expected = [split.read(i).tobytes() for i in range(4)]
    assert pickle.loads(pickle.dumps(split)).read(3).tobytes() == expected[3]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        images = pool.map(split.read, range(4), chunksize=1)
    assert [image.tobytes() for image in images] == expected


def test_an_unknown_split_is_refused(dataset: DatasetWithData) -> None:
    with pytest.raises(BadOption, match=r"'val'.*train, validation, test"):
        dataset.load("val")


@pytest.mark.parametrize("wrong", [{"color": "BGR"}, {"crop": 33}, {"crop": 0}])
def test_an_invalid_preprocessing_is_refused(images: DatasetWithData, wrong: dict[str, object]) -> None:
    with pytest.raises(BadModel, match=r"'BGR'|crop .*\(32\)"):
        images.load("test", replace(synthetic.RGB, **wrong))  # type: ignore[arg-type]


def test_data_is_required_unless_the_dataset_is_embedded(dataset: DatasetWithData, tmp_path: Path) -> None:
    data = tmp_path if dataset.module.EMBEDDED else None
    for call in (dataset.module.classes, lambda data: dataset.module.load(data, "test", synthetic.RGB)):
        with pytest.raises(BadData, match="--data"):
            call(data)


def test_a_missing_path_is_named(dataset: DatasetWithData, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="nowhere"):
        dataset.module.classes(tmp_path / "nowhere")
