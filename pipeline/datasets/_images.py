"""Preprocesses an image to the model's input, for all datasets; on a device, the app does the same.

The steps: decode the first frame, apply the EXIF orientation, convert to the spec's colour mode, then resize the
shorter side and crop the centre, or fit the whole image into the square (letterbox). An alpha channel is dropped
without blending. Images are always decoded at full size, so that the pixels depend only on the content and the
preprocessing.
"""

from __future__ import annotations

import io
import mimetypes
from enum import Enum, auto
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline import registry
from pipeline.core import Preprocessing
from pipeline.errors import BadData, BadModel
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Allowed decoders of Pillow; the decoder is chosen by content, not by suffix. Left out are those that call another
program (EPS), have no signature (TGA), or are rarely used for photographs."""

NOT_IMAGES = (".pdf", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr")
"""Suffixes that Pillow registers, of files that are usually no images."""

OTHER_IMAGES = (
    *(".ai", ".arw", ".cr2", ".cr3", ".dcm", ".djvu", ".dng", ".exr", ".hdr", ".hif", ".jxl", ".jxr", ".nef", ".orf"),
    *(".pef", ".psb", ".raf", ".raw", ".rw2", ".srw", ".svgz", ".wdp", ".xcf"),
)
"""Suffixes of images that neither Pillow nor Python's MIME types know."""

CHANNELS = {"RGB": 3, "L": 1}
FITS = ("crop", "letterbox")
GREY = 114
"""What a letterbox is filled with, as in YOLO's."""

MAX_ASPECT_RATIO = 100
"""Beyond this ratio of the sides, resizing the shorter side could take gigabytes."""


@cache
def identity() -> str:
    """What decides the pixels of a file besides its content and the preprocessing: this code, and Pillow."""
    return digest([registry.code_hash(__name__), registry.versions(("pillow",))])


class Kind(Enum):
    """What a file's suffix says."""

    IMAGE = auto()
    """An image that FORMATS decode."""
    OTHER_IMAGE = auto()
    """An image of another format."""
    NO_IMAGE = auto()
    UNKNOWN = auto()
    """No suffix, or one that nothing here knows."""


@cache
def suffixes() -> tuple[str, ...]:
    """Suffixes of the files that FORMATS decode, in lower case, as Pillow registers them."""
    from PIL import Image

    known = {"MPO", *FORMATS}  # MPO is a JPEG with more than one image, and the JPEG decoder opens it
    return tuple(sorted(suffix for suffix, form in Image.registered_extensions().items() if form in known))


def kind(name: str) -> Kind:
    """What a file is by its suffix."""
    return _kind_by_suffix(PurePosixPath(name).suffix.lower())


@cache
def _kind_by_suffix(suffix: str) -> Kind:
    from PIL import Image

    if suffix in suffixes():
        return Kind.IMAGE
    # Python's own table, without those of the system, so that the kind is the same on every machine
    mime = mimetypes.MimeTypes().guess_type(f"x{suffix}")[0] or ""
    registered = suffix in Image.registered_extensions() and suffix not in NOT_IMAGES
    if registered or suffix in OTHER_IMAGES or mime.startswith("image/"):
        return Kind.OTHER_IMAGE
    return Kind.NO_IMAGE if mime or suffix in NOT_IMAGES else Kind.UNKNOWN


def is_image(content: bytes) -> bool:
    """Whether a file's content begins as one of FORMATS; it may still be truncated."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS):
            return True
    except Exception:  # decoders raise many types: OSError, SyntaxError, ValueError, struct.error …
        return False


def check(preprocessing: Preprocessing) -> None:
    """Checks a preprocessing.

    Raises:
        BadModel: the colour mode is neither "RGB" nor "L", or the crop is larger than the resized image.
    """
    if preprocessing.color not in CHANNELS:
        raise BadModel(f"preprocessing: color {preprocessing.color!r} is not one of {', '.join(map(repr, CHANNELS))}")
    if preprocessing.fit not in FITS:
        raise BadModel(f"preprocessing: fit {preprocessing.fit!r} is not one of {', '.join(map(repr, FITS))}")
    if preprocessing.fit == "letterbox" and preprocessing.resize != preprocessing.crop:
        raise BadModel(f"preprocessing: resize must equal crop ({preprocessing.crop}) for a letterbox")
    if not 1 <= preprocessing.crop <= preprocessing.resize:
        raise BadModel(
            f"preprocessing: crop must be between 1 and resize ({preprocessing.resize}), not {preprocessing.crop}"
        )


def decode(content: bytes, where: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The model's input for the content of an image file.

    Args:
        where: the file's name, for messages.

    Returns:
        uint8 (crop, crop, channels), 0–255.

    Raises:
        BadData: it is no image in one of FORMATS, or it is truncated or corrupt.
    """
    return stages(content, where, preprocessing)[1]


