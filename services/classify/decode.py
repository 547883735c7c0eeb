"""Any audio file as 22,050 Hz mono int16, piece by piece, with the same mixing and resampling as the fetcher's.

A file of many hours takes no more memory than one of a minute. Not here: windows. Start at `pieces`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.classify.audio_file import Heard, frames
from services.fetcher.media.decoder import Resampler, floats, mono

PIECE_S = 20
_NOTHING = np.zeros(0, np.float32)


def pieces(path: Path, heard: Heard) -> Iterator[NDArray[np.int16]]:
    """Decode, mix and resample a file's first audio track; where its rate changes, a new resampler goes on.

    Args:
        heard: filled in on the way.

    Yields:
        int16, mono, 22,050 Hz, some 20 s each.

    Raises:
        GenreError: where there is nothing to hear in it.
    """
    resampler: Resampler | None = None
    waiting: list[NDArray[np.float32]] = []
    count = 0
    for frame in frames(path, heard):
        if resampler is None or resampler.rate != frame.sample_rate:
            if resampler is not None:
                yield _rest(resampler, waiting)
                waiting, count = [], 0
            resampler = Resampler(frame.sample_rate)
        waiting.append(mono(floats(frame)))
        count += frame.samples
        if count >= PIECE_S * frame.sample_rate:
            yield resampler.feed(np.concatenate(waiting))
            waiting, count = [], 0
    if resampler is not None:
        yield _rest(resampler, waiting)


def _rest(resampler: Resampler, waiting: list[NDArray[np.float32]]) -> NDArray[np.int16]:
    return np.concatenate([resampler.feed(np.concatenate([_NOTHING, *waiting])), resampler.drain()])
