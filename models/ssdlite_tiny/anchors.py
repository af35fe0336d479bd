"""The anchors of ssdlite_tiny, and how offsets from them become boxes, for both frameworks.

Source: Liu et al., SSD: Single Shot MultiBox Detector, 2016 (arXiv:1512.02325).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 160
LEVELS = ((8, (10, 24)), (16, (30, 40)), (32, (50, 64)))
"""Stride of a feature map, and the sides of the square anchors at each of its places, in pixels."""
EACH = 2
"""Anchors at each place."""
COUNT = sum(EACH * (SIDE // stride) ** 2 for stride, _ in LEVELS)
CENTRE, SIZE = 0.1, 0.2
"""Units of the offsets: of the centre in sides of the anchor, of the size in the logarithm."""
PRIOR = 0.01
"""The score of an untrained network, as in focal loss (arXiv:1708.02002)."""


def boxes() -> np.ndarray:
    """float32 (COUNT, 4): the anchors' centre (down, across), height and width as shares of the image: maps by rows,
    and the sides of one place together."""
    import numpy as np

    found = []
    for stride, sides in LEVELS:
        centres = (np.arange(SIDE // stride) + 0.5) * stride / SIDE
        found += [(down, across, side / SIDE, side / SIDE) for down in centres for across in centres for side in sides]
    return np.array(found, np.float32)


def scores_bias() -> float:
    """The bias that gives PRIOR."""
    return -math.log((1 - PRIOR) / PRIOR)
