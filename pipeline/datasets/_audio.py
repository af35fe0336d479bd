"""Decodes a sound to the model's input, for all datasets of sounds; on a device, the app does the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import TYPE_CHECKING

from pipeline import registry
from pipeline.core import Audio
from pipeline.datasets import Split, _splits
from pipeline.errors import BadData
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


@cache
def identity() -> str:
    """What decides the samples of a sound besides its content and the preprocessing: this code, and its packages."""
    return digest([registry.code_hash(__name__), registry.versions(("soundfile", "scipy"))])


@dataclass(frozen=True)
class Sound:
    """A sound file."""

    name: str
    label: int
    content: bytes


def split(sounds: Sequence[Sound], preprocessing: Audio) -> Split:
    """A split of these sounds in pseudo-random order by content; they are decoded on demand."""
    import numpy as np

    by_name = {sound.name: sound for sound in sounds}
    ordered = _splits.ranked(_samples(sounds), "order")
    return Split(
        labels=np.array([sample.label for sample in ordered], dtype=np.int64),
        sha256=digest({
            "samples": [tuple(sample) for sample in ordered], "preprocessing": preprocessing, "decoder": identity()
        }),
        read=_Reader(tuple(by_name[sample.name] for sample in ordered), preprocessing),
        contents=tuple(sample.sha256 for sample in ordered),
    )  # fmt: skip


def divided(sounds: Sequence[Sound], split: str) -> list[Sound]:
    """The sounds of one of SPLITS, of sounds that the source does not divide: shares of each class, by content."""
    test, rest = _chosen(sounds, _splits.TEST_SHARE, "test")
    return test if split == "test" else training(rest, split)


def training(sounds: Sequence[Sound], split: str) -> list[Sound]:
    """The sounds of the train or validation split, of those that the source uses for training."""
    validation, train = _chosen(sounds, _splits.VALIDATION_SHARE, "validation")
    return {"train": train, "validation": validation}[split]


def _chosen(sounds: Sequence[Sound], share: float, salt: str) -> tuple[list[Sound], list[Sound]]:
    """A share of every class, and the rest; see `_splits.divide`."""
    by_name = {sound.name: sound for sound in sounds}
    chosen, rest = _splits.divide(_samples(sounds), share, salt)
    return [by_name[sample.name] for sample in chosen], [by_name[sample.name] for sample in rest]


def _samples(sounds: Sequence[Sound]) -> list[_splits.Sample]:
    return [_splits.Sample(sound.name, sound.label, hashlib.sha256(sound.content).hexdigest()) for sound in sounds]


@dataclass(frozen=True)
class _Reader:
    """Implements Split.read; a class, so that worker processes can receive it."""

    sounds: tuple[Sound, ...]
    preprocessing: Audio

    def __call__(self, index: int) -> NDArray[np.float32]:
        return decode(self.sounds[index].content, self.sounds[index].name, self.preprocessing)


def decode(content: bytes, where: str, preprocessing: Audio) -> NDArray[np.float32]:
    """The model's input for the content of a sound file: float32 (samples,), usually from -1 to 1.

    Channels are averaged. Another rate is resampled by scipy.signal.resample_poly, with its Kaiser window.

    Args:
        where: the file's name, for messages.

    Raises:
        BadData: it is no sound, or it is empty.
    """
    import numpy as np

    with registry.extra("audio"):
        import soundfile
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise BadData(f"{where}: cannot be read as a sound ({error}); replace or remove the file") from error
    if not len(samples):
        raise BadData(f"{where}: the sound is empty; replace or remove the file")
    mono = samples.mean(axis=1)
    if rate != preprocessing.rate:
        from scipy.signal import resample_poly

        common = gcd(rate, preprocessing.rate)
        mono = resample_poly(mono, preprocessing.rate // common, rate // common)
    return fit(np.asarray(mono, np.float32), preprocessing.samples)


def fit(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """The first `samples` of a waveform, filled with zeros at its end."""
    import numpy as np

    found = np.zeros(samples, np.float32)
    kept = min(samples, len(waveform))
    found[:kept] = waveform[:kept]
    return found
