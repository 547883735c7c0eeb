"""What stands in a bookmark's `place`: where decoding of its epoch can begin again, as JSON values.

Written by epochs.py, read by listener.py. A bookmark comes back from a file, so everything in it is doubted.
Start at `Entry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.fetcher.heard import SAMPLE_RATE, Bookmark

# Segments of a running epoch from which a live stream can be taken up again, and what their names may cost.
MOST_ENTRIES = 12
NAME_LETTERS = 80


@dataclass(frozen=True)
class Entry:
    """A place where decoding of an epoch can begin.

    Attributes:
        media_sequence, name: which segment.
        native: native samples of the epoch before it; 0 at the epoch's start, where everything is bit-exact.
        packet: audio packets of the segment to leave out, where the epoch began in mid-segment.
    """

    media_sequence: int
    name: str
    native: int
    packet: int = 0


def name_of(uri: str) -> str:
    """Return the last part of a URI's path: what stays when hosts rotate and tokens expire."""
    return uri.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2][-NAME_LETTERS:]


def place(entries: Iterable[Entry], segment: int, first: int, pts_s: float | None, wraps: bool) -> dict[str, object]:
    """Make the place of a bookmark.

    Args:
        entries: the epoch's start and its latest segments.
        segment: media sequence of the segment that gave the sample.
        first: timeline position that pts_s belongs to.
        pts_s: media time there, in seconds.
        wraps: whether that clock has 33 bits.
    """
    listed = [[entry.media_sequence, entry.name, entry.native, entry.packet] for entry in entries]
    return {"entries": listed, "segment": segment, "first": first, "pts_s": pts_s, "wraps": wraps}


def entries_of(bookmark: Bookmark) -> list[Entry]:
    """Read the entries of a bookmark; one that makes no sense has none."""
    entries = []
    listed = bookmark.place.get("entries")
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, list) and len(item) == 4 and isinstance(item[1], str):
            sequence, name, native, packet = item
            if all(isinstance(n, int) for n in (sequence, native, packet)) and native >= 0 and packet >= 0:
                entries.append(Entry(sequence, name, native, packet))
    return entries


def segment_of(bookmark: Bookmark) -> int | None:
    """Return the media sequence of the bookmark's segment."""
    segment = bookmark.place.get("segment")
    return segment if isinstance(segment, int) else None


def media_time_s(bookmark: Bookmark) -> tuple[float | None, bool]:
    """Return the media time of the bookmark's first sample, and whether that clock wraps at 33 bits."""
    pts_s, first = bookmark.place.get("pts_s"), bookmark.place.get("first")
    wraps = bool(bookmark.place.get("wraps", True))
    if isinstance(pts_s, (int, float)) and isinstance(first, int):
        return float(pts_s) + (bookmark.first_sample - first) / SAMPLE_RATE, wraps
    return None, wraps
