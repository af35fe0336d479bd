"""Sounds: how they are decoded to a model's input, and what bad ones get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core import Audio
from pipeline.datasets import _audio, audiofolder, fsdd
from pipeline.errors import BadData
from tests.datasets import synthetic

HALF_A_SECOND = Audio(8000, 4000, (0.0,), (1.0,))


def frequency(waveform: np.ndarray, rate: int) -> float:
    """The frequency with the largest power."""
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform))


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_every_format_gives_the_same_tone(form: str) -> None:
    decoded = _audio.decode(synthetic.sound(synthetic.tone(440), form=form), "a", HALF_A_SECOND)
    assert decoded.dtype == np.float32 and decoded.shape == (4000,)
    assert decoded == pytest.approx(synthetic.tone(440)[:, 0], abs=0.1 if form == "OGG" else 1e-4)


def test_channels_are_averaged() -> None:
    stereo = np.concatenate([synthetic.tone(440), np.zeros((4000, 1), np.float32)], axis=1)
    decoded = _audio.decode(synthetic.sound(stereo), "a", HALF_A_SECOND)
    assert decoded == pytest.approx(synthetic.tone(440)[:, 0] / 2, abs=1e-4)


@pytest.mark.parametrize("rate", [16000, 44100, 11025])
def test_another_rate_is_resampled(rate: int) -> None:
    decoded = _audio.decode(synthetic.sound(synthetic.tone(440, rate=rate), rate), "a", HALF_A_SECOND)
    assert decoded.shape == (4000,) and abs(frequency(decoded, 8000) - 440) < 3


def test_a_long_sound_is_cut_and_a_short_one_filled_with_zeros() -> None:
    long, short = (
        _audio.decode(synthetic.sound(synthetic.tone(440, seconds=seconds)), "a", HALF_A_SECOND)
        for seconds in (1.0, 0.25)
    )
    assert np.abs(long[-100:]).max() > 0.2
    assert np.abs(short[1900:2000]).max() > 0.2 and not short[2000:].any()


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound", synthetic.sound(np.zeros((0, 1), np.float32))])
def test_what_is_no_sound_or_empty_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    files = synthetic.sound_files("", {"low": 300.0, "high": 1500.0}, 10)
    files = dict.fromkeys(files, content)
    data = synthetic.as_folder(tmp_path / "sounds", files)
    split = audiofolder.load(data, "train", HALF_A_SECOND)
    with pytest.raises(BadData, match=r"(low|high)/\d\d\.wav"):
        split.read(0)


def test_folders_of_splits_are_used_as_they_are(tmp_path: Path) -> None:
    classes = {"low": 300.0, "high": 1500.0}
    files = synthetic.sound_files("train/", classes, 20) | synthetic.sound_files("test/", classes, 5, seed=500)
    for data in (synthetic.as_folder(tmp_path / "sounds", files), synthetic.as_zip(tmp_path / "sounds.zip", files)):
        sizes = [len(audiofolder.load(data, split, HALF_A_SECOND)) for split in ("train", "validation", "test")]
        assert sizes == [36, 4, 10] and audiofolder.classes(data) == ("high", "low")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"a.wav": b""}, "a.wav"),
        ({"low/a.wav": b"1", "low/b.wav": b"2"}, "two"),
        ({"train/low/a.wav": b"1", "train/high/b.wav": b"2"}, "train"),
        ({"low/a.txt": b"1"}, "0 class folders"),
    ],
)
def test_a_folder_of_another_form_is_refused(files: dict[str, bytes], named: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=named):
        audiofolder.load(synthetic.as_folder(tmp_path / "data", files), "train", HALF_A_SECOND)


def test_the_first_five_recordings_of_every_speaker_are_the_test_split(tmp_path: Path) -> None:
    data = synthetic.as_folder(tmp_path / "fsdd", synthetic.spoken_digits(8))
    assert [len(fsdd.load(data, split, HALF_A_SECOND)) for split in ("train", "validation", "test")] == [20, 10, 50]
