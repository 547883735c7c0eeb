"""Takes sounds out of two games' own archives, so that tools/sound_set.py finds files.

Start at `unpack`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_PAGE, _BEGINS, _ENDS = 27, 2, 4
"""Bytes of an Ogg page's header before its table of segments, and the flags of a stream's first and last page."""


def unpack(packages: Path) -> None:
    """Write the sounds of OpenTTD's opensfx and GCompris' animals beside their archives, as files."""
    for archive in packages.glob("openttd-opensfx/**/opensfx.cat"):
        for number, sound in enumerate(_of_openttd(archive.read_bytes())):
            (archive.parent / f"{number:03}.wav").write_bytes(sound)
    for archive in packages.glob("gcompris-qt-data/**/explore_farm_animals.rcc"):
        for number, sound in enumerate(_oggs(archive.read_bytes())):
            (archive.parent / f"farm_animal_{number:03}.ogg").write_bytes(sound)


def _of_openttd(content: bytes) -> Iterator[bytes]:
    """Yield the WAV files of a .cat: a table of places and lengths, and before each file its name."""
    (first,) = struct.unpack_from("<I", content)
    for number in range((first & 0x7FFF_FFFF) // 8):
        place, length = struct.unpack_from("<II", content, 8 * number)
        start = (place & 0x7FFF_FFFF) + content[place & 0x7FFF_FFFF] + 1
        yield content[start : start + length]


def _oggs(content: bytes) -> Iterator[bytes]:
    """Yield the Ogg streams that lie uncompressed in a file, one page after another."""
    place, made = content.find(b"OggS"), b""
    while 0 <= place <= len(content) - _PAGE:
        flags, segments = content[place + 5], content[place + 26]
        end = place + _PAGE + segments + sum(content[place + _PAGE : place + _PAGE + segments])
        made = content[place:end] if flags & _BEGINS else made + content[place:end]
        if flags & _ENDS:
            yield made
        place = content.find(b"OggS", end)
