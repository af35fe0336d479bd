"""Axes whose size a file leaves open."""

from __future__ import annotations

from collections.abc import Sequence


def check(name: str, sizes: Sequence[int]) -> None:
    """Only the batch may be free, which is 1 then. Args: sizes: -1 for a free axis.

    Raises:
        ValueError: another axis is free. Which size an app uses is not known, and another one takes another time.
    """
    if any(size < 1 for size in sizes[1:]):
        shown = ", ".join("free" if size < 1 else str(size) for size in sizes)
        raise ValueError(f"input {name} has free axes ({shown}); export the file with fixed sizes")
