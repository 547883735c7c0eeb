"""What a URL gives, by its first bytes alone: an HLS playlist, a list of stations, audio, or something else by name.

Content types and file names are not looked at: servers get them wrong too often. Pure; start at `what_is`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from services.fetcher.media.frames import Parser, adts, mpeg
from services.fetcher.media.id3 import HEADER_BYTES
from services.text import clean

MOST_HEAD = 16_384
"""So many bytes are enough: three frames of MP3 at 320 kbit/s are 3,135, a large Ogg header page 4,500."""
FRAMES_IN_A_ROW = 3
"""So many frames that follow each other are no accident."""
SEGMENT_ENDINGS = (".ts", ".m4s", ".mp4", ".m4a", ".aac", ".mp3", ".ac3", ".ec3", ".cmfa")


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        kind: hls: a playlist for the HLS side; list: a list that names stations; audio: to be decoded; other: neither.
        what: of audio libav's name of the format (mp3, aac, ogg, flac), of a list its own (m3u, pls, xspf, asx).
        words: for a person.
    """

    kind: Literal["hls", "list", "audio", "other"]
    what: str
    words: str


def what_is(head: bytes, complete: bool = False) -> Found | None:
    """Name what begins with these bytes; None where more of them are needed.

    Args:
        head: of the body.
        complete: no more will come, or none are waited for.
    """
    complete = complete or len(head) >= MOST_HEAD
    if not head.strip():
        return Found("other", "", "empty") if complete else None
    for signature, found in _SIGNATURES:
        if head.startswith(signature):
            return found
    if head.startswith(b"OggS"):
        return _ogg(head, complete)
    if head.startswith(b"ID3"):
        return _tagged(head, complete)
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"moof"):
        return Found("other", "", "an MP4 file")
    if frames := _frames(head, complete):
        return frames
    if all(head[at : at + 1] == b"\x47" for at in (0, 188, 376)):
        return Found("other", "", "an MPEG transport stream without a playlist")
    if text := _text(head):
        return _of_text(text, complete)
    if not complete:
        return None
    return Found("other", "", f"binary data that is no known audio (it begins {head[:8].hex(' ')})")


