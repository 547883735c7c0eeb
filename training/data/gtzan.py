"""What a clip of music is, its samples by the service's own decoder, and its windows; GTZAN's genres.

Not a data set (training/data/data_set.py reads those) and not a split. Start at `read`, then `windows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.classify.audio_file import Heard, frames, no_file
from services.contract.windows import HOP, SAMPLE_RATE, WINDOW, cut
from services.errors import GenreError
from services.fetcher.media.decoder import Resampler, floats, mono

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
"""GTZAN's ten genres, alphabetical."""
NO_GENRE = ("music", "speech", "other", "silence")
"""What an index may say instead of a genre; ``music`` is music of no known genre."""
LONGEST_S = 600
"""A longer file is no clip; it would only fill the memory."""

Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """One piece of music with its genre.

    Attributes:
        name: the data set's own name for it, for example ``blues.00042``; unique within a folder.
        artist: where an index or the file's tags say so; "" where they do not.
        genres: all genres of the clip's data set, in the order of labels.
    """

    name: str
    genre: str
    path: Path
    artist: str = ""
    genres: tuple[str, ...] = GENRES

    @property
    def label(self) -> int:
        """Place of the genre among the data set's."""
        return self.genres.index(self.genre)

    @property
    def kind(self) -> str:
        """What kind of sound it is: any genre is music."""
        return self.genre if self.genre in NO_GENRE else "music"


@dataclass(frozen=True)
class Windows:
    """The windows of one clip.

    Attributes:
        pcm: int16, shape [windows, 66000].
        padded: the clip is shorter than a window and was repeated to fill one.
    """

    pcm: NDArray[np.int16]
    padded: bool


def read(path: Path, channel: int | None = None) -> Pcm:
    """Read one audio file as the service would: int16, mono, 22,050 Hz, shape [samples].

    Args:
        channel: this one alone, where there are several; else their mean.

    Raises:
        GenreError: for a file that is missing, broken, empty, shorter than one second or longer than ten minutes.
    """
    remedy = "replace the file or leave it out"
    if path.suffix.lower() == ".au" and not no_file(path) and not _has_au_header(path):
        # GTZAN's broken jazz.00054: libav would search it for something to decode, and might find it.
        raise GenreError(str(path), "can't be read (it has no header)", remedy)
    parts: list[NDArray[np.float32]] = []
    rate, held = 0, 0.0
    for frame in frames(path, Heard()):
        rate = rate or frame.sample_rate
        held += frame.samples / frame.sample_rate
        if held > LONGEST_S:
            raise GenreError(str(path), f"lasts longer than {LONGEST_S} s", "cut it into clips")
        if frame.sample_rate != rate:
            raise GenreError(str(path), "changes its sample rate", remedy)
        native = floats(frame)
        if not all(np.isfinite(each).all() for each in native):
            raise GenreError(str(path), "holds samples that are not finite", remedy)
        parts.append(mono(native if channel is None else (native[min(channel, len(native) - 1)],)))
    if not parts:
        raise GenreError(str(path), "holds no samples", remedy)
    resampler = Resampler(rate)
    pcm: Pcm = np.concatenate([resampler.feed(np.concatenate(parts)), resampler.drain()])
    if pcm.size < SAMPLE_RATE:
        raise GenreError(str(path), f"lasts {pcm.size / SAMPLE_RATE:.2f} s, less than one second", remedy)
    return pcm


def windows(pcm: Pcm, tail: Literal["moved back", "dropped"] = "moved back", hop: int = HOP) -> Windows:
    """Cut one clip into windows.

    Args:
        pcm: the clip, from `read`.
        tail: what is left after the last whole hop. ``moved back`` covers it with a window that ends with the audio,
            as the service does (20 windows in a GTZAN clip of 661,794 samples); ``dropped`` leaves it out, as the
            paper does (19 windows in each of GTZAN's clips, whose lengths differ a little).
        hop: samples between windows.
    """
    if tail == "dropped" and pcm.size > WINDOW:
        pcm = pcm[: WINDOW + (pcm.size - WINDOW) // hop * hop]
    return Windows(cut(pcm, WINDOW, hop), pcm.size < WINDOW)


def _has_au_header(path: Path) -> bool:
    """Tell whether a file begins as Sun's .au files do; of one that can't be read, `frames` says why."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (b".snd", b"dns.")
    except OSError:
        return True