def stages(content: bytes, where: str, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(decoded image, input); the former is uint8 (height, width, channels), upright, in the spec's colour mode."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            upright = _converted(_upright(image), preprocessing.color)
            decoded = np.array(upright, dtype=np.uint8).reshape(*upright.size[::-1], CHANNELS[preprocessing.color])
            return decoded, fit(upright, preprocessing)
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, ValueError, struct.error …
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
        raise BadData(f"{where}: cannot be read as an image ({reason}); replace or remove the file") from error


def from_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The model's input for decoded pixels, uint8 (height, width, 3 for RGB or 1 for grey), 0–255; see `decode`."""
    from PIL import Image

    return fit(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), preprocessing)


def fit(image: Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Converts, resizes and crops an image, or fits it into a letterbox.

    The longer side becomes int(resize * longer / shorter) pixels, as in torchvision's Resize. The filter is Pillow's
    antialiased bilinear filter. The crop begins at (side - crop) // 2.

    Returns:
        uint8 (crop, crop, channels), 0–255, a writable copy.

    Raises:
        ValueError: the aspect ratio exceeds MAX_ASPECT_RATIO.
    """
    import numpy as np
    from PIL import Image, ImageOps

    shorter, longer = sorted(image.size)
    if longer > MAX_ASPECT_RATIO * shorter:
        raise ValueError(f"{image.width}×{image.height} pixels exceed the aspect ratio of {MAX_ASPECT_RATIO}")
    image, crop = _converted(image, preprocessing.color), preprocessing.crop
    if preprocessing.fit == "letterbox":
        grey = (GREY,) * CHANNELS[preprocessing.color]
        image = ImageOps.pad(image, (crop, crop), Image.Resampling.BILINEAR, color=grey)
    elif shorter != preprocessing.resize:
        width, height = (int(preprocessing.resize * side / shorter) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if image.size != (crop, crop):
        left, top = ((side - crop) // 2 for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    return np.array(image, dtype=np.uint8).reshape(crop, crop, CHANNELS[preprocessing.color])


def placed(
    box: tuple[float, float, float, float], size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, ...] | None:
    """A box of an image after `fit`: top, left, bottom and right as shares of the square; None if it is outside.

    Args:
        box: top, left, bottom and right in pixels.
        size: (width, height) of the image.
    """
    crop, shorter = preprocessing.crop, min(size)
    if preprocessing.fit == "letterbox":  # as Pillow's ImageOps.contain and pad
        longer = max(size)
        sides = [crop if side == longer else round(side / longer * crop) for side in size]
        offsets = [round((crop - side) * 0.5) for side in sides]
    else:
        sides = [int(preprocessing.resize * side / shorter) for side in size]
        offsets = [-((side - crop) // 2) for side in sides]
    (across, down), (left, top) = ([new / old for new, old in zip(sides, size, strict=True)], offsets)
    found = [
        min(max((side * scale + offset) / crop, 0.0), 1.0)
        for side, scale, offset in zip(box, (down, across) * 2, (top, left) * 2, strict=True)
    ]
    return tuple(found) if found[0] < found[2] and found[1] < found[3] else None


def upright_size(image: Image) -> tuple[int, int]:
    """(width, height) of an image after its EXIF orientation."""
    return _upright(image).size


def _upright(image: Image) -> Image:
    """The image rotated and mirrored by its EXIF orientation."""
    from PIL import ImageOps

    if not any(key == "exif" or "xmp" in key or "profile" in key for key in map(str.lower, map(str, image.info))):
        return image  # exif_transpose takes longer than decoding a small image
    return ImageOps.exif_transpose(image)


def _converted(image: Image, color: str) -> Image:
    import numpy as np
    from PIL.Image import fromarray

    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if is_16_bit:  # grey, which convert() clips instead of scaling
        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):  # convert() would clip to 0–255
        raise ValueError(f"pixels of mode {image.mode} (32 bits) have no known range; convert it to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # drops a palette's transparency without Pillow's warning
    return image if image.mode == color else image.convert(color)