_SIGNATURES = [
    (b"fLaC", Found("audio", "flac", "FLAC")),
    *(
        (signature, Found("other", "", words))
        for signature, words in (
            (b"RIFF", "a WAV or AVI file"),
            (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (ASF)"),
            (b".RMF", "RealMedia"),
            (b"\x1aE\xdf\xa3", "WebM or Matroska"),
            (b"FLV", "Flash video"),
            (b"ADIF", "AAC in an ADIF file"),
            (b"\x56\xe0", "AAC in LOAS"),
            (b"\x1f\x8b", "a gzip file"),
            (b"PK\x03\x04", "a ZIP file"),
            (b"%PDF", "a PDF file"),
            (b"\x89PNG", "a picture"),
            (b"GIF8", "a picture"),
            (b"\xff\xd8\xff", "a picture"),
        )
    ),
]
_IN_OGG = {
    b"\x01vorbis": "Ogg Vorbis",
    b"OpusHead": "Ogg Opus",
    b"\x7fFLAC": "Ogg FLAC",
}
_NOT_IN_OGG = {b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead\0": "", b"\x01video": "video"}


def _ogg(head: bytes, complete: bool) -> Found | None:
    """Name the codec of an Ogg stream: of the pages that begin its logical streams, one has to be audio."""
    other = ""
    at = 0
    while len(head) >= at + 27 and head[at : at + 4] == b"OggS" and head[at + 5] & 2:
        body = at + 27 + head[at + 26]
        for magic, words in _IN_OGG.items():
            if head.startswith(magic, body):
                return Found("audio", "ogg", words)
        other = next((words for magic, words in _NOT_IN_OGG.items() if head.startswith(magic, body)), other)
        at = body + sum(head[at + 27 : body])
    if len(head) < at + 36 and not complete:
        return None
    return Found("other", "", f"Ogg without Vorbis, Opus or FLAC ({other or 'an unknown codec'})")


def _tagged(head: bytes, complete: bool) -> Found | None:
    """Look behind an ID3 tag; where it is longer than the head, what carries such tags is MP3."""
    if len(head) < HEADER_BYTES:
        return Found("other", "", "an ID3 tag and nothing else") if complete else None
    length = HEADER_BYTES + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    if length >= MOST_HEAD:
        return Found("audio", "mp3", "MP3")
    if len(head) <= length:
        return Found("other", "", "an ID3 tag and nothing else") if complete else None
    return what_is(head[length:], complete)


def _frames(head: bytes, complete: bool) -> Found | None:
    """Look for frames in a row; a listener who joins in gets the rest of another one first."""
    at = head.find(b"\xff")
    while 0 <= at < len(head) - 1:
        for parse, found in ((adts, Found("audio", "aac", "AAC (ADTS)")), (mpeg, Found("audio", "mp3", "MP3"))):
            if _in_a_row(parse, head, at, complete):
                return found
        at = head.find(b"\xff", at + 1)
    return None


def _in_a_row(parse: Parser, head: bytes, at: int, complete: bool) -> bool:
    """Say whether frames of one form follow each other from here on; of a body that ends here, fewer are enough."""
    count, form = 0, None
    while count < FRAMES_IN_A_ROW:
        header = parse(head, at)
        if header is None or form not in (None, header.form):
            return complete and count > 0 and at == len(head)
        form = header.form
        count, at = count + 1, at + header.length
    return True


def _text(head: bytes) -> str:
    """Return the text, or nothing where it is none: text has no control characters, and more than a few letters."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head.decode("utf-16", "replace")
    text = head.decode("utf-8", "replace").lstrip("\ufeff")
    if text.lstrip().startswith("#EXTM3U"):
        return text  # titles in it may hold anything
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head.rstrip(b"\0")[:1_024]):
        return ""
    return text if text.count("\ufffd") <= len(text) // 10 else ""


def _of_text(text: str, complete: bool) -> Found | None:
    """Name a text: by its tags where it has such, else by its lines."""
    low = text.lstrip().lower()
    if low.startswith(('"', "{", "[{", '["')) and "#extm3u" in low:
        return Found("other", "", "a playlist inside JSON")
    if "#ext-x-" in low:
        return Found("hls", "", "an HLS playlist")
    if low.startswith("[playlist]"):
        return Found("list", "pls", "a .pls list")
    if low.startswith("<"):
        for tag, found in (
            ("<asx", Found("list", "asx", "an .asx list")),
            ("xspf", Found("list", "xspf", "an .xspf list")),
            ("<mpd", Found("other", "", "a DASH manifest")),
            ("<smoothstreamingmedia", Found("other", "", "a Smooth Streaming manifest")),
            ("<rss", Found("other", "", "an RSS feed")),
            ("<html", Found("other", "", "an HTML page")),
            ("<!doctype html", Found("other", "", "an HTML page")),
        ):
            if tag in low:
                return found
        return Found("other", "", "an HTML page or XML") if complete else None
    if not complete:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    entries = [line for line in lines if not line.startswith("#")]
    lengths = re.findall(r"#extinf:\s*(-?[\d.]+)", low)
    timed = bool(lengths) and all(not length.startswith("-") and length.strip("0.") for length in lengths)
    if timed and all(entry.partition("?")[0].lower().endswith(SEGMENT_ENDINGS) for entry in entries):
        return Found("hls", "", "an HLS playlist")
    if low.startswith("#extm3u") and not entries:
        return Found("hls", "", "an HLS playlist")
    if entries and (low.startswith("#extm3u") or lengths or re.match(r"https?://", entries[0], re.IGNORECASE)):
        return Found("list", "m3u", "an .m3u list")
    return Found("other", "", f"text that is no playlist ({clean(text[:60])!r})")
