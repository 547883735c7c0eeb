"""What a reloaded list means, by the stated rules; pure, the clock is a number."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.fetcher.hls.playlist import MediaPlaylist, parse
from services.fetcher.hls.reload import (
    PlaylistFollower,
    Update,
    apart_s,
    finished,
    forgets,
    reload_after_s,
    start_index,
    turn,
)
from tests.fetcher.builders import media_playlist


def listed(first: int, count: int, name: str = "s{}.ts", end: bool = False, **more: object) -> MediaPlaylist:
    names = [name.format(number) for number in range(first, first + count)]
    playlist = parse(media_playlist(names, first=first, end=end, **more), "http://h/list.m3u8")  # type: ignore[arg-type]
    assert isinstance(playlist, MediaPlaylist)
    return playlist


def numbers(update: Update) -> list[int]:
    return [segment.media_sequence for segment in update.segments]


def heard(follower: PlaylistFollower, playlist: MediaPlaylist, now: float) -> Update:
    """Update and take every segment, as a listener that keeps up does."""
    update = follower.update(playlist, now)
    for segment in update.segments:
        follower.take(segment)
    return update


@pytest.fixture
def follower() -> PlaylistFollower:
    return PlaylistFollower(start_targets=3.0, behind_limit_s=60.0)


def test_a_live_list_starts_three_target_durations_before_its_end(follower: PlaylistFollower) -> None:
    assert numbers(follower.update(listed(10, 8), 0.0)) == [15, 16, 17]


def test_hold_back_of_the_server_moves_the_start_point() -> None:
    playlist = listed(0, 10, head="#EXT-X-SERVER-CONTROL:HOLD-BACK=12.0")
    assert start_index(playlist, 3.0) == 4


@pytest.mark.parametrize(
    ("offset", "end", "first"), [("4.5", True, 2), ("-5", True, 7), ("-100", True, 0), ("4", False, 2)]
)
def test_ext_x_start_says_where_to_begin(offset: str, end: bool, first: int) -> None:
    playlist = listed(0, 10, end=end, head=f"#EXT-X-START:TIME-OFFSET={offset}")
    assert start_index(playlist, 3.0) == first


def test_ext_x_start_too_near_the_live_edge_is_held_back() -> None:
    assert start_index(listed(0, 10, head="#EXT-X-START:TIME-OFFSET=-1"), 3.0) == 7


def test_vod_and_event_begin_at_the_beginning(follower: PlaylistFollower) -> None:
    assert start_index(listed(0, 10, end=True), 3.0) == 0
    assert start_index(listed(0, 10, head="#EXT-X-PLAYLIST-TYPE:EVENT"), 3.0) == 0


def test_a_vod_list_without_endlist_is_finished_all_the_same() -> None:
    playlist = listed(0, 3, head="#EXT-X-PLAYLIST-TYPE:VOD")
    assert finished(playlist) and not forgets(playlist)


def test_reload_takes_a_target_duration_and_half_of_it_when_nothing_changed() -> None:
    playlist = listed(0, 9, target=6)
    assert (reload_after_s(playlist, True), reload_after_s(playlist, False)) == (6.0, 3.0)
    assert reload_after_s(listed(0, 3, target=0), False) >= 0.5


@pytest.mark.parametrize("streams", [2, 10, 100])
def test_the_turns_of_streams_begun_together_lie_evenly(streams: int) -> None:
    turns = sorted(turn() for _ in range(streams))
    assert turns[0] >= 0 and turns[-1] < 1
    between = [after - before for before, after in pairwise([*turns, turns[0] + 1])]
    assert max(between) < 2.7 / streams  # of all spacings, the golden ratio's are the most even: at most phi^2


def test_a_reload_is_put_off_only_where_the_list_leaves_time_for_it() -> None:
    assert (apart_s(listed(0, 9, target=6), 0.5), apart_s(listed(0, 9, target=6), 0.1)) == (1.5, pytest.approx(0.6))
    assert apart_s(listed(0, 8, target=6), 0.5) == 0.0  # two target durations later, it would have moved on
    assert apart_s(listed(0, 9, target=6, end=True), 0.5) == 0.0
    assert apart_s(listed(0, 9, target=6, head="#EXT-X-PLAYLIST-TYPE:EVENT"), 0.5) == 0.0


def test_only_what_is_new_is_heard(follower: PlaylistFollower) -> None:
    heard(follower, listed(0, 5), 0.0)
    update = heard(follower, listed(1, 5), 2.0)
    assert numbers(update) == [5] and update.fresh and update.skipped is None
    again = heard(follower, listed(1, 5), 3.0)
    assert numbers(again) == [] and not again.fresh


def test_expired_segments_are_counted_with_their_seconds_and_the_edge_is_where_it_goes_on(
    follower: PlaylistFollower,
) -> None:
    heard(follower, listed(0, 5), 0.0)
    update = follower.update(listed(8, 5), 16.0)
    assert numbers(update) == [10, 11, 12]
    assert update.skipped is not None and (update.skipped.cause, update.skipped.segments) == ("expired", 5)
    assert update.skipped.duration_s == pytest.approx(10.0)


def test_a_listener_too_far_behind_skips_to_the_edge_and_says_what(follower: PlaylistFollower) -> None:
    follower.update(listed(0, 40), 0.0)
    follower.begin_at(1)
    update = follower.update(listed(0, 41), 2.0)
    assert numbers(update) == [38, 39, 40]
    assert update.skipped is not None and (update.skipped.cause, update.skipped.segments) == ("behind", 37)


def test_an_event_never_skips(follower: PlaylistFollower) -> None:
    event = "#EXT-X-PLAYLIST-TYPE:EVENT"
    follower.update(listed(0, 3, head=event), 0.0)
    assert numbers(follower.update(listed(0, 100, head=event), 1.0)) == list(range(100))


def test_an_older_list_from_another_cache_is_ignored(follower: PlaylistFollower) -> None:
    heard(follower, listed(5, 5), 0.0)
    update = heard(follower, listed(4, 5), 1.0)
    assert update.stale and numbers(update) == [] and update.restarted is None
    assert numbers(heard(follower, listed(6, 5), 2.0)) == [10]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (lambda: listed(0, 5), "went back"),
        (lambda: listed(98, 5, name="other{}.ts"), "another one"),
        (lambda: listed(1_700_000_000, 5), "jumped"),
    ],
)
def test_a_restarted_encoder_is_recognised(follower: PlaylistFollower, then: object, why: str) -> None:
    heard(follower, listed(100, 5), 0.0)
    update = follower.update(then(), 2.0)  # type: ignore[operator]
    assert update.restarted is not None and why in update.restarted
    assert numbers(update) and update.skipped is None


def test_rotating_names_are_no_restart(follower: PlaylistFollower) -> None:
    heard(follower, listed(10, 5, name="a{}-token1.ts"), 0.0)
    update = heard(follower, listed(11, 5, name="a{}-token2.ts"), 2.0)
    assert update.restarted is None and numbers(update) == [15]


def test_a_list_that_stays_older_is_a_restart_once_it_stalls(follower: PlaylistFollower) -> None:
    heard(follower, listed(5, 5), 0.0)
    assert follower.update(listed(3, 5), 1.0).stale
    assert follower.update(listed(3, 5), 9.0, patient=True).restarted is not None


def test_an_empty_list_changes_nothing(follower: PlaylistFollower) -> None:
    heard(follower, listed(0, 5), 0.0)
    assert heard(follower, listed(5, 0), 1.0) == Update(())
    assert numbers(heard(follower, listed(1, 5), 2.0)) == [5]


def test_a_long_outage_within_the_time_that_passed_is_no_restart(follower: PlaylistFollower) -> None:
    heard(follower, listed(0, 5), 0.0)
    update = follower.update(listed(300, 5), 600.0)
    assert update.restarted is None and update.skipped is not None and update.skipped.segments == 297


@pytest.mark.parametrize(
    ("count", "duration", "target", "pace"),
    [(3, 2.0, 2, 2.0), (8, 2.0, 3, 3.0), (4, 1.0, 10, 1.0), (1, 1.0, 1, 0.5), (2, 1.0, 1, 1.0), (3, 2.02, 3, 2.02)],
)
def test_a_short_list_is_loaded_at_the_pace_of_its_segments(
    count: int, duration: float, target: int, pace: float
) -> None:
    playlist = listed(0, count, duration=duration, target=target)
    assert reload_after_s(playlist, True, 0.1) == pytest.approx(pace)
    assert reload_after_s(playlist, False, 0.1) == pytest.approx(pace / 2)


def test_what_expired_unlisted_was_as_long_as_segments_are(follower: PlaylistFollower) -> None:
    heard(follower, listed(0, 4, duration=1.0, target=10), 0.0)
    update = follower.update(listed(7, 4, duration=1.0, target=10), 8.0)
    assert update.skipped is not None and (update.skipped.segments, update.skipped.duration_s) == (3, 3.0)
