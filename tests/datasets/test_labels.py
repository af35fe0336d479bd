"""The order of the labels: a model's outputs are in the order of SPEC.labels, and datasets are matched by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline import datasets, registry, sources
from pipeline.core import ModelSpec
from pipeline.datasets import SPLITS, Dataset, Split, imagefolder, order_note
from pipeline.errors import BadData, BadOption
from tests.datasets import synthetic
from tests.datasets.synthetic import as_folder, class_files


def spec_of(*labels: str, classes: int = 0) -> ModelSpec:
    spec = sources.find("resnet8").spec
    outputs = (dataclasses.replace(spec.outputs[0], shape=(classes or len(labels),)),)
    return dataclasses.replace(spec, labels=labels, outputs=outputs, preprocessing=synthetic.RGB)


def names(split: Split, labels: tuple[str, ...]) -> dict[bytes, str]:
    """Every image with the name of its class."""
    return {split.read(i).tobytes(): labels[label] for i, label in enumerate(split.labels)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_folder(tmp_path_factory.mktemp("data"), class_files("", {"bar": 6, "disc": 5, "ring": 4}))


def test_labels_are_in_the_order_of_the_model(data: Path) -> None:
    spec = spec_of("ring", "bar", "disc")
    for split in SPLITS:
        own = imagefolder.load(data, split, spec.preprocessing)
        mapped = datasets.load(imagefolder, data, split, spec, Path())
        assert names(mapped, spec.labels) == names(own, ("bar", "disc", "ring"))
        assert mapped.labels.dtype == np.int64 and mapped.contents == own.contents
        assert mapped.sha256 != own.sha256, "files made with other labels are not up to date"


def test_two_orders_give_two_hashes(data: Path) -> None:
    orders = [("ring", "bar", "disc"), ("disc", "ring", "bar"), ("bar", "disc", "ring")]
    assert len({datasets.load(imagefolder, data, "test", spec_of(*order), Path()).sha256 for order in orders}) == 3


def test_a_model_with_the_order_of_the_dataset_gets_its_split_unchanged(data: Path) -> None:
    spec = spec_of("bar", "disc", "ring")
    split = datasets.load(imagefolder, data, "test", spec, Path())
    assert split.sha256 == imagefolder.load(data, "test", spec.preprocessing).sha256


def test_every_dataset_follows_the_order_of_the_model() -> None:
    digits: Dataset = registry.load("datasets", "digits")
    spec = dataclasses.replace(sources.find("digits_cnn").spec, labels=tuple("9876543210"))
    own, mapped = digits.load(None, "test", spec.preprocessing), datasets.load(digits, None, "test", spec, Path())
    assert np.array_equal(mapped.labels, 9 - own.labels)


def test_the_labels_of_spec_stay_and_the_data_must_have_the_same_names() -> None:
    model = dataclasses.replace(sources.find("resnet8"), spec=spec_of("ring", "bar", "disc"))
    assert sources.fitted(model, ("bar", "disc", "ring")) == model
    with pytest.raises(BadData) as caught:
        sources.fitted(model, ("bar", "Disc", "ring", "square"))
    assert all(repr(name) in str(caught.value) for name in ("disc", "Disc", "square"))
    assert not any(repr(name) in str(caught.value) for name in ("ring", "bar"))


def test_without_labels_in_spec_the_order_is_that_of_the_dataset() -> None:
    model = dataclasses.replace(sources.find("resnet8"), spec=spec_of(classes=3))
    assert sources.fitted(model, ("c", "a", "b")).spec.labels == ("c", "a", "b")
    with pytest.raises(BadOption, match=r"3 classes.* 2"):
        sources.fitted(model, ("a", "b"))


@pytest.mark.parametrize(
    ("sorted_as_text", "position", "name", "by_number"),
    [
        (sorted(str(i) for i in range(11)), 2, "10", "2"),
        (["class_1", "class_10", "class_9"], 1, "class_10", "class_9"),
        (["Zebra", "ant"], 0, "Zebra", "ant"),
    ],
)
def test_a_line_says_where_sorting_by_number_would_differ(
    sorted_as_text: list[str], position: int, name: str, by_number: str
) -> None:
    note = order_note(sorted_as_text)
    assert note is not None and all(word in note for word in (f"output {position} ", repr(name), repr(by_number)))


@pytest.mark.parametrize("same", [list("0123456789"), ["007", "010", "100"], ["cat", "dog"], ["b", "a"]])
def test_there_is_no_line_where_both_orders_agree_or_the_dataset_has_its_own(same: list[str]) -> None:
    assert order_note(same) is None
