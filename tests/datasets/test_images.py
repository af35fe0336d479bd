"""Decoding and preprocessing of image files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.core import Preprocessing
from pipeline.datasets._images import Kind, decode, from_pixels, is_image, kind
from pipeline.errors import BadData
from tests.datasets.synthetic import encoded, pixels


def preprocessing(color: str = "RGB", resize: int = 8, crop: int = 8) -> Preprocessing:
    return Preprocessing(color, resize, crop, (0.0,), (1.0,))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_a_lossless_image_of_the_right_size_is_not_changed(form: str) -> None:
    assert np.array_equal(decode(encoded(pixels(1, 8), form), "x", preprocessing()), pixels(1, 8))


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("AVIF", {"quality": 95}), ("GIF", {})]
)
def test_lossy_formats_are_nearly_unchanged(form: str, options: dict[str, int]) -> None:
    flat = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    assert np.abs(decode(encoded(flat, form, **options), "x", preprocessing()).astype(int) - flat).max() <= 3


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_of_an_animation_is_used(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(decode(content, "x", preprocessing())[4, 4].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_converted(form: str) -> None:
    content = encoded(Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK"), form)
    assert np.abs(decode(content, "x", preprocessing())[4, 4].astype(int) - [200, 40, 90]).max() <= 3


def test_grey_is_repeated_for_rgb_and_rgb_is_converted_to_luma() -> None:
    grey = decode(encoded(Image.new("L", (8, 8), 77)), "x", preprocessing())
    assert grey[0, 0].tolist() == [77, 77, 77]
    red = decode(encoded(Image.new("RGB", (8, 8), (255, 0, 0))), "x", preprocessing("L"))
    assert red.shape == (8, 8, 1) and red[0, 0, 0] == 76  # ITU-R 601: 0.299


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_alpha_is_dropped_without_blending(mode: str) -> None:
    if mode == "RGBA":
        content = encoded(Image.new("RGBA", (8, 8), (10, 20, 30, 0)))
    else:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        content = encoded(image, transparency=b"\xff\x00")
    assert decode(content, "x", preprocessing())[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_instead_of_clipped(form: str) -> None:
    content = encoded(Image.fromarray(np.full((8, 8), 0x9CFF, np.uint16)), form)
    assert decode(content, "x", preprocessing("L"))[0, 0, 0] == 0x9C


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_values_are_refused_because_their_range_is_unknown(dtype: type) -> None:
    with pytest.raises(BadData, match=r"^scan\.tif: .*32 bits"):
        decode(encoded(Image.fromarray(np.full((8, 8), 300, dtype)), "TIFF"), "scan.tif", preprocessing("L"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(form: str, orientation: int) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4, :4] = 255  # white above and left, half grey below and left
    upright[4:, :4] = 128
    inverse = {2: 0, 3: 1, 4: 5, 5: 3, 6: 4, 7: 6, 8: 2}  # orientation → transform that a camera has applied
    stored = np.ascontiguousarray(_transformed(upright, inverse.get(orientation)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if form in ("JPEG", "AVIF"):
        options = {"quality": 95}
    read = decode(encoded(stored, form, exif=exif, **options), "x", preprocessing())
    assert np.abs(read.astype(int) - upright).max() <= 12


def _transformed(image: NDArray[np.uint8], how: int | None) -> NDArray[np.uint8]:
    """0 mirror, 1 rotate 180°, 2 rotate 90° clockwise, 3 transpose, 4 rotate 90° back, 5 flip, 6 transverse."""
    if how is None:
        return image
    return (
        np.fliplr(image),
        np.rot90(image, 2),
        np.rot90(image, -1),
        image.transpose(1, 0, 2),
        np.rot90(image),
        np.flipud(image),
        np.rot90(image, 2).transpose(1, 0, 2),
    )[how]


def test_the_shorter_side_is_resized_and_the_centre_cropped() -> None:
    wide = np.zeros((20, 50, 3), np.uint8)
    wide[:, 20:30] = 255
    read = decode(encoded(wide), "x", preprocessing(resize=10, crop=5))[..., 0]
    # 25×10 after resizing, of which columns 10–14 are cropped; at the stripe's edge the filter covers 7/8 of white
    assert read.tolist() == [[223, 255, 255, 255, 223]] * 5
    high = decode(encoded(wide.transpose(1, 0, 2)), "x", preprocessing(resize=10, crop=5))[..., 0]
    assert high.T.tolist() == read.tolist()


def test_an_odd_remainder_is_cropped_right_and_bottom() -> None:
    assert np.array_equal(decode(encoded(pixels(1, 8)), "x", preprocessing(crop=5)), pixels(1, 8)[1:6, 1:6])


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    read = decode(encoded(stripes), "x", preprocessing(resize=8, crop=6))
    assert np.abs(read.astype(int) - 128).max() <= 2


def test_pixels_are_preprocessed_like_files() -> None:
    image, wanted = pixels(5, 24), preprocessing(resize=10, crop=8)
    assert np.array_equal(from_pixels(image, wanted), decode(encoded(image), "x", wanted))
    assert from_pixels(image[..., :1], wanted).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no image", encoded(pixels(1), "PCX")),
        *(encoded(pixels(1), form)[: 500 if form == "JPEG" else 1000] for form in ("JPEG", "PNG", "TIFF", "PPM")),
    ],
    ids=["empty", "text", "PCX", "half a JPEG", "half a PNG", "half a TIFF", "half a PPM"],
)
def test_a_file_that_cannot_be_decoded_is_named(content: bytes) -> None:
    with pytest.raises(BadData, match=r"^folder/cat\.jpg: "):
        decode(content, "folder/cat.jpg", preprocessing())


READ = "a.jpg A.JPEG a.b.png x.WebP x.bmp x.gif x.TIF x.tiff x.jfif x.jpe x.ppm x.pgm x.avif x.jp2 x.mpo x.apng"
OTHER = "x.heic x.HEIF x.svg x.psd x.raw x.dng x.CR2 x.nef x.arw x.tga x.ico x.eps x.jxl x.exr"
NONE = "a.txt classes.json a.xml a.csv page.html a.mp4 a.pdf a.zip a.py"
UNKNOWN = "README jpg a.jpg.part Thumbs.db a.npy"


@pytest.mark.parametrize(
    ("expected", "names"),
    [(Kind.IMAGE, READ), (Kind.OTHER_IMAGE, OTHER), (Kind.NO_IMAGE, NONE), (Kind.UNKNOWN, UNKNOWN)],
)
def test_the_suffix_tells_images_that_are_read_from_other_images_and_other_files(expected: Kind, names: str) -> None:
    assert {name: kind(name) for name in names.split()} == dict.fromkeys(names.split(), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_the_content_tells_images_from_other_files(form: str) -> None:
    assert is_image(encoded(pixels(1), form))
    assert not any(map(is_image, (b"", b"BMW is no bitmap", b"P6 is no pixmap", encoded(pixels(1), form)[3:])))


def test_an_extreme_aspect_ratio_is_refused_before_resizing() -> None:
    wanted = preprocessing(resize=72, crop=64)
    assert decode(encoded(np.zeros((400, 4, 3), np.uint8)), "strip.png", wanted).shape == (64, 64, 3)
    with pytest.raises(BadData, match=r"^line\.png: .*4×401.*100"):
        decode(encoded(np.zeros((401, 4, 3), np.uint8)), "line.png", wanted)
