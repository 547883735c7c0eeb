"""ID3v2 tags as HLS uses them: the timestamp of a packed audio segment, and what plays (TIT2, TPE1).

Reads versions 2.2 to 2.4 from bytes that may be hostile: nothing here reads outside the tag or loops without advance.
Start at `strip` for packed audio, `read` for one tag. Titles in EXTINF are read here too (`from_extinf`).

Not mutagen (1.48, measured): it expands a compressed frame without a bound (a tag of 204 kB became 210 MB of text in 6
s), refuses a tag that is cut off, and takes 590 us for the timestamp of a packed audio segment where this takes 28.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.text import clean

TIMESTAMP_OWNER = b"com.apple.streaming.transportStreamTimestamp"
HEADER_BYTES = 10
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")
_FRAME_NAME = re.compile(rb"[A-Z][A-Z0-9]{3}")
_TEXT_LIMIT = 500


@dataclass(frozen=True)
class Tags:
    """What the tags of a segment say; timestamp is a 90 kHz PTS (33 bits)."""

    timestamp: int | None = None
    title: str = ""
    artist: str = ""

    def __bool__(self) -> bool:
        """Say whether a title or artist is there."""
        return bool(self.title or self.artist)


def strip(data: bytes) -> tuple[Tags, int]:
    """Read the ID3 tags that stand before packed audio; return them together and where the audio begins."""
    tags, start = Tags(), 0
    while len(data) - start > HEADER_BYTES and data[start : start + 3] == b"ID3":
        length = _id3_length(data, start)
        found = read(data[start : start + length])
        tags = Tags(
            tags.timestamp if found.timestamp is None else found.timestamp,
            found.title or tags.title,
            found.artist or tags.artist,
        )
        start += length
    return tags, min(start, len(data))


def read(tag: bytes) -> Tags:
    """Read one ID3v2 tag; what can't be read is left out."""
    timestamp, title, artist = None, "", ""
    for name, body in _frames(tag):
        if name in ("TIT2", "TT2"):
            title = _text(body)
        elif name in ("TPE1", "TP1"):
            artist = _text(body)
        elif name == "PRIV" and TIMESTAMP_OWNER + b"\0" in body[:-8]:
            # The value is the last eight bytes: some packagers end the owner with two zeros.
            timestamp = int.from_bytes(body[-8:], "big") & ((1 << 33) - 1)
    return Tags(timestamp, title, artist)


def from_extinf(text: str) -> Tags:
    """Read what plays from the title of an EXTINF: `title="..",artist=".."` or `Artist - Title`.

    Plain text without a dash is no title: packagers write file names, numbers and "no desc" there.
    """
    named = {name.lower(): value for name, value in re.findall(r'(title|artist)\s*=\s*"([^"]*)"', text[:2_000], re.I)}
    if named:
        return Tags(None, _clean(named.get("title", "")), _clean(named.get("artist", "")))
    artist, dash, title = text[:2_000].partition(" - ")
    return Tags(None, _clean(title), _clean(artist)) if dash and title.strip() and artist.strip() else Tags()


def tag_length(data: bytes, at: int) -> int:
    """Return how long the tag is that begins here, in bytes that are left: ID3v2, ID3v1 or APE; 0 where none does."""
    head = data[at : at + 32]
    length = 0
    if head[:3] == b"ID3" and len(head) >= HEADER_BYTES and head[3] < 0xFF and not any(b & 0x80 for b in head[6:10]):
        length = _id3_length(head, 0)
    elif head[:3] == b"TAG":
        length = 128
    elif head[:8] == b"APETAGEX" and len(head) == 32:
        # Of a header's own 32 bytes nothing is counted, a footer's are.
        length = int.from_bytes(head[12:16], "little") + 32 if head[23] & 0x20 else 32
    return min(length, len(data) - at)


def _id3_length(data: bytes, start: int) -> int:
    """Return the length of the ID3v2 tag that begins at start, header and footer included."""
    body = _synchsafe(data[start + 6 : start + 10])
    footer = HEADER_BYTES if data[start + 5] & 0x10 else 0
    return HEADER_BYTES + body + footer


def _synchsafe(four: bytes) -> int:
    """Read a 28-bit number, 7 bits a byte."""
    value = 0
    for byte in four:
        value = (value << 7) | (byte & 0x7F)
    return value


def _frames(tag: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and body of each frame."""
    if len(tag) <= HEADER_BYTES or tag[:3] != b"ID3":
        return
    major, flags = tag[3], tag[5]
    body = tag[HEADER_BYTES : HEADER_BYTES + _synchsafe(tag[6:10])]
    if flags & 0x80 and major < 4:  # unsynchronisation of the whole tag
        body = body.replace(b"\xff\x00", b"\xff")
    at = 0
    if flags & 0x40 and major >= 3:  # extended header
        extended = body[:4]
        at = _synchsafe(extended) if major == 4 else int.from_bytes(extended, "big") + 4
    name_bytes, head = (3, 6) if major == 2 else (4, 10)
    while at + head <= len(body) and body[at] != 0:
        name = body[at : at + name_bytes].decode("latin-1")
        size_field = body[at + name_bytes : at + name_bytes + (3 if major == 2 else 4)]
        size = int.from_bytes(size_field, "big")
        if major == 4 and (_begins(body, at + head + _synchsafe(size_field)) or not _begins(body, at + head + size)):
            size = _synchsafe(size_field)  # else it is of those that write plain sizes into 2.4, as iTunes did
        frame = body[at + head : at + head + size]
        if major == 4 and body[at + 9] & 0x02:
            frame = frame.replace(b"\xff\x00", b"\xff")
        if major == 4 and body[at + 9] & 0x01:
            frame = frame[4:]
        yield name, frame
        at += head + size


def _begins(body: bytes, at: int) -> bool:
    """Say whether a frame, the padding or the end is here."""
    return at == len(body) or body[at : at + 1] == b"\0" or _FRAME_NAME.match(body, at) is not None


def _text(body: bytes) -> str:
    """Decode a text frame; several values become one line."""
    if not body or body[0] >= len(_ENCODINGS):
        return ""
    return _clean(body[1 : 1 + 4 * _TEXT_LIMIT].decode(_ENCODINGS[body[0]], "replace"))


def _clean(text: str) -> str:
    """Return text on one line, without what a terminal or a broker obeys, of bearable length."""
    kept = clean(text.rstrip("\0").replace("\0", " / "), 2 * _TEXT_LIMIT)
    return " ".join(kept.replace("\ufffd", "").split())[:_TEXT_LIMIT]
