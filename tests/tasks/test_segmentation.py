"""Segmentation: IoU and Dice held to scikit-learn's, masks that move with their images, and the way to the results."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score

from pipeline.core import Preprocessing
from pipeline.datasets import maskfolder
from pipeline.errors import BadData
from pipeline.system.store import Store
from pipeline.tasks import semantic_segmentation
from tests.datasets import synthetic
from tests.tasks.test_numbers import MEASURED, cells

SMALL = Preprocessing("RGB", 16, 16, (0.0,) * 3, (255.0,) * 3)


def random_case(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, (20, 12, 10)).astype(np.uint8)
    return random.normal(size=(20, 12, 10, classes)) + 2 * np.eye(classes)[labels], labels


@pytest.mark.parametrize("classes", [2, 5])
def test_the_metrics_are_those_of_scikit_learn(classes: int) -> None:
    outputs, labels = random_case(classes)
    predicted = outputs.argmax(-1)
    pairs = [(truth.ravel(), found.ravel()) for truth, found in zip(labels, predicted, strict=True)]
    expected = [jaccard_score(*pair, average="macro") for pair in pairs]
    assert semantic_segmentation.scores([outputs], labels) == pytest.approx(expected, abs=1e-12)
    figures = semantic_segmentation.figures([outputs], labels)
    assert figures["miou"] == pytest.approx(jaccard_score(labels.ravel(), predicted.ravel(), average="macro"))
    foreground = list(range(1, classes))
    dice = [f1_score(*pair, labels=foreground, average="macro") for pair in pairs]
    assert figures["dice"] == pytest.approx(np.mean(dice))


def test_a_class_that_is_in_neither_mask_does_not_count() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    assert semantic_segmentation.scores([np.eye(3)[labels]], labels).tolist() == [1.0]
    assert semantic_segmentation.figures([np.eye(3)[labels]], labels) == {"miou": 1.0, "dice": 1.0}


def test_a_mask_is_resized_and_cropped_as_its_image_is(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 20:45] = 1
    files = synthetic.mask_files({f"{i}": mask for i in range(10)})
    split = maskfolder.load(synthetic.as_folder(tmp_path / "data", files), "train", SMALL)
    assert split.labels.dtype == np.uint8 and split.labels.shape[1:] == (16, 16)
    bright = split.inputs([0])[0, ..., 0] > 127  # the image is bright where the mask is 1
    assert (bright == split.labels[0]).mean() > 0.97


def test_objects_are_one_class(tmp_path: Path) -> None:
    files = synthetic.mask_files(
        {f"{i}": np.arange(256, dtype=np.uint8).reshape(16, 16) for i in range(10)}, "instances"
    )
    data = synthetic.as_zip(tmp_path / "data.zip", files)
    assert maskfolder.classes(data) == ("background", "object")
    assert maskfolder.load(data, "test", SMALL).labels.max() == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"masks/3.png": None}, "3 is only in images"),
        ({"images/3.png": None}, "3 is only in masks"),
        ({"masks/3.png": b"no image"}, "mask of 3"),
        ({"masks/3.png": synthetic.encoded(np.zeros((9, 9), np.uint8))}, "mask of 3"),
        ({"masks/3.png": synthetic.encoded(np.zeros((16, 16, 3), np.uint8))}, "one channel"),
        ({"instances/4.png": synthetic.encoded(np.zeros((16, 16), np.uint8))}, "4 is only in|one mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_name(change: dict[str, bytes | None], named: str, tmp_path: Path) -> None:
    files = {**synthetic.mask_files({f"{i}": np.eye(16, dtype=np.uint8) for i in range(10)}), **change}
    data = synthetic.as_folder(tmp_path / "data", {name: value for name, value in files.items() if value is not None})
    with pytest.raises(BadData, match=named):
        for split in ("train", "validation", "test"):
            maskfolder.load(data, split, SMALL)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_unet_learns_masks_and_is_measured_by_its_iou(framework: str, tmp_path: Path) -> None:
    masks = {}
    for i in range(30):
        masks[f"{i}"] = np.zeros((96, 96), np.uint8)
        masks[f"{i}"][i : i + 40, 20 : 50 + i] = 1
    data = synthetic.as_folder(tmp_path / "data", synthetic.mask_files(masks))
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    found = cells(
        Store(tmp_path / "build"), targets, model="unet_small", data=data, frameworks=framework, epochs=5, batch_size=4
    )
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    for (recipe, _), cell in found.items():
        assert cell.metric == "iou" and (cell.accuracy or 0) > 0.8
        assert abs(cell.drop_points or 0) < (0.01 if recipe == "fp32" else 2)
        assert cell.figures["miou"] > 0.8 and cell.figures["dice"] > 0.7 and cell.agreement is None
        assert recipe == "fp32" or (cell.coverage is not None and cell.coverage.multiply_adds == 1)


def test_a_mask_of_sixteen_bits_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray((np.eye(16) * 3000).astype(np.uint16)).save(buffer, "PNG")
    files = synthetic.mask_files({f"{i}": np.eye(16, dtype=np.uint8) for i in range(10)}, "instances")
    files["instances/3.png"] = buffer.getvalue()
    data = synthetic.as_folder(tmp_path / "data", files)
    assert all(maskfolder.load(data, split, SMALL).labels.max() == 1 for split in ("train", "test"))
