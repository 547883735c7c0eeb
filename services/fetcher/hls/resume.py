"""Where a stream is heard again: decided once, from a resume point and the first list that tells, before any download.

Pure. What the reader then does with it is reader.py's business. Start at `decide`.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.fetcher.events import ResumePoint
from services.fetcher.hls.playlist import MediaPlaylist
from services.fetcher.hls.reload import finished, forgets, too_far
from services.fetcher.segment import Segment
from services.fetcher.timeline.resume_point import Entry, LastHeard, ended_place, entries_of, last_heard, name_of

SAME_DATE_S = 1.0
"""Dates of one segment in two lists differ by less than this."""
LONGEST_AWAY_S = 62 * 86_400.0
"""Numbers that say that more is missing than this are another numbering, not a very long absence."""


@dataclass(frozen=True)
class Resume:
    """How to go on.

    Attributes:
        entries: where decoding of the resume point's epoch can begin, best first; with none, that epoch is over.
        until: media sequence of the resume point's own segment; up to it nothing may be skipped.
        next: media sequence to go on with where that epoch is over; None: this list continues nothing that was heard.
        missing_s: what lies between the resume point and `next`, by the list.
        cause: why that is missing, in one word.
    """

    entries: tuple[Entry, ...] = ()
    until: int = 0
    next: int | None = None
    missing_s: float = 0.0
    cause: str = "expired"


ANOTHER = Resume()
"""The encoder restarted: hear the list as one that was never met."""


def decide(point: ResumePoint, playlist: MediaPlaylist, start_targets: float, behind_limit_s: float) -> Resume | None:
    """Say where to go on; None where this list can't tell yet, being empty or older than what was heard.

    A segment is the one that was heard only where media sequence and name are the same, or media sequence and date
    where both have one. Further than `behind_limit_s` behind the live start point nothing of the old epoch is heard
    again: the list is joined near its end, by the rule that holds for every live stream.
    """
    segments, heard = playlist.segments, last_heard(point)
    if not segments and not finished(playlist):
        return None
    if not segments or heard is None:
        return ANOTHER
    at, first, last = heard.media_sequence, segments[0].media_sequence, segments[-1].media_sequence
    if first <= at <= last:
        found = segments[at - first]
        if not _same(found, heard):
            return ANOTHER
        missing_s = 0.0 if heard.whole else found.duration
        if too_far(playlist, at - first + heard.whole, start_targets, behind_limit_s):
            return Resume(until=at, next=at + 1, missing_s=missing_s, cause="behind")
        entries = () if heard.whole else _usable(entries_of(point), playlist, at, behind_limit_s)
        return Resume(entries, at, at + 1, missing_s)
    if first > at:
        # As long as those that are listed: a target duration can be far longer than any segment.
        missing_s = (first - at - heard.whole) * sum(segment.duration for segment in segments) / len(segments)
        date = segments[0].program_date_time
        if date is not None and heard.date is not None:
            missing_s = date - heard.date
        return Resume(next=first, missing_s=missing_s) if 0 <= missing_s <= LONGEST_AWAY_S else ANOTHER
    if not any(_is(segments, first, entry) for entry in entries_of(point)):
        return ANOTHER
    return Resume(until=at, next=at + 1) if finished(playlist) else None


def has_more(point: ResumePoint | None, playlist: MediaPlaylist) -> bool:
    """Say whether a list that was heard to its end has anything else by now.

    The same last number with the same duration is no news, whatever the name: some servers put a token into it.
    """
    if not finished(playlist):
        return True
    if not playlist.segments:
        return False
    if point is None or (heard := last_heard(point)) is None:
        return True
    last = playlist.segments[-1]
    alike = name_of(last.uri) == heard.name or (heard.duration is not None and last.duration == heard.duration)
    return not (last.media_sequence == heard.media_sequence and alike)


def end_point(epoch: int, end_sample: int, playlist: MediaPlaylist) -> ResumePoint:
    """Return the resume point of a stream that was heard to its end: behind the last segment of its list."""
    last = playlist.segments[-1] if playlist.segments else None
    place = ended_place(last.media_sequence, last.uri, last.program_date_time, last.duration) if last else {}
    return ResumePoint(epoch, end_sample, end_sample, place)


def _same(segment: Segment, heard: LastHeard) -> bool:
    """Say whether a listed segment of the right media sequence is the one that was heard."""
    if segment.program_date_time is not None and heard.date is not None:
        return abs(segment.program_date_time - heard.date) < SAME_DATE_S
    return name_of(segment.uri) == heard.name


def _is(segments: tuple[Segment, ...], first: int, entry: Entry) -> bool:
    """Say whether a list holds an entry's segment."""
    index = entry.media_sequence - first
    return 0 <= index < len(segments) and name_of(segments[index].uri) == entry.name


def _usable(entries: list[Entry], playlist: MediaPlaylist, at: int, behind_limit_s: float) -> tuple[Entry, ...]:
    """Return the entries from which the way to segment `at` is listed; on a live list it must not be long."""
    segments = playlist.segments
    first = segments[0].media_sequence
    usable = []
    for entry in entries:
        index = entry.media_sequence - first
        if entry.media_sequence > at or not _is(segments, first, entry):
            continue
        if forgets(playlist) and sum(s.duration for s in segments[index : at - first]) > behind_limit_s:
            continue
        usable.append(entry)
    return tuple(usable)
