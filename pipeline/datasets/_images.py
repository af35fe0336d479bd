"""From a picture to the model's input: the work that is the app's on a device, done here once for all datasets.

The steps, in this order: decode (the first frame), apply the EXIF orientation, convert to the spec's colour, scale the
shorter side, cut the centre. An alpha channel is dropped, not blended: the colours stored under it are used. Nothing
is decoded at a reduced size, so that a picture's pixels depend on its content and on the preprocessing only.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pipeline.core import Preprocessing
from pipeline.errors import BadData, BadModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
"""What counts as a picture, in small letters."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF")
"""The decoders that may be tried, whatever the suffix says."""

CHANNELS = {"RGB": 3, "L": 1}

LONGEST = 100
"""How often the shorter side may go into the longer: scaled by the shorter, a line of pixels would take gigabytes."""


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(SUFFIXES)


def check(preprocessing: Preprocessing) -> None:
    """Refuses a preprocessing that cannot be done.

    Raises:
        BadModel: the colour is neither "RGB" nor "L", or the crop is not within the resized picture.
    """
    if preprocessing.color not in CHANNELS:
        raise BadModel(f"preprocessing: color {preprocessing.color!r} is not one of {', '.join(map(repr, CHANNELS))}")
    if not 1 <= preprocessing.crop <= preprocessing.resize:
        raise BadModel(
            f"preprocessing: crop must be between 1 and resize ({preprocessing.resize}), not {preprocessing.crop}"
        )


def decode(content: bytes, where: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The input for the bytes of a picture file.

    Args:
        where: the file's name for messages.

    Returns:
        uint8 (crop, crop, channels), 0–255.

    Raises:
        BadData: it is no picture of FORMATS, or it is truncated or broken.
    """
    return stages(content, where, preprocessing)[1]


def stages(content: bytes, where: str, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """As `decode`, and before it what was decoded: uint8 (height, width, channels), upright, in the spec's colour."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            upright = _converted(_upright(image), preprocessing.color)
            decoded = np.array(upright, dtype=np.uint8).reshape(*upright.size[::-1], CHANNELS[preprocessing.color])
            return decoded, fit(upright, preprocessing)
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error …
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
        raise BadData(f"{where}: cannot be read as a picture ({reason}); replace or remove the file") from error


def from_pixels(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The input for decoded pixels: uint8 (height, width, 3 for RGB or 1 for grey), 0–255; as `decode` gives it."""
    from PIL import Image

    return fit(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), preprocessing)


def fit(image: Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Converts, scales and crops.

    The longer side is int(resize * longer / shorter) pixels, as in torchvision's Resize; scaling is Pillow's bilinear
    filter, whose support grows with the reduction (antialiased). The crop begins at (side - crop) // 2.

    Returns:
        uint8 (crop, crop, channels), 0–255; the caller's own, writable.

    Raises:
        ValueError: it is more than LONGEST times as long as it is wide, or the other way round.
    """
    import numpy as np
    from PIL import Image

    shorter, longer = sorted(image.size)
    if longer > LONGEST * shorter:
        raise ValueError(f"sides of {image.width}×{image.height} pixels: one is more than {LONGEST} times the other")
    image = _converted(image, preprocessing.color)
    if shorter != preprocessing.resize:
        width, height = (int(preprocessing.resize * side / shorter) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    crop = preprocessing.crop
    if image.size != (crop, crop):
        left, top = ((side - crop) // 2 for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    return np.array(image, dtype=np.uint8).reshape(crop, crop, CHANNELS[preprocessing.color])


def _upright(image: Image) -> Image:
    """Turned and mirrored as the file's EXIF orientation says."""
    from PIL import ImageOps

    if not any(key == "exif" or "xmp" in key or "profile" in key for key in map(str.lower, map(str, image.info))):
        return image  # the full look costs more than decoding a small picture
    return ImageOps.exif_transpose(image)


def _converted(image: Image, color: str) -> Image:
    import numpy as np
    from PIL.Image import fromarray

    if image.mode.startswith("I;16"):  # 16 bits of grey, which convert() would clip and not scale
        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the one way to drop a palette's transparency without a warning
    return image if image.mode == color else image.convert(color)
