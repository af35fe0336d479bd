"""The constants of log-mel features: the Fourier transform of windowed frames, and the mel filters.

Frames of 256 samples (32 ms at 8 kHz) begin every 128 samples, with a periodic Hann window and no padding. The power of
a frame is divided by the number of samples. The filters are triangles on the mel scale of HTK: 2595 log10(1 + f / 700).

Source: S. Young et al., The HTK Book, 2006, section 5.6.
"""

import math

import numpy as np

FRAME, HOP, MELS, RATE = 256, 128, 32, 8000
LOWEST, HIGHEST = 60.0, 3800.0
SMALLEST = 1e-6
"""Is added to each filter's power before the logarithm: silence becomes log(1e-6)."""
MEAN, STD = -12.1, 2.9
"""Of the features over the training split of FSDD; the network gets (features - MEAN) / STD."""


def fourier() -> np.ndarray:
    """Cosines, then sines, of all frequencies, times the window: float32 (2 · (FRAME / 2 + 1), FRAME)."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    phase = 2 * np.pi * np.outer(np.arange(FRAME // 2 + 1), np.arange(FRAME)) / FRAME
    return (np.concatenate([np.cos(phase), np.sin(phase)]) * window / math.sqrt(FRAME)).astype(np.float32)


def mel() -> np.ndarray:
    """The filters: float32 (MELS, FRAME / 2 + 1)."""

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(to_mel(LOWEST), to_mel(HIGHEST), MELS + 2) / 2595) - 1)
    frequencies = np.arange(FRAME // 2 + 1) * RATE / FRAME
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
