"""What a reloaded list leaves out, completed by the load before it: maps, keys, numbers of discontinuities.

Pure. What is new in it, and what was missed, is reload.py. Start at `continued`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.fetcher.hls.playlist import MediaPlaylist
from services.fetcher.segment import Segment


def continued(playlist: MediaPlaylist, before: MediaPlaylist | None) -> MediaPlaylist:
    """Complete a reloaded list by what the one before it said.

    Where its numbers contradict its names, the names count: some servers write no EXT-X-MEDIA-SEQUENCE, or a wrong one.
    What EXT-X-SKIP leaves out keeps its map and its key. A segment that both list keeps its discontinuity number:
    many servers never write EXT-X-DISCONTINUITY-SEQUENCE, and the number then falls when a discontinuity leaves.
    """
    if before is None or not before.segments or not playlist.segments:
        return playlist
    known = {segment.media_sequence: segment for segment in before.segments}
    shift = _shift(playlist.segments, known, before.renumbered)
    segments = [replace(s, media_sequence=s.media_sequence + shift) if shift else s for s in playlist.segments]
    if playlist.skipped and (last := known.get(segments[0].media_sequence - 1)):
        for index, segment in enumerate(segments):
            segments[index] = replace(
                segment,
                map=last.map if index < playlist.unmapped else segment.map,
                key=last.key if index < playlist.unkeyed else segment.key,
            )
    same = next((s for s in segments if _same(known.get(s.media_sequence), s)), None)
    if same is not None:
        more = known[same.media_sequence].discontinuity_sequence - same.discontinuity_sequence
        if more:
            segments = [replace(s, discontinuity_sequence=s.discontinuity_sequence + more) for s in segments]
    return replace(playlist, segments=tuple(segments), renumbered=shift)


def _shift(segments: Sequence[Segment], known: Mapping[int, Segment], before: int) -> int:
    """Return what to add to a list's numbers, so that what it has in common with the one before has the same ones.

    Args:
        known: the segments of the one before, by number.
        before: what was added to the numbers of that one.
    """
    if any(_same(known.get(s.media_sequence + before), s) for s in segments):
        return before
    if not any(s.media_sequence + before in known for s in segments):
        return before
    numbers = {_path(segment): number for number, segment in known.items()}
    shift = next((numbers[_path(s)] - s.media_sequence for s in segments if _path(s) in numbers), before)
    twice = [s for s in segments if s.media_sequence + shift in known]
    return shift if all(_same(known[s.media_sequence + shift], s) for s in twice) else before


def _path(segment: Segment) -> str:
    """Return a segment's URI without its query, where tokens stand."""
    return segment.uri.partition("?")[0]


def _same(before: Segment | None, segment: Segment) -> bool:
    """Say whether two segments of a number have one path."""
    return before is not None and _path(before) == _path(segment)
