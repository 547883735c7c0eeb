"""The few MP4 boxes (ISO/IEC 14496-12) that libav does not tell about: priming, encryption, ID3 events.

Reads bytes that may be hostile: every box is checked against its parent, and sample tables are before libav believes
them (`bomb`). Start at `Init.read` and `id3_events`; demuxing itself is libav's (segment_media.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

ID3_SCHEMES = (b"https://aomedia.org/emsg/ID3", b"https://developer.apple.com/streaming/emsg-id3")
# Bytes of a sample with its entry in the table, at least.
SHORTEST_SAMPLE = 4
BOXES_THAT_OPEN_A_SEGMENT = {b"ftyp", b"styp", b"moof", b"moov", b"sidx", b"emsg", b"prft", b"free", b"mdat"}


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, first byte of the body, end) of the boxes in a stretch; stops at the first impossible one."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif size == 0:
            size = end - start
        if size < head or start + size > end:
            return
        yield kind, start + head, start + size
        start += size


def find(data: bytes, path: tuple[bytes, ...], start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (first byte of the body, end) of every box at this path."""
    for kind, body, stop in boxes(data, start, end):
        if kind == path[0]:
            if len(path) == 1:
                yield body, stop
            else:
                yield from find(data, path[1:], body, stop)


def bomb(data: bytes) -> str | None:
    """Say why libav must not open this: its sample tables announce far more samples than the data can hold.

    libav makes 36 bytes of memory for each sample that a run or a table of constant sizes announces, before it looks
    whether any is there: 100 bytes could take 100 GiB. Tables are found by their names in all that is not media data,
    because libav is less strict than `boxes` about where a box ends.
    """
    announced, start = 0, 0
    media = [(body, end) for kind, body, end in boxes(data) if kind == b"mdat"]
    for body, end in [*media, (len(data), len(data))]:
        for table, at_count in ((b"trun", 8), (b"stsz", 12), (b"stz2", 12), (b"cmov", 0)):
            at = data.find(table, start, body)
            while at >= 0:
                if table == b"cmov":
                    return "a compressed header"
                announced += int.from_bytes(data[at + at_count : at + at_count + 4], "big")
                at = data.find(table, at + 4, body)
        start = end
    return f"{announced:,} samples in {len(data):,} bytes" if announced > len(data) // SHORTEST_SAMPLE else None


@dataclass(frozen=True)
class Init:
    """What an initialization section says of its audio track.

    Attributes:
        priming_s: seconds of media before the edit list's first edit: encoder delay, no music; facts say that libav,
            asked per segment, would cut it from EVERY segment, so it is cut here once.
        encrypted: the audio is under common encryption (enca).
    """

    priming_s: float = 0.0
    encrypted: bool = False

    @classmethod
    def read(cls, data: bytes) -> Init:
        """Read the first audio track of a moov box; without one, nothing is known."""
        for body, end in find(data, (b"moov", b"trak")):
            handler = next(find(data, (b"mdia", b"hdlr"), body, end), None)
            if handler is None or data[handler[0] + 8 : handler[0] + 12] != b"soun":
                continue
            entries = next(find(data, (b"mdia", b"minf", b"stbl", b"stsd"), body, end), None)
            encrypted = entries is not None and data[entries[0] + 12 : entries[0] + 16] == b"enca"
            return cls(_priming_s(data, body, end), encrypted)
        return cls()


def _priming_s(data: bytes, body: int, end: int) -> float:
    """Return the media time at which the first real edit of a track begins, in seconds."""
    header = next(find(data, (b"mdia", b"mdhd"), body, end), None)
    edits = next(find(data, (b"edts", b"elst"), body, end), None)
    if header is None or edits is None:
        return 0.0
    at = header[0] + (20 if data[header[0]] == 1 else 12)
    if at + 4 > header[1] or edits[0] + 8 > edits[1]:
        return 0.0
    (timescale,) = struct.unpack_from(">I", data, at)
    wide = data[edits[0]] == 1
    (count,) = struct.unpack_from(">I", data, edits[0] + 4)
    step = 20 if wide else 12
    for index in range(min(count, 16)):
        entry = edits[0] + 8 + index * step
        if entry + step > edits[1]:
            break
        media_time = struct.unpack_from(">q" if wide else ">i", data, entry + (8 if wide else 4))[0]
        if media_time >= 0:
            return float(media_time / timescale) if timescale else 0.0
    return 0.0


@dataclass(frozen=True)
class Id3Event:
    """An ID3 tag in an emsg box: at seconds of media time, or (version 0) so long after the segment's begin."""

    tag: bytes
    at_s: float | None
    after_s: float = 0.0


def id3_events(data: bytes) -> Iterator[Id3Event]:
    """Yield the ID3 tags that emsg boxes of a segment carry (CMAF timed metadata, ISO/IEC 23009-1 5.10.3.3)."""
    for kind, body, end in boxes(data):
        if kind != b"emsg" or not 24 < end - body <= 65_536:
            continue
        message = data[body:end]
        if message[0] == 0:  # scheme, value, then the times
            scheme, _, rest = message[4:].partition(b"\0")
            times = rest.partition(b"\0")[2][:8].ljust(8, b"\0")
            timescale, ticks = struct.unpack(">II", times)
        else:
            timescale, ticks = struct.unpack_from(">IQ", message, 4)
            scheme, _, rest = message[24:].partition(b"\0")
        if scheme in ID3_SCHEMES and (start := rest.find(b"ID3")) >= 0:
            seconds = ticks / timescale if timescale else 0.0
            late = message[0] == 0 or not timescale
            yield Id3Event(rest[start:], None if late else seconds, seconds if late else 0.0)
