"""What a media segment is, as a source hands it to the timeline: where it lies, how long it is, how it is encrypted.

Values only, in the words of RFC 8216. hls/playlist.py makes them, timeline/epochs.py turns their bytes into audio.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ByteRange:
    """A sub-range of a resource (EXT-X-BYTERANGE)."""

    length: int
    offset: int


@dataclass(frozen=True)
class Key:
    """How media is encrypted (EXT-X-KEY); iv is None where the media sequence number serves as one."""

    method: str
    uri: str
    iv: bytes | None
    keyformat: str


@dataclass(frozen=True)
class Map:
    """A media initialization section (EXT-X-MAP)."""

    uri: str
    byterange: ByteRange | None
    key: Key | None


@dataclass(frozen=True)
class Segment:
    """A media segment; media_sequence and discontinuity_sequence are its own numbers, not the list's."""

    media_sequence: int
    discontinuity_sequence: int
    uri: str
    duration: float
    title: str = ""
    byterange: ByteRange | None = None
    key: Key | None = None
    map: Map | None = None
    gap: bool = False
    program_date_time: float | None = None
