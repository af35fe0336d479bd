"""Images on which Python's and Kotlin's preprocessing must agree: JPEG and PNG, odd sizes, EXIF, grayscale, alpha."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.core import Preprocessing

PREPROCESSING = (
    Preprocessing("RGB", 32, 32, (0.0,), (255.0,)),
    Preprocessing("L", 8, 8, (0.0,), (255.0,)),
    Preprocessing("RGB", 72, 64, (0.0,), (255.0,)),
    Preprocessing("RGB", 48, 48, (0.0,), (255.0,), "letterbox"),
    Preprocessing("L", 13, 13, (0.0,), (255.0,), "letterbox"),
)
"""Downscaling and upscaling, with and without cropping, and letterboxes, in RGB and grayscale."""

SIZES = ((8, 8), (9, 7), (32, 32), (37, 53), (101, 64), (5, 3), (300, 199))


def images() -> dict[str, bytes]:
    """Image files by name."""
    return dict(_all())


def _all() -> Iterator[tuple[str, bytes]]:
    for width, height in SIZES:
        image = _image(width, height)
        yield f"{width}x{height}.png", _file(image, "PNG")
        yield f"{width}x{height}.jpg", _file(image, "JPEG", quality=90)
    gray = _image(41, 29).convert("L")
    yield "gray.png", _file(gray, "PNG")
    yield "gray.jpg", _file(gray, "JPEG")
    alpha = _image(41, 29).convert("RGBA")
    alpha.putalpha(Image.fromarray(np.arange(29 * 41, dtype=np.uint8).reshape(29, 41)))
    yield "alpha.png", _file(alpha, "PNG")
    yield "palette.png", _file(_image(41, 29).quantize(32), "PNG")
    yield "progressive.jpg", _file(_image(61, 47), "JPEG", progressive=True)
    yield "unsampled.jpg", _file(_image(61, 47), "JPEG", subsampling=0)
    yield "tall.png", _file(_image(7, 120), "PNG")
    yield "wide.png", _file(_image(120, 7), "PNG")
    yield "line.png", _file(_image(99, 1), "PNG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif{orientation}.jpg", _file(_image(45, 31), "JPEG", quality=95, exif=exif.tobytes())


def _image(width: int, height: int) -> Image.Image:
    """Gradients with a texture: adjacent pixels differ, and so do all corners."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), 127 + 120 * np.sin(x * 0.7 + y * 0.9)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
