"""What format a segment is, from its first bytes: libav is told, and never guesses. Start at `sniff`."""

from __future__ import annotations

from services.fetcher.media import frames, id3, mp4, transport_stream

MOST_UNREADABLE = 1 << 18
"""Bytes in which frames are looked for behind an unreadable start: 16 s at 128 kbit/s."""


class MediaError(ValueError):
    """A segment without audio that can be decoded; cause is one word for the gap it leaves."""

    def __init__(self, cause: str, detail: str) -> None:
        self.cause, self.detail = cause, detail
        super().__init__(f"{cause}: {detail}")


def sniff(data: bytes, rest: bytes = b"", before: str = "") -> str:
    """Name the format of a segment from its first bytes, as libav calls it.

    Args:
        rest: of a frame that the segment before left unfinished.
        before: format of that segment.

    Raises:
        MediaError: it is none that carries audio.
    """
    if len(data) >= 8 and data[4:8] in mp4.BOXES_THAT_OPEN_A_SEGMENT:
        return "mov"
    start = id3.strip(data)[1]
    if rest and before in frames.PARSERS and _frames_at(rest + data[start:], 0) == before:
        return before
    if name := _frames_at(data, start):
        return name
    if transport_stream.begins(data):
        return "mpegts"
    if data[start : start + 4] == b"fLaC":
        return "flac"
    if not data:
        raise MediaError("empty", "the segment has no bytes")
    if data.lstrip()[:1] == b"<":
        raise MediaError("not-media", "the server sent a page (HTML or XML) instead of a segment")
    if data[:6] == b"WEBVTT":
        raise MediaError("no-audio", "the segment is subtitles")
    if name := _frames_somewhere(data, start):
        return name
    raise MediaError("not-media", "the bytes are no known media format")


def _frames_at(data: bytes, at: int, most: int = 2) -> str | None:
    """Name the packed audio whose frames follow each other here: so many, or all that there are."""
    for name in ("aac", "ac3", "mp3"):
        parse, place, count, form = frames.PARSERS[name], at, 0, -1
        while count < most and (header := parse(data, place)) is not None and form in (header.form, -1):
            form = header.form
            count += 1
            place += header.length
        if count and (count == most or place >= len(data) or id3.tag_length(data, place)):
            return "eac3" if name == "ac3" and form >> 8 > 10 else name
    return None


def _frames_somewhere(data: bytes, start: int) -> str | None:
    """Name the packed audio that begins behind an unreadable start: four frames in a row are no accident."""
    for mark in (b"\xff", b"\x0b\x77"):
        at = data.find(mark, start, start + MOST_UNREADABLE)
        while at >= 0:
            if name := _frames_at(data, at, 4):
                return name
            at = data.find(mark, at + 1, start + MOST_UNREADABLE)
    return None
