"""A part of the evaluation split, for devices on which the whole of it would take too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0


def indices(labels: NDArray[Any], samples: int) -> NDArray[Any]:
    """Which samples a part of so many has: of each class its share, the same ones at every call.

    A larger part holds all of a smaller one.

    Args:
        labels: (N,) of the whole split.
        samples: from 1 to N.

    Returns:
        int64 (samples,), ascending.
    """
    import numpy as np

    # RandomState's numbers are frozen for ever, those of newer generators are not. Source: NEP 19.
    order = np.random.RandomState(SEED).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(place[order], kind="stable")[:samples]])
