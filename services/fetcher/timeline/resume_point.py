"""What stands in a resume point's `place`: where decoding of its epoch can begin again, as JSON values.

Written by assembler.py, read by hls/resume.py. A resume point comes back from a file, so everything in it is doubted.
Start at `Entry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import ResumePoint

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


@dataclass(frozen=True)
class LastHeard:
    """The segment that a resume point lies in.

    Attributes:
        date: its EXT-X-PROGRAM-DATE-TIME, where it had one.
        whole: the point lies behind it: the stream was heard to its end.
        duration: its EXTINF; only known where `whole`.
    """

    media_sequence: int
    name: str
    date: float | None
    whole: bool
    duration: float | None


def place(
    entries: Iterable[Entry], segment: int, first: int, pts_s: float | None, wraps: bool, date: float | None
) -> dict[str, object]:
    """Make the place of a resume point.

    Args:
        entries: the epoch's start and its latest segments.
        segment: media sequence of the segment that gave the sample.
        first: timeline position that pts_s belongs to.
        pts_s: media time there, in seconds.
        wraps: whether that clock has 33 bits.
        date: EXT-X-PROGRAM-DATE-TIME of that segment.
    """
    listed = [[entry.media_sequence, entry.name, entry.native, entry.packet] for entry in entries]
    return {"entries": listed, "segment": segment, "first": first, "pts_s": pts_s, "wraps": wraps, "date": date}


def ended_place(segment: int, uri: str, date: float | None, duration: float) -> dict[str, object]:
    """Make the place behind the last segment of a list that has ended."""
    return {
        "entries": [[segment, name_of(uri), 0, 0]],
        "segment": segment,
        "date": date,
        "whole": True,
        "duration": duration,
    }


def entries_of(resume_point: ResumePoint) -> list[Entry]:
    """Read the entries of a resume point; one that makes no sense has none."""
    entries = []
    listed = resume_point.place.get("entries")
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, list) and len(item) == 4 and isinstance(item[1], str):
            sequence, name, native, packet = item
            if all(isinstance(n, int) for n in (sequence, native, packet)) and native >= 0 and packet >= 0:
                entries.append(Entry(sequence, name, native, packet))
    return entries


def last_heard(resume_point: ResumePoint) -> LastHeard | None:
    """Return the segment of a resume point; None where its place makes no sense."""
    of = resume_point.place
    segment = of.get("segment")
    name = next((entry.name for entry in entries_of(resume_point) if entry.media_sequence == segment), None)
    if not isinstance(segment, int) or name is None:
        return None
    return LastHeard(segment, name, _number(of.get("date")), of.get("whole") is True, _number(of.get("duration")))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def media_time_s(resume_point: ResumePoint) -> tuple[float | None, bool]:
    """Return the media time of the resume point's first sample, and whether that clock wraps at 33 bits."""
    pts_s, first = resume_point.place.get("pts_s"), resume_point.place.get("first")
    wraps = bool(resume_point.place.get("wraps", True))
    if isinstance(pts_s, (int, float)) and isinstance(first, int):
        return float(pts_s) + (resume_point.first_sample - first) / SAMPLE_RATE, wraps
    return None, wraps
