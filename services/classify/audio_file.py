"""Any audio file as libav's frames: its tags, and all of it that can be heard; what can't is counted, not fatal.

`genre classify` and `genre package` both read files through here, so that both hear the same of a damaged one.
Not here: mixing and resampling. Start at `frames`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.error

from services.errors import GenreError
from services.fetcher.media.decoder import HIGHEST_RATE, LOWEST_RATE, MOST_CHANNELS
from services.text import clean

MOST_DAMAGED = 1_000
"""Packets in a row that can't be decoded before a file is given up: it then is not what its header says."""


@dataclass
class Heard:
    """What became known of a file while it was decoded.

    Attributes:
        damaged: packets that could not be decoded and were left out.
        cut_off: the file itself is damaged, and what followed could not be read.
        unheard: what parts of it had that is out of bounds, e.g. "a sample rate of 768,000 Hz".
    """

    title: str = ""
    artist: str = ""
    damaged: int = 0
    cut_off: bool = False
    unheard: str = ""

    @property
    def left_out(self) -> str:
        """What was left out, in words; '' where nothing was."""
        packets = "packet was" if self.damaged == 1 else "packets were"
        parts = [f"{self.damaged} damaged {packets} left out"] if self.damaged else []
        parts += ["what follows the damage could not be read"] if self.cut_off else []
        parts += [f"a part with {self.unheard} was left out"] if self.unheard else []
        return ", ".join(parts)


def frames(path: Path, heard: Heard) -> Iterator[av.AudioFrame]:
    """Decode a file's first audio track.

    Args:
        heard: filled in on the way.

    Yields:
        frames of 4 to 384 kHz and at most 32 channels; both may change from one to the next.

    Raises:
        GenreError: where there is nothing to hear in it.
    """
    if what := no_file(path):
        raise GenreError(str(path), what, "give the path of an audio file")
    anything = False
    try:
        # "file:" keeps libav from taking a name for a URL or a device.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise GenreError(str(path), "has no audio track", "give an audio file")
            heard.title, heard.artist = tags(container)
            for frame in _decoded(container, heard):
                anything = True
                yield frame
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", "") or error).lower()
        raise GenreError(str(path), f"can't be read as audio ({reason})", "give an audio file") from error
    if heard.unheard and not anything:
        bounds = f"{LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz, {MOST_CHANNELS} channels at most"
        raise GenreError(str(path), f"has {heard.unheard} (heard are {bounds})", "convert it")


def no_file(path: Path) -> str:
    """Return why there is no file to open at a path; '' where there is one."""
    try:
        if path.is_file():
            return ""
        return "is a folder" if path.is_dir() else "is not a file" if path.exists() else "is not there"
    except OSError as error:  # a folder on the way that may not be entered, a name that is too long
        return f"can't be read ({(error.strerror or str(error)).lower()})"


def tags(container: av.container.InputContainer) -> tuple[str, str]:
    """Return title and artist, '' where there is none.

    Ogg's stand with the stream, and taggers write Vorbis comments and Matroska's tags in capitals.
    """
    found: dict[str, str] = {}
    for metadata in (container.streams.audio[0].metadata, container.metadata):
        found.update({key.lower(): value for key, value in metadata.items() if value.strip()})
    return clean(found.get("title", "")), clean(found.get("artist", ""))


def _decoded(container: av.container.InputContainer, heard: Heard) -> Iterator[av.AudioFrame]:
    """Yield good frames; damage in the middle costs that packet, damage in the container the rest."""
    stream = container.streams.audio[0]
    stream.thread_count = 1
    in_a_row = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            heard.cut_off = True
            return
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            heard.damaged += 1
            in_a_row += 1
            if in_a_row >= MOST_DAMAGED:
                heard.cut_off = True
                return
            continue
        for frame in decoded:
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                heard.unheard = f"a sample rate of {rate:,} Hz"
            elif not 0 < channels <= MOST_CHANNELS:
                heard.unheard = f"{channels} channels"
            elif frame.samples:
                in_a_row = 0
                yield frame
