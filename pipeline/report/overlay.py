"""Images with what a model has found in them drawn over them, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLORS = ((230, 60, 50), (40, 110, 230), (240, 160, 20), (30, 150, 80), (150, 70, 190), (90, 90, 90))
"""Of the classes in their order, and again from the first."""
SIDE = 480
"""An image is enlarged to about this many pixels, so that lines and names can be seen."""
LEAST_SCORE = 0.3
"""Of a detection that is drawn."""


def of(
    spec: ModelSpec, image: NDArray[np.uint8], outputs: Sequence[NDArray[Any]], truth: NDArray[Any]
) -> NDArray[np.uint8] | None:
    """The image twice, side by side: with the model's outputs and with the truth; None for a task without a place in
    the image.

    Args:
        image: uint8 (height, width, channels).
        outputs, truth: of this sample.

    Returns:
        uint8 (height, 2 * width, 3).
    """
    import numpy as np

    from pipeline.tasks import object_detection

    if spec.task == "object_detection":
        found = [(int(row[0]), row[2:6], f" {row[1]:.0%}") for row in object_detection.detections(*outputs)
                 if row[1] >= LEAST_SCORE]  # fmt: skip
        known = [(int(row[0]), row[1:5], "") for row in truth if row[0] >= 0]
        return np.concatenate([_with_boxes(spec, image, each) for each in (found, known)], axis=1)
    if spec.task == "semantic_segmentation":
        return np.concatenate([_with_mask(image, each) for each in (outputs[0].argmax(-1), truth)], axis=1)
    return None


def _with_boxes(
    spec: ModelSpec, image: NDArray[np.uint8], boxes: Sequence[tuple[int, NDArray[Any], str]]
) -> NDArray[np.uint8]:
    """Args: boxes: class; top, left, bottom and right as shares of the image; and what to write after its name."""
    import numpy as np
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(_enlarged(image))
    draw = ImageDraw.Draw(drawn)
    for label, (top, left, bottom, right), more in boxes:
        color = COLORS[label % len(COLORS)]
        place = float(left * drawn.width), float(top * drawn.height)
        draw.rectangle([place, (float(right * drawn.width), float(bottom * drawn.height))], outline=color, width=2)
        text = f"{spec.labels[label]}{more}"
        draw.rectangle(draw.textbbox(place, text), fill=color)
        draw.text(place, text, fill="white")
    return np.asarray(drawn)


def _with_mask(image: NDArray[np.uint8], mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Classes but the first, the background, in their colors over the image."""
    import numpy as np

    colors = np.array(COLORS)[(np.asarray(mask, np.int64) - 1) % len(COLORS)]
    covered = np.where(mask[..., None] > 0, (_rgb(image).astype(np.float64) + colors) / 2, _rgb(image))
    return _enlarged(covered.astype(np.uint8))


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB, with every pixel repeated."""
    times = max(1, SIDE // max(image.shape[:2]))
    return _rgb(image).repeat(times, 0).repeat(times, 1)
