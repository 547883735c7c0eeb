"""What a reloaded playlist means: what is new, what was missed, whether the encoder restarted.

Pure, without a clock of its own. RFC 8216 section 6.3 gives the pace and the start point; the rest are this project's
stated rules (docs/streams.md). Start at `PlaylistFollower.update`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from services.fetcher.hls.playlist import MediaPlaylist
from services.fetcher.segment import Segment
from services.fetcher.timeline.resume_point import name_of


@dataclass(frozen=True)
class Skip:
    """Segments that will not be heard: how long they last by the list, how many, and why (one word)."""

    cause: str
    segments: int
    duration_s: float


@dataclass(frozen=True)
class Update:
    """What a playlist brings.

    Attributes:
        segments: to hear next, in order.
        skipped: what was passed over before them.
        restarted: the encoder restarted, in words; nothing continues.
        stale: the list is an older one than what was seen, and says nothing new.
        fresh: something was in it that was not in the one before.
    """

    segments: tuple[Segment, ...]
    skipped: Skip | None = None
    restarted: str | None = None
    stale: bool = False
    fresh: bool = False


def start_index(playlist: MediaPlaylist, targets: float) -> int:
    """Return the index of the segment to begin with: EXT-X-START, else near the edge of a live list, else the first.

    RFC 8216 6.3.3: not less than three target durations before the end of a live list.
    """
    segments = playlist.segments
    if not segments:
        return 0
    total = sum(segment.duration for segment in segments)
    edge_s = max(targets * playlist.target_duration, playlist.hold_back or 0.0)
    if playlist.time_offset is not None:
        offset = playlist.time_offset
        begin_s = total + offset if offset < 0 else offset
        if forgets(playlist):
            begin_s = min(begin_s, total - edge_s)
    elif forgets(playlist):
        begin_s = total - edge_s
    else:
        return 0
    at = 0.0
    for index, segment in enumerate(segments):
        at += segment.duration
        if at > begin_s + 1e-6:
            return index
    return len(segments) - 1


def forgets(playlist: MediaPlaylist) -> bool:
    """Say whether old segments leave the list: a live list that is neither EVENT nor VOD."""
    return not playlist.endlist and playlist.playlist_type is None


def finished(playlist: MediaPlaylist) -> bool:
    """Say whether nothing will be added: EXT-X-ENDLIST, or VOD, which must not change (RFC 8216, 4.3.3.5)."""
    return playlist.endlist or playlist.playlist_type == "VOD"


def reload_after_s(playlist: MediaPlaylist, fresh: bool, shortest_s: float = 0.5) -> float:
    """Return the time from the begin of one load to the next: a target duration, half of it where nothing changed.

    A list shorter than three target durations loses segments between two loads at that pace: there the segments' own
    length counts, and at most half of what is listed.
    """
    lengths = [segment.duration for segment in playlist.segments if segment.duration > 0]
    pace = playlist.target_duration
    if lengths and sum(lengths) < 3 * pace:
        pace = min(pace, max(lengths), sum(lengths) / 2)
    return max(pace * (1.0 if fresh else 0.5), shortest_s)


_numbers = itertools.count()
GOLDEN_RATIO = 0.618033988749895
"""Steps of this share of a whole, wrapped around, lie evenly however many are taken (Weyl, 1916)."""
STEP = 0.25
"""By so much of a target duration a reload is put off at most."""


def turn() -> float:
    """Return a stream's own share of a target duration, 0 to 1: the first of a process has 0, all lie evenly."""
    return next(_numbers) * GOLDEN_RATIO % 1.0


def apart_s(playlist: MediaPlaylist, left: float) -> float:
    """Return by how much to put off the next reload, so that streams begun together do not load together for ever.

    A hundred segments at the same moment are a queue of seconds, and the machine idles until the next. It comes in
    steps, so that no audio is late by more; nothing where the list does not forget (there is no pace to keep) or is too
    short to leave time for it.

    Args:
        left: what is left of the stream's turn, in target durations.
    """
    listed_s = sum(segment.duration for segment in playlist.segments)
    if not forgets(playlist) or listed_s < 3 * playlist.target_duration:
        return 0.0
    return min(left, STEP) * playlist.target_duration


def too_far(playlist: MediaPlaylist, index: int, start_targets: float, behind_limit_s: float) -> bool:
    """Say whether a segment is further before the start point than a live stream may be."""
    if not forgets(playlist):
        return False
    edge = start_index(playlist, start_targets)
    return sum(segment.duration for segment in playlist.segments[index:edge]) > behind_limit_s


