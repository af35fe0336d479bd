"""What a model has found, drawn over an image."""

from __future__ import annotations

import numpy as np

from pipeline import sources
from pipeline.report import overlay

SSD, UNET, DIGITS = (sources.find(name).spec for name in ("ssdlite_tiny", "unet_small", "digits_cnn"))


def test_boxes_are_drawn_in_the_color_of_their_class_with_the_truth_beside_them() -> None:
    image = np.full((160, 160, 3), 10, np.uint8)
    boxes, logits = np.zeros((2, 4)), np.full((2, 3), -9.0)
    boxes[0], logits[0, 2] = (0.25, 0.25, 0.75, 0.75), 3.0
    truth = np.array([[1, 0.5, 0.5, 1, 1, 0], [-1, 0, 0, 0, 0, 0]], np.float32)
    drawn = overlay.of(SSD, image, [boxes, logits], truth)
    assert drawn is not None and drawn.dtype == np.uint8 and drawn.shape == (480, 960, 3)
    assert tuple(drawn[300, 120]) == overlay.COLORS[2] and tuple(drawn[300, 60]) == (10, 10, 10)
    assert tuple(drawn[400, 480 + 240]) == overlay.COLORS[1] and tuple(drawn[300, 480 + 120]) == (10, 10, 10)


def test_a_mask_covers_its_pixels_half() -> None:
    image, truth = np.full((96, 96, 3), 100, np.uint8), np.zeros((96, 96), np.uint8)
    logits = np.zeros((96, 96, 2))
    logits[:48, :, 1] = 1
    drawn = overlay.of(UNET, image, [logits], truth)
    assert drawn is not None and drawn.shape == (480, 960, 3)
    assert drawn[10, 10].tolist() == [(100 + part) // 2 for part in overlay.COLORS[0]]
    assert (drawn[300:, :480] == 100).all() and (drawn[:, 480:] == 100).all()


def test_a_class_has_no_place_in_its_image() -> None:
    assert overlay.of(DIGITS, np.zeros((8, 8, 1), np.uint8), [np.zeros(10)], np.array(3)) is None
