"""Tags as taggers write them: 2.2 to 2.4, cut off, with sizes of two kinds."""

from __future__ import annotations

import zlib

import pytest

from services.fetcher.media import id3
from services.fetcher.media.id3 import Tags


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def tag(*frames: tuple[str, bytes], plain: bool = False, padding: int = 0) -> bytes:
    """Make a tag of version 2.4, with frame sizes as the standard has them or as plain numbers."""
    body = b""
    for name, text in frames:
        size = len(text).to_bytes(4, "big") if plain else synchsafe(len(text))
        body += name.encode() + size + b"\0\0" + text
    body += bytes(padding)
    return b"ID3\x04\0\0" + synchsafe(len(body)) + body


@pytest.mark.parametrize("padding", [0, 40])
@pytest.mark.parametrize("plain", [False, True], ids=["synchsafe", "plain"])
@pytest.mark.parametrize("letters", [5, 126, 127, 128, 200, 255, 256, 300])
def test_titles_of_any_length_are_read_whichever_way_their_size_is_written(
    letters: int, plain: bool, padding: int
) -> None:
    made = tag(("TIT2", b"\x03" + b"a" * letters), ("TPE1", b"\x03Miles"), plain=plain, padding=padding)
    assert id3.read(made) == Tags(None, "a" * letters, "Miles")


def test_a_tag_that_is_cut_off_gives_what_is_there() -> None:
    made = tag(("TIT2", b"\x03So What"), ("TPE1", b"\x03Miles"))
    assert id3.read(made[:-3]) == Tags(None, "So What", "Mi")


def test_a_compressed_frame_is_never_expanded() -> None:
    packed = zlib.compress(b"\x03" + bytes(10_000_000))
    body = b"TIT2" + synchsafe(len(packed) + 4) + b"\0\x09" + bytes(4) + packed
    assert id3.read(b"ID3\x04\0\0" + synchsafe(len(body)) + body) == Tags()
