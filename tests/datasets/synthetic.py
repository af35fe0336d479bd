"""Creates tiny, real datasets in every format that the plug-ins read."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core import Preprocessing
from pipeline.datasets import Split, cifar10

RGB = Preprocessing("RGB", 32, 32, (0.0,) * 3, (255.0,) * 3)
GREY = Preprocessing("L", 8, 8, (0.0,), (255.0,))


def pixels(seed: int, side: int = 32) -> NDArray[np.uint8]:
    """An image determined by the seed: uint8 (side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(image: Image.Image | NDArray[np.uint8], form: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, form, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    """A small PNG determined by the seed."""
    return encoded(pixels(seed, 8))


def class_files(prefix: str, classes: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """name → content: the given number of images per class, as prefix/class/number.png."""
    members = [(label, i) for label, count in classes.items() for i in range(count)]
    return {f"{prefix}{label}/{i:03}.png": png(seed + n) for n, (label, i) in enumerate(members)}


def divided_files(classes: Mapping[str, int], test: int = 2, top: str = "") -> dict[str, bytes]:
    """As class_files, in train/ and test/."""
    few = dict.fromkeys(classes, test)
    return class_files(f"{top}train/", classes) | class_files(f"{top}test/", few, seed=1_000_000)


def as_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    """Writes the files below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def as_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Writes the files to a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_arrays(root: Path, classes: Mapping[str, int], shape: tuple[int, ...] = (16, 2)) -> Path:
    """A folder for the dataset `arrays` with only a train.npz: in a series of each class, another value is raised."""
    root.mkdir()
    labels = np.repeat(list(classes), list(classes.values()))
    inputs = np.random.default_rng(0).normal(size=(len(labels), *shape))
    for i, name in enumerate(classes):
        inputs[labels == name, i] += 5
    np.savez(root / "train.npz", inputs=inputs, labels=labels)
    return root


def tone(hertz: float, seed: int = 0, rate: int = 8000, seconds: float = 0.5, channels: int = 1) -> NDArray[np.float32]:
    """A tone with noise, (samples, channels), within ±1."""
    samples = round(rate * seconds)
    noise = np.random.default_rng(seed).normal(0, 0.02, (samples, channels))
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)[:, None] + noise, np.float32)


def sound(samples: NDArray[np.float32], rate: int = 8000, form: str = "WAV") -> bytes:
    """The content of a sound file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form)
    return buffer.getvalue()


def sound_files(prefix: str, classes: Mapping[str, float], count: int, seed: int = 0) -> dict[str, bytes]:
    """name → content: for each class so many tones of its frequency, as prefix/class/number.wav."""
    return {
        f"{prefix}{name}/{i:02}.wav": sound(tone(hertz, seed + 1000 * place + i))
        for place, (name, hertz) in enumerate(classes.items())
        for i in range(count)
    }


def spoken_digits(count: int = 12) -> dict[str, bytes]:
    """Tones under the names of the Free Spoken Digit Dataset."""
    return {
        f"recordings/{digit}_ann_{i}.wav": sound(tone(200 + 300 * digit, 100 * digit + i))
        for digit in range(10)
        for i in range(count)
    }


WORDS = {
    "ham": ("home", "lunch", "later", "see", "tonight", "thanks", "dinner", "work", "sleep", "love", "movie", "bus"),
    "spam": ("win", "prize", "free", "call", "now", "urgent", "claim", "cash", "offer", "text", "reward", "stop"),
}


def messages(count: int = 60, words: Mapping[str, Sequence[str]] | None = None) -> list[tuple[str, str]]:
    """Labels and texts, so many of each class: words of the class, at random, and a number that no other text has."""
    words = words or WORDS
    found = []
    for i in range(count * len(words)):
        label = list(words)[i % len(words)]
        chosen = np.random.default_rng(i).choice(words[label], 3 + i % 5)
        found.append((label, f"{' '.join(chosen).capitalize()} {i}"))
    return found


def text_list(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    """A file of labels, tabs and texts."""
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return path


def mask_files(masks: Mapping[str, NDArray[np.uint8]], kind: str = "masks") -> dict[str, bytes]:
    """Images with these masks, of the same names: an image is bright where its mask is above 0."""
    found = {}
    for i, (name, mask) in enumerate(masks.items()):
        noise = np.random.default_rng(i).integers(0, 60, (*mask.shape, 3), dtype=np.uint8)
        found[f"images/{name}.png"] = encoded(noise // 6 + 245 * (mask[..., None] > 0).astype(np.uint8))
        found[f"{kind}/{name}.png"] = encoded(mask)
    return found


def drawn(count: int) -> dict[str, tuple[bytes, list[tuple[str, int, int, int, int]]]]:
    """Images of 60×48 pixels with a bright square for each box: (name, left, top, right, bottom); names "a" and "b"."""
    found = {}
    for i in range(count):
        random = np.random.default_rng(i)
        image, boxes = random.integers(0, 10, (48, 60, 3), dtype=np.uint8), []
        for place, name in enumerate("ab"):
            side = 8 + 10 * place
            left, top = (int(value) for value in random.integers((30 * place, 10), (30 * place + 28 - side, 38 - side)))
            image[top : top + side, left : left + side] = 250
            boxes.append((name, left, top, left + side, top + side))
        found[f"{i:03}"] = encoded(image), boxes
    return found


def voc_files(count: int = 40) -> dict[str, bytes]:
    """`drawn` in Pascal VOC's format."""
    found = {}
    for stem, (image, boxes) in drawn(count).items():
        objects = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for name, left, top, right, bottom in boxes
        )
        size = "<size><width>60</width><height>48</height><depth>3</depth></size>"
        found[f"data/Annotations/{stem}.xml"] = f"<annotation>{size}{objects}</annotation>".encode()
        found[f"data/JPEGImages/{stem}.png"] = image
    return found


def coco_files(count: int = 40) -> dict[str, bytes]:
    """`drawn` in COCO's format, in one file."""
    images, annotations, found = [], [], {}
    for number, (stem, (image, boxes)) in enumerate(drawn(count).items()):
        found[f"pictures/{stem}.png"] = image
        images.append({"id": number, "file_name": f"{stem}.png", "width": 60, "height": 48})
        for name, left, top, right, bottom in boxes:
            own = {"id": len(annotations), "image_id": number, "category_id": "ab".index(name) + 1, "iscrowd": 0}
            annotations.append({**own, "bbox": [left, top, right - left, bottom - top]})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    value = {"images": images, "annotations": annotations, "categories": categories}
    return {**found, "annotations/instances.json": json.dumps(value).encode()}


def yolo_files(count: int = 40) -> dict[str, bytes]:
    """`drawn` in YOLO's format, without a test split."""
    found = {"data.yaml": b"names: [a, b]\ntrain: images/train\nval: images/val\n"}
    for number, (stem, (image, boxes)) in enumerate(drawn(count).items()):
        part = "val" if number % 8 == 0 else "train"
        found[f"images/{part}/{stem}.png"] = image
        lines = (
            f"{'ab'.index(name)} {(left + right) / 120} {(top + bottom) / 96} "
            f"{(right - left) / 60} {(bottom - top) / 48}"
            for name, left, top, right, bottom in boxes
        )
        found[f"labels/{part}/{stem}.txt"] = "\n".join(lines).encode()
    return found


def trials(count: int = 16, readings: int = 240) -> dict[str, bytes]:
    """Trials of the wearable sensor: each has all four activities, in runs of the same length."""
    found = {}
    for number in range(count):
        random = np.random.default_rng(number)
        activity = np.arange(readings) * 4 // readings + 1
        seconds = np.cumsum(random.uniform(0.1, 1, readings))
        rows = np.column_stack([
            seconds, random.normal(0, 0.1, (readings, 3)) + activity[:, None], np.ones(readings),
            np.full(readings, -58.0), np.zeros((readings, 2)), activity,
        ])  # fmt: skip
        lines = (",".join(f"{value:.6g}" for value in row) for row in rows)
        found[f"S1_Dataset/d1p{number + 1:02}F"] = "\n".join(lines).encode()
    return found


def series_files(count: int = 3, readings: int = 4000) -> dict[str, bytes]:
    """Noisy waves, a reading each minute, with anomalies in NAB's format: the wave stops for 40 readings in 400."""
    found, periods = {}, {}
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 0.1, readings)
        place = np.arange(readings)
        values = 50 + 9 * (np.sin(place / 5 + number) * (place % 400 < 360) + noise)
        times = np.datetime64("2024-02-28T20:00:00") + place.astype("timedelta64[m]")
        rows = "".join(
            f"{str(time).replace('T', ' ')},{value:.4f}\n" for time, value in zip(times, values, strict=True)
        )
        found[f"nab/data/wave/{number}.csv"] = f"timestamp,value\n{rows}".encode()
        periods[f"wave/{number}.csv"] = [
            [str(times[start]), str(times[start + 39])] for start in range(360, readings - 39, 400)
        ]
    return {**found, "nab/labels/combined_windows.json": json.dumps(periods).encode(), "nab/README.md": b"waves"}


def contents(split: Split) -> list[bytes]:
    """Every image's pixels."""
    return [split.read(i).tobytes() for i in range(len(split))]


# -- CIFAR-10's official format ----------------------------------------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    """A pickle as Python 2 wrote it with protocol 2: bytes as its str, NumPy arrays under their old module name."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    match value:
        case bytes() if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(_python2, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
        case np.ndarray():
            dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = _python2(value.shape[0]) + _python2(value.shape[1]) + b"\x86"
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"
    raise TypeError(value)


def batch(images: NDArray[np.uint8], labels: list[int], title: bytes = b"training batch 1 of 5") -> bytes:
    """A batch of images, uint8 (N, 32, 32, 3), as in the official archive."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = [b"image_s_%06d.png" % i for i in range(len(images))]
    return python2_pickle({b"batch_label": title, b"labels": labels, b"data": planes, b"filenames": names})


def official_files(count: int = 40, top: str = "cifar-10-batches-py/") -> dict[str, bytes]:
    """The official archive's members, with `count` images of cycling classes in each batch."""
    labels = [i % 10 for i in range(count)]
    files = {f"{top}readme.html": b"<html>"}
    batches = ("data_batch_4", "test_batch", "data_batch_3", "data_batch_2", "data_batch_5", "data_batch_1")
    for n, name in enumerate(batches):
        files[top + name] = batch(np.stack([pixels(n * count + i) for i in range(count)]), labels)
    names = [name.encode() for name in cifar10.CLASSES]
    meta = {b"num_cases_per_batch": count, b"label_names": names, b"num_vis": 3072}
    return files | {f"{top}batches.meta": python2_pickle(meta)}


def as_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """Writes the files to a .tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
