"""ICY metadata (Shoutcast, Icecast): blocks of text between the bytes of the audio, every so many bytes.

A block is one byte, a sixteenth of its length, and text such as `StreamTitle='Artist - Title';`, filled up with zeros.
Pure; start at `IcyFilter.feed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.fetcher.media.id3 import Tags

HEADER = "icy-metaint"
_TITLE = re.compile(r"StreamTitle\s*=\s*'(.*?)'\s*(?:;\s*(?:[A-Za-z]\w*\s*=|$)|$)", re.IGNORECASE | re.DOTALL)


def interval_of(header: str | None) -> int:
    """Read the interval of metadata in bytes from the response's header; 0 where there is none."""
    text = (header or "").strip()
    return int(text) if re.fullmatch(r"\d{1,9}", text) else 0


def tags_of(block: bytes) -> Tags:
    """Read what plays: `Artist - Title`, or a title alone."""
    block = block.rstrip(b"\0")
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        text = block.decode("cp1252", "replace")
    match = _TITLE.search(text.strip())
    if match is None:
        return Tags()
    artist, dash, title = match[1].strip().partition(" - ")
    return Tags(None, title.strip(), artist.strip()) if dash else Tags(None, artist, "")


class IcyFilter:
    """Takes the metadata out of a response's bytes.

    Args:
        interval: bytes of audio between two blocks; 0 where there are none.
    """

    def __init__(self, interval: int) -> None:
        self._interval = self._audio_left = interval
        self._block = bytearray()
        self._block_left = 0

    def feed(self, data: bytes) -> Iterator[bytes | Tags]:
        """Yield stretches of audio, and what the blocks between them say."""
        if not self._interval:
            yield data
            return
        at = 0
        while at < len(data):
            if self._audio_left:
                part = data[at : at + self._audio_left]
                self._audio_left -= len(part)
                at += len(part)
                yield part
            elif self._block_left:
                part = data[at : at + self._block_left]
                self._block += part
                self._block_left -= len(part)
                at += len(part)
                if not self._block_left:
                    yield tags_of(bytes(self._block))
                    self._block.clear()
                    self._audio_left = self._interval
            else:
                self._block_left = 16 * data[at]
                at += 1
                if not self._block_left:
                    self._audio_left = self._interval
