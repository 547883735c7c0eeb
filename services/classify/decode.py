"""Any audio file as 22,050 Hz mono int16, piece by piece, with the same mixing and resampling as the fetcher's.

A file of many hours takes no more memory than one of a minute. Not here: windows. Start at `pieces`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from services.fetcher.decoder import HIGHEST_RATE, LOWEST_RATE, MOST_CHANNELS, Resampler, floats, mono

SUFFIXES = frozenset(
    [
        ".aac",
        ".ac3",
        ".aif",
        ".aiff",
        ".alac",
        ".ape",
        ".au",
        ".caf",
        ".flac",
        ".m4a",
        ".m4b",
        ".mka",
        ".mp2",
        ".mp3",
        ".mp4",
        ".mpc",
        ".oga",
        ".ogg",
        ".opus",
        ".ts",
        ".tta",
        ".wav",
        ".webm",
        ".wma",
        ".wv",
    ]
)
PIECE_S = 20
MOST_DAMAGED = 1_000
"""Packets in a row that can't be decoded before a file is given up: it then is not what its header says."""


@dataclass
class Decoded:
    """What became known of a file while it was decoded.

    Attributes:
        damaged: packets that could not be decoded and were left out.
    """

    title: str = ""
    artist: str = ""
    damaged: int = 0


def pieces(path: Path, about: Decoded) -> Iterator[NDArray[np.int16]]:
    """Decode a file's first audio track.

    Args:
        about: filled in on the way.

    Yields:
        int16, mono, 22,050 Hz, some 20 s each.

    Raises:
        GenreError: where there is nothing to hear in it.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "is not there"
        raise GenreError(str(path), what, "give the path of an audio file")
    try:
        # The bare path: "file:" keeps libav from taking a name for a URL or a device.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise GenreError(str(path), "has no audio track", "give an audio file")
            about.title, about.artist = (container.metadata.get(key, "")[:512] for key in ("title", "artist"))
            yield from _decoded(container, about)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", "") or error).lower()
        raise GenreError(str(path), f"can't be read as audio ({reason})", "give an audio file") from error


def _decoded(container: av.container.InputContainer, about: Decoded) -> Iterator[NDArray[np.int16]]:
    """Decode, mix and resample; a change of rate in mid-file goes on with a new resampler."""
    stream = container.streams.audio[0]
    stream.thread_count = 1
    resampler: Resampler | None = None
    waiting: list[NDArray[np.float32]] = []
    count = 0
    for frame in _frames(container, stream, about):
        if resampler is None or resampler.rate != frame.sample_rate:
            if resampler is not None:
                yield np.concatenate(
                    [resampler.feed(np.concatenate(waiting)) if waiting else _NOTHING, resampler.drain()]
                )
                waiting, count = [], 0
            resampler = Resampler(frame.sample_rate)
        waiting.append(mono(floats(frame)))
        count += frame.samples
        if count >= PIECE_S * frame.sample_rate:
            yield resampler.feed(np.concatenate(waiting))
            waiting, count = [], 0
    if resampler is not None:
        yield np.concatenate([resampler.feed(np.concatenate(waiting)) if waiting else _NOTHING, resampler.drain()])


_NOTHING = np.zeros(0, np.int16)


def _frames(container: av.container.InputContainer, stream: av.AudioStream, about: Decoded) -> Iterator[av.AudioFrame]:
    """Yield good frames; damage in the middle costs that packet, damage in the container the rest."""
    in_a_row = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            about.damaged += 1
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            about.damaged += 1
            in_a_row += 1
            if in_a_row >= MOST_DAMAGED:
                return
            continue
        for frame in frames:
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if frame.samples and LOWEST_RATE <= rate <= HIGHEST_RATE and 0 < channels <= MOST_CHANNELS:
                in_a_row = 0
                yield frame
