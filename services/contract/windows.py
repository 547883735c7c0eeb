"""Where windows begin in a stretch of audio: the one grid of windows.

Arithmetic on sample counts; no features, no streams. Start at `starts`: its rule is the project's rule for
the ends of an epoch, and training, `genre classify` and the fetcher all follow it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22_050
"""Samples a second of everything on a timeline."""
WINDOW = 66_000
HOP = 33_000


def starts(samples: int, window: int = WINDOW, hop: int = HOP) -> list[int]:
    """Return the first sample of each window of a stretch of audio that has no break.

    A stretch of at least one window is covered to its last sample: the last window is moved back so that it ends
    with the audio. A stretch of 1 s or more but shorter than a window has one, to be filled by `fill`. A shorter one
    has none.
    """
    if samples < window:
        return [0] if samples >= SAMPLE_RATE else []
    count = 1 + -(-(samples - window) // hop)
    return [min(index * hop, samples - window) for index in range(count)]


def fill(pcm: NDArray[np.int16], window: int = WINDOW) -> NDArray[np.int16]:
    """Repeat audio shorter than a window until it fills one."""
    return np.resize(pcm, window) if pcm.size < window else pcm


def cut(pcm: NDArray[np.int16], window: int = WINDOW, hop: int = HOP) -> NDArray[np.int16]:
    """Return the windows of a stretch of audio by the rule of `starts`, shape [windows, window]."""
    filled = fill(pcm, window) if pcm.size >= SAMPLE_RATE else pcm
    firsts = starts(pcm.size, window, hop)
    return np.stack([filled[first : first + window] for first in firsts]) if firsts else np.empty((0, window), np.int16)
