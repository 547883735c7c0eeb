"""Finished pieces as endless radio: what a live playlist holds at a given moment, as a function of the clock alone.

No state: a restarted origin goes on where it would have been, and every listener sees the same numbers.
Start at `live_playlist`; RFC 8216, 6.2.2, is the rule for the two sequence numbers.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urljoin

import m3u8

WINDOW_SEGMENTS = 6


@dataclass(frozen=True)
class LoopSegment:
    """One segment of a loop: paths on the origin of it and its init section, length, title, does a piece begin."""

    path: str
    init: str | None
    seconds: float
    title: str
    starts_piece: bool


@dataclass(frozen=True)
class Loop:
    """Segments that follow each other for ever; ends[i] is when segment i ends, in seconds from the start."""

    segments: tuple[LoopSegment, ...]
    ends: tuple[float, ...]

    @property
    def pieces(self) -> int:
        """Number of pieces, that is of discontinuities in one round."""
        return sum(segment.starts_piece for segment in self.segments)


def read_loop(folder: Path, playlists: Sequence[Path]) -> Loop:
    """Read media playlists (or the first variant of multivariant ones) below folder as one loop.

    Raises:
        ValueError: one of them holds no segments.
    """
    segments: list[LoopSegment] = []
    for file in playlists:
        path = file.relative_to(folder).as_posix()
        listed = m3u8.loads(file.read_text(encoding="utf-8"))
        if listed.is_variant and listed.playlists:
            path = urljoin(path, listed.playlists[0].uri)
            listed = m3u8.loads((folder / path).read_text(encoding="utf-8"))
        if not listed.segments or not all(segment.duration for segment in listed.segments):
            raise ValueError(f"{path} holds no segments")
        for index, segment in enumerate(listed.segments):
            init = urljoin("/" + path, segment.init_section.uri) if segment.init_section else None
            starts = index == 0 or bool(segment.discontinuity)
            title = " ".join((segment.title or "").split())
            segments.append(LoopSegment(urljoin("/" + path, segment.uri), init, segment.duration, title, starts))
    return Loop(tuple(segments), tuple(itertools.accumulate(segment.seconds for segment in segments)))


def live_playlist(loop: Loop, now: float, window: int = WINDOW_SEGMENTS) -> str:
    """Return the media playlist that a live origin would serve at Unix time now: the last finished segments.

    Round r of the loop starts at Unix time r x (length of the loop). A segment is listed once it is over.
    """
    count, length = len(loop.segments), loop.ends[-1]
    rounds, place = divmod(now, length)
    finished = int(rounds) * count + bisect.bisect_right(loop.ends, place)
    first = max(0, finished - window)
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{6 if loop.segments[0].init else 3}",
        f"#EXT-X-TARGETDURATION:{max(1, *(int(segment.seconds + 0.5) for segment in loop.segments))}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{_discontinuities_before(loop, first)}",
    ]
    init = None
    for number in range(first, finished):
        rounds, index = divmod(number, count)
        segment = loop.segments[index]
        if segment.starts_piece:
            lines.append("#EXT-X-DISCONTINUITY")
        if segment.init and (segment.init != init or segment.starts_piece):
            lines.append(f'#EXT-X-MAP:URI="{segment.init}"')
            init = segment.init
        begins = datetime.fromtimestamp(rounds * length + loop.ends[index] - segment.seconds, tz=timezone.utc)
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{begins.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}")
        lines += [f"#EXTINF:{segment.seconds:.6f},{segment.title}", segment.path]
    return "\n".join([*lines, ""])


def _discontinuities_before(loop: Loop, number: int) -> int:
    """Count the DISCONTINUITY tags of all segments before media sequence `number`."""
    rounds, index = divmod(number, len(loop.segments))
    return rounds * loop.pieces + sum(segment.starts_piece for segment in loop.segments[:index])
