"""The live view: RFC 8216's rules for a sliding window hold at every moment of the clock."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import m3u8
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.origin.live_loop import Loop, LoopSegment, live_playlist, read_loop
from services.origin.server import Origin


def loop(*pieces: tuple[float, ...]) -> Loop:
    segments, ends, clock = [], [], 0.0
    for number, piece in enumerate(pieces):
        for index, seconds in enumerate(piece):
            clock += seconds
            segments.append(LoopSegment(f"/{number}/{index}.ts", None, seconds, f"piece {number}", index == 0))
            ends.append(clock)
    return Loop(tuple(segments), tuple(ends))


LOOP = loop((6.0, 6.0, 2.5), (5.75, 1.25))


def numbered(text: str) -> dict[int, tuple[str, int, datetime]]:
    """Read a playlist: media sequence -> (uri, discontinuity sequence, wall clock)."""
    playlist = m3u8.loads(text)
    discontinuity = int(playlist.discontinuity_sequence or 0)
    found = {}
    for offset, segment in enumerate(playlist.segments):
        discontinuity += bool(segment.discontinuity)
        found[playlist.media_sequence + offset] = (segment.uri, discontinuity, segment.program_date_time)
    return found


@given(st.floats(0, 4e9), st.floats(0, 40))
@settings(max_examples=300, deadline=None)
def test_two_looks_agree_on_every_segment_and_the_window_only_moves_on(now: float, later: float) -> None:
    first, second = numbered(live_playlist(LOOP, now)), numbered(live_playlist(LOOP, now + later))
    for number in first.keys() & second.keys():
        assert first[number][:2] == second[number][:2]
        assert abs((first[number][2] - second[number][2]).total_seconds()) < 0.002
    if first:
        assert min(second) >= min(first)
        assert max(second) >= max(first)


@given(st.floats(100, 4e9))
@settings(max_examples=200, deadline=None)
def test_only_finished_segments_are_listed_and_none_is_late(now: float) -> None:
    window = numbered(live_playlist(LOOP, now))
    assert len(window) == 6
    lengths = {segment.path: segment.seconds for segment in LOOP.segments}
    ends = [started.timestamp() + lengths[uri] for uri, _, started in window.values()]
    assert ends == sorted(ends)
    assert ends[-1] <= now + 0.01
    assert now - ends[-1] <= max(lengths.values()) + 0.01


def test_each_round_begins_with_a_discontinuity() -> None:
    text = live_playlist(LOOP, 21.5 * 3 + 8.0)
    assert text.count("#EXT-X-DISCONTINUITY\n") == 3
    assert (
        "#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:01:04.500Z\n#EXTINF:6.000000,piece 0\n/0/0.ts"
        in text
    )


def test_the_first_moments_list_what_there_is() -> None:
    assert numbered(live_playlist(LOOP, 0.0)) == {}
    assert [uri for uri, _, _ in numbered(live_playlist(LOOP, 13.0)).values()] == ["/0/0.ts", "/0/1.ts"]


def test_a_shift_moves_the_window_and_the_clock_moves_it_too(packaged: Path) -> None:
    now = [50_000.0]
    served = Origin(packaged, clock=lambda: now[0])
    here, there = served.live("first", 0.0), served.live("first", 4.0)
    assert here is not None and there is not None
    assert here != there
    now[0] += 4.0
    assert served.live("first", 0.0) == there
    served.close()


def test_the_radio_plays_every_piece_in_turn(packaged: Path) -> None:
    served = Origin(packaged, clock=lambda: 0.0)
    lists = [numbered(served.live("radio", at) or "") for at in range(0, 15)]
    uris = list(dict.fromkeys(uri for listed in lists for uri, _, _ in listed.values()))
    assert uris[0] == "/first/128k/0000.ts"
    assert "/second/128k/0000.ts" in uris
    served.close()


def test_a_list_without_segments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:6\n")
    with pytest.raises(ValueError, match="holds no segments"):
        read_loop(tmp_path, [tmp_path / "empty.m3u8"])
