"""Detection: mAP held to pycocotools', boxes that move with their images, and the way to the results."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline import registry, stats
from pipeline.core import Preprocessing
from pipeline.datasets import _images, coco, voc
from pipeline.errors import BadData
from pipeline.system import tensorboard
from pipeline.system.store import Store
from pipeline.tasks import object_detection
from tests.datasets import synthetic
from tests.tasks.test_numbers import MEASURED, cells

CLASSES = 3
LETTERBOX = Preprocessing("RGB", 32, 32, (0.0,) * 3, (255.0,) * 3, "letterbox")
CROP = Preprocessing("RGB", 40, 32, (0.0,) * 3, (255.0,) * 3)


def random_case(images: int, ignored: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """Outputs of 150 anchors that find most of up to 20 boxes of an image, some of them twice, and find others too."""
    random = np.random.default_rng(int(ignored))
    labels = np.zeros((images, 20, 6), np.float32)
    labels[:, :, 0] = -1
    boxes = np.sort(random.uniform(0, 1, (images, 150, 2, 2)), axis=2).reshape(images, 150, 4)
    logits = np.full((images, 150, CLASSES), -6.0)
    logits[:, 60:70] = random.normal(-2, 1, (images, 10, CLASSES))
    for own, found, scores in zip(labels, boxes, logits, strict=True):
        count = int(random.integers(0, 20))
        centre, size = random.uniform(0.2, 0.8, (count, 2)), random.uniform(0.1, 0.3, (count, 2))
        own[:count, 0], own[:count, 1:3], own[:count, 3:5] = random.integers(0, CLASSES, count), *(
            centre - size / 2, centre + size / 2
        )  # fmt: skip
        own[:count, 5] = random.uniform(size=count) < 0.2 * ignored
        for place in range(count):
            anchors = slice(3 * place, 3 * place + 3)
            found[anchors] = own[place, 1:5] + random.normal(0, 0.01, (3, 4))
            scores[anchors, int(own[place, 0])] = random.normal(1, 1.5, 3)
    return [boxes, logits], labels


def of_pycocotools(outputs: list[np.ndarray], labels: np.ndarray) -> tuple[float, float]:
    """mAP and mAP at 0.5 of the same detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def corners(box: np.ndarray) -> list[float]:
        top, left, bottom, right = map(float, box)
        return [left, top, right - left, bottom - top]

    true = [
        {"image_id": i + 1, "category_id": int(row[0]) + 1, "bbox": corners(row[1:5]), "iscrowd": 0, "hard": row[5]}
        for i, own in enumerate(labels) for row in own if row[0] >= 0
    ]  # fmt: skip
    true = [{**each, "id": i + 1, "area": each["bbox"][2] * each["bbox"][3]} for i, each in enumerate(true)]
    found = [
        {"image_id": i + 1, "category_id": int(row[0]) + 1, "bbox": corners(row[2:]), "score": float(row[1])}
        for i, one in enumerate(zip(*outputs, strict=True)) for row in object_detection.detections(*one)
    ]  # fmt: skip

    class Eval(COCOeval):  # type: ignore[misc]  # no types
        def _prepare(self) -> None:
            super()._prepare()
            for own in self._gts.values():
                for each in own:
                    each["ignore"] = int(each["hard"])

    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": [{"id": i + 1} for i in range(len(labels))],
            "categories": [{"id": i + 1} for i in range(CLASSES)],
            "annotations": true,
        }
        data.createIndex()
        evaluation = Eval(data, data.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


@pytest.mark.parametrize("ignored", [False, True])
def test_the_metrics_are_those_of_pycocotools(ignored: bool) -> None:
    outputs, labels = random_case(72, ignored)
    whole, half = of_pycocotools(outputs, labels)
    assert 0.3 < whole < half < 1
    assert object_detection.scores(outputs, labels).mean() == pytest.approx(whole, abs=1e-9)
    assert object_detection.figures(outputs, labels)["map50"] == pytest.approx(half, abs=1e-9)


def test_the_scores_have_the_standard_error_of_a_bootstrap() -> None:
    outputs, labels = random_case(40, False)
    random, detection = np.random.default_rng(0), object_detection
    drawn = (random.integers(0, 40, 40) for _ in range(150))
    means = [detection._mean(detection._matched([e[some] for e in outputs], labels[some]), range(10)) for some in drawn]
    error = detection.scores(outputs, labels).std(ddof=1) / np.sqrt(40)
    assert error == pytest.approx(np.std(means, ddof=1), rel=0.25)


def test_a_jackknife_of_a_mean_gives_the_samples_themselves() -> None:
    values = np.random.default_rng(0).normal(size=20)
    without = [np.delete(values, i).mean() for i in range(20)]
    assert stats.jackknife(float(values.mean()), np.array(without)) == pytest.approx(values)


def test_of_boxes_of_a_class_that_overlap_the_best_is_kept() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.01, 0, 0.5, 0.5], [0.01, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    logits = np.array([[1, -9], [2, -9], [-9, 0.5], [-9, -9]], float)
    found = object_detection.detections(boxes, logits)
    assert found[:, 0].tolist() == [0, 1] and found[0, 2:].tolist() == boxes[1].tolist()
    assert found[0, 1] == pytest.approx(1 / (1 + np.exp(-2)))


def test_images_without_boxes_and_without_detections_have_no_precision() -> None:
    labels = np.full((3, 1, 6), -1, np.float32)
    outputs = [np.zeros((3, 5, 4)), np.full((3, 5, 2), -20.0)]
    assert object_detection.scores(outputs, labels).tolist() == [0.0] * 3


# -- images and boxes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 48), (48, 60), (33, 97), (32, 32), (7, 5)])
def test_a_letterbox_is_pillows(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    expected = ImageOps.pad(image, (32, 32), Image.Resampling.BILINEAR, color=(114, 114, 114))
    assert np.array_equal(_images.fit(image, LETTERBOX), np.array(expected))


@pytest.mark.parametrize("name", ["voc", "coco", "yolo"])
@pytest.mark.parametrize("preprocessing", [LETTERBOX, CROP])
def test_boxes_move_with_their_images(name: str, preprocessing: Preprocessing, tmp_path: Path) -> None:
    data = synthetic.as_zip(tmp_path / "data.zip", getattr(synthetic, f"{name}_files")())
    split = registry.load("datasets", name).load(data, "train", preprocessing)
    assert len(split) > 20 and split.labels.dtype == np.float32 and split.labels.shape[1:] == (2, 6)
    for image, boxes in zip(split.inputs(range(len(split))), split.labels, strict=True):
        for label, top, left, bottom, right, ignored in boxes[boxes[:, 0] >= 0]:
            assert label in (0, 1) and ignored == 0
            rows, columns = (slice(*(int(side) for side in (32 * np.array(each)).round())) for each in
                             ((top, bottom), (left, right)))  # fmt: skip
            if min(bottom - top, right - left) > 0.1:
                assert image[rows, columns].mean() > 140  # a bright square, with its blurred edges


def test_the_formats_have_the_same_boxes(tmp_path: Path) -> None:
    boxes = []
    for module in (voc, coco):
        name = module.__name__.rpartition(".")[2]
        data = synthetic.as_folder(tmp_path / name, getattr(synthetic, f"{name}_files")())
        assert module.classes(data) == ("a", "b")
        found = [module.load(data, split, LETTERBOX) for split in ("train", "validation", "test")]
        boxes.append({tuple(map(tuple, own)) for split in found for own in split.labels.round(5).tolist()})
    assert boxes[0] == boxes[1] and len(boxes[0]) == 40


def test_a_box_that_is_difficult_does_not_count_and_one_without_area_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = synthetic.voc_files()
    name = "data/Annotations/003.xml"
    text = files[name].decode().replace("<difficult>0", "<difficult>1", 1)
    files[name] = text.replace("</annotation>", synthetic_object("b", 9, 9, 9, 20)).encode()
    data = synthetic.as_folder(tmp_path / "data", files)
    labels = np.concatenate([voc.load(data, split, LETTERBOX).labels for split in ("train", "validation", "test")])
    assert labels[:, :, 5].sum() == 1 and (labels[:, :, 0] >= 0).sum() == 80
    assert "003.xml, object 3" in capsys.readouterr().err


def synthetic_object(name: str, left: int, top: int, right: int, bottom: int) -> str:
    sides = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object></annotation>"


COCO = json.loads(synthetic.coco_files()["annotations/instances.json"])


def changed(change: dict[str, object]) -> bytes:
    """COCO's file with one annotation, changed."""
    return json.dumps({**COCO, "annotations": [{**COCO["annotations"][0], **change}]}).encode()


@pytest.mark.parametrize(
    ("name", "file", "content", "named"),
    [
        ("voc", "data/Annotations/003.xml", b"<annotation>", "003.xml is not XML"),
        ("voc", "data/Annotations/003.xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "entities"),
        ("voc", "data/Annotations/003.xml", synthetic_object("", 1, 1, 9, 9).encode(), "003"),
        ("voc", "data/Annotations/003.xml", b"<a><object><name>a</name></object></a>", "003.xml, object 1.*xmin"),
        ("voc", "data/Annotations/003.xml", b"<a><size><width>9</width><height>9</height></size></a>", "60×48"),
        ("voc", "data/JPEGImages/003.png", None, "003"),
        ("voc", "data/JPEGImages/003.png", b"no image", "003.png"),
        ("voc", "data/ImageSets/Main/train.txt", b"003\nnone\n", "none"),
        ("coco", "annotations/instances.json", b"{", "not JSON"),
        ("coco", "annotations/instances.json", b"{}", "no annotations"),
        ("coco", "pictures/003.png", None, "image 3"),
        *[
            ("coco", "annotations/instances.json", changed(change), "annotation 0|image 99")
            for change in (
                {"bbox": [1, 2, 3]}, {"bbox": "1 2 3 4"}, {"category_id": 7}, {"image_id": 99}, {"image_id": "a"}
            )
        ],
        ("yolo", "data.yaml", b"names: [a, b", "not YAML"),
        ("yolo", "data.yaml", b"names: [a, a]\ntrain: images/train\n", "names"),
        ("yolo", "data.yaml", b"names: [a, b]\ntrain: ../../etc\n", "outside"),
        ("yolo", "data.yaml", b"names: [a, b]\ntrain: nowhere\n", "nowhere"),
        ("yolo", "labels/train/003.txt", b"0 0.5 0.5 0.1 0.1\n0 0.5 0.5\n", "003.txt, line 2"),
        ("yolo", "labels/train/003.txt", b"5 0.5 0.5 0.1 0.1\n", "003.txt, line 1: class 5"),
    ],
)  # fmt: skip
def test_annotations_that_do_not_fit_are_refused_by_name(
    name: str, file: str, content: bytes | None, named: str, tmp_path: Path
) -> None:
    files: dict[str, bytes | None] = {**getattr(synthetic, f"{name}_files")(), file: content}
    data = synthetic.as_folder(tmp_path / "data", {key: value for key, value in files.items() if value is not None})
    module = registry.load("datasets", name)
    with pytest.raises(BadData, match=named):
        for split in ("train", "validation", "test"):
            module.load(data, split, LETTERBOX)


# -- the way to the results --------------------------------------------------------------------------------------------

DETECTOR = {
    "__init__.py": '''"""A small detector."""

from pipeline.core import ModelSpec, Preprocessing, Tensor, Training

SPEC = ModelSpec(
    name="squares",
    task="object_detection",
    inputs=(Tensor("image", (32, 32, 3)),),
    outputs=(Tensor("boxes", (64, 4)), Tensor("scores", (64, 2))),
    labels=("a", "b"),
    preprocessing=Preprocessing("RGB", 32, 32, (114.0,) * 3, (60.0,) * 3, "letterbox"),
    dataset="voc",
    training=Training(epochs=20, batch_size=8, lr=1e-2, augment=("flip", "shift4")),
    float_modules=("decode",),
)
''',
    "torch.py": """import torch
from torch import nn


class Decode(nn.Module):
    def __init__(self):
        super().__init__()
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        self.register_buffer("places", (torch.stack([rows, columns], 2).reshape(1, 64, 2) + 0.5) / 8)

    def forward(self, offsets):
        centre = self.places + 0.1 * offsets[..., :2]
        half = 0.15 * torch.exp(0.5 * offsets[..., 2:])
        return torch.cat([centre - half, centre + half], 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = (3, 16, 32, 32, 32)
        self.features = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(a, b, 3, 1 + (i < 2), 1), nn.BatchNorm2d(b), nn.ReLU())
            for i, (a, b) in enumerate(zip(sizes, sizes[1:]))
        ))
        self.offsets, self.scores, self.decode = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 2, 1), Decode()
        nn.init.constant_(self.scores.bias, -4.0)

    def forward(self, image):
        features = self.features(image)
        offsets, scores = (head(features).permute(0, 2, 3, 1).flatten(1, 2) for head in (self.offsets, self.scores))
        return {"scores": scores, "boxes": self.decode(offsets)}


def build(spec):
    return Net()
""",
    "keras.py": """import numpy as np
import keras
from keras import layers, ops

PLACES = (np.stack(np.meshgrid(range(8), range(8), indexing="ij"), 2).reshape(1, 64, 2).astype("float32") + 0.5) / 8


class Decode(layers.Layer):
    def call(self, offsets):
        centre = 0.1 * offsets[..., :2] + ops.convert_to_tensor(PLACES)
        half = 0.15 * ops.exp(0.5 * offsets[..., 2:])
        return ops.concatenate([centre - half, centre + half], axis=2)


def build(spec):
    image = x = keras.Input((32, 32, 3))
    for i, channels in enumerate((16, 32, 32, 32)):
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(channels, 3, 1 + (i < 2), name=f"features_{i}_0")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"features_{i}_1")(x))
    offsets = layers.Reshape((64, 4))(layers.Conv2D(4, 1, name="offsets")(x))
    bias = keras.initializers.Constant(-4.0)
    scores = layers.Reshape((64, 2))(layers.Conv2D(2, 1, bias_initializer=bias, name="scores")(x))
    return keras.Model(image, [Decode(name="decode")(offsets), scores])
""",
}


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_detector_learns_boxes_and_is_measured_by_its_map(framework: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name, text in DETECTOR.items():
        (model / name).write_text(text)
    data = synthetic.as_folder(tmp_path / "data", synthetic.voc_files(50))
    targets = MEASURED if framework == "torch" else MEASURED[:1]
    found = cells(Store(tmp_path / "build"), targets, model=model, data=data, frameworks=framework)
    assert set(found) == {(recipe, target) for recipe in ("fp32", "int8") for target in targets}
    (run,) = (tmp_path / "build" / f"squares.{framework}" / "tensorboard").glob("*")
    assert {f"predictions/{i:03}" for i in range(14)} <= set(tensorboard.tags(run))
    for (recipe, _), cell in found.items():
        assert cell.metric == "map" and (cell.accuracy or 0) > 0.5
        assert cell.drop_points is not None and abs(cell.drop_points) < (0.01 if recipe == "fp32" else 8)
        assert cell.drop_interval is not None and cell.drop_interval[0] <= cell.drop_points <= cell.drop_interval[1]
        assert cell.figures["map50"] > 0.8 and cell.agreement is None
        assert cell.parity is not None and cell.parity.snr_db > 30
        assert recipe == "fp32" or (cell.coverage is not None and cell.coverage.multiply_adds == 1)