class PlaylistFollower:
    """Follows a list through its reloads; keeps which segment is next.

    Args:
        start_targets: live start point, in target durations before the end.
        behind_limit_s: further behind the start point than this, skip to it.
    """

    def __init__(self, start_targets: float, behind_limit_s: float) -> None:
        self.start_targets, self.behind_limit_s = start_targets, behind_limit_s
        self.next: int | None = None
        self._until = -1
        self._seen: dict[int, Segment] = {}
        self._seen_at: float = 0.0

    def begin_at(self, media_sequence: int, until: int | None = None) -> None:
        """Set the segment to hear next; for a resume point.

        Args:
            until: up to this media sequence nothing is skipped, however far behind it is.
        """
        self.next, self._until = media_sequence, until if until is not None else media_sequence - 1

    def take(self, segment: Segment) -> None:
        """Note that a segment is being heard."""
        self.next = segment.media_sequence + 1

    def update(self, playlist: MediaPlaylist, now: float, patient: bool = False) -> Update:
        """Compare a list with what was seen, and say what to hear.

        Args:
            now: monotonic time in seconds, to judge whether a jump of the numbers is possible.
            patient: a list that goes backwards is taken as the encoder's restart, however alike it looks.
        """
        segments = playlist.segments
        if self.next is None:
            if not segments:
                return Update(())
            self._remember(playlist, now)
            first = start_index(playlist, self.start_targets)
            self.next = segments[first].media_sequence
            return Update(segments[first:], fresh=True)
        if not segments:
            return Update(())
        if self._seen and (reason := self._restart(playlist, now, patient)):
            self._seen.clear()
            self._remember(playlist, now)
            first = start_index(playlist, self.start_targets) if self._too_far(playlist, 0) else 0
            self.next = segments[first].media_sequence
            return Update(segments[first:], restarted=reason, fresh=True)
        newest = max(self._seen, default=self.next - 1)
        last = segments[-1].media_sequence
        if last < newest:
            return Update(tuple(s for s in segments if s.media_sequence >= self.next), stale=True)
        fresh = last > newest
        known = dict(self._seen)
        self._remember(playlist, now)
        wanted = [index for index, s in enumerate(segments) if s.media_sequence >= self.next]
        if not wanted:
            return Update((), fresh=fresh)
        first = wanted[0]
        expired = segments[first].media_sequence - self.next
        skipped_s = 0.0
        cause = "behind"
        if expired:
            cause = "expired"
            gone = range(self.next, segments[first].media_sequence)
            # As long as those that are listed: a target duration can be far longer than any segment.
            usual_s = sum(segment.duration for segment in segments) / len(segments)
            if expired <= 100_000:
                skipped_s = sum(known[n].duration if n in known else usual_s for n in gone)
            else:
                skipped_s = expired * usual_s
        run_up = segments[first].media_sequence <= self._until
        if forgets(playlist) and not run_up and (expired or self._too_far(playlist, first)):
            edge = max(start_index(playlist, self.start_targets), first)
            skipped_s += sum(s.duration for s in segments[first:edge])
            expired += edge - first
            first = edge
        skipped = Skip(cause, expired, skipped_s) if expired else None
        return Update(segments[first:], skipped, fresh=fresh)

    def _too_far(self, playlist: MediaPlaylist, index: int) -> bool:
        return too_far(playlist, index, self.start_targets, self.behind_limit_s)

    def _restart(self, playlist: MediaPlaylist, now: float, patient: bool) -> str | None:
        """Say in words why this list can't be a later state of the one seen, or None."""
        segments = playlist.segments
        first, last = segments[0].media_sequence, segments[-1].media_sequence
        oldest, newest = min(self._seen), max(self._seen)
        overlap = [s for s in segments if s.media_sequence in self._seen]
        back = first < oldest or last < newest
        if overlap and all(_differs(s, self._seen[s.media_sequence], back) for s in overlap):
            return f"segment {overlap[0].media_sequence} is another one than before"
        if last < oldest or (patient and last < newest):
            return f"media sequence went back from {newest} to {last}"
        ahead = first - newest - 1
        elapsed_s = now - self._seen_at
        length_s = sum(s.duration for s in segments)
        if ahead > 2 and ahead * playlist.target_duration > 3 * (elapsed_s + length_s) + 60:
            return f"media sequence jumped from {newest} to {first}, more than the time that passed"
        return None

    def _remember(self, playlist: MediaPlaylist, now: float) -> None:
        """Keep the list's segments, to recognise them in the next one."""
        self._seen = {segment.media_sequence: segment for segment in playlist.segments}
        self._seen_at = now


def _differs(new: Segment, old: Segment, back: bool) -> bool:
    """Say whether two segments of the same number are different media.

    By their dates where both have one. By file name only in a list that went back, or together with the duration:
    some servers put a new token into every name.
    """
    if new.program_date_time is not None and old.program_date_time is not None:
        return abs(new.program_date_time - old.program_date_time) > 60.0
    return name_of(new.uri) != name_of(old.uri) and (back or abs(new.duration - old.duration) > 0.01)
