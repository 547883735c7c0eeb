"""Where a stream is heard again: the decision alone, which is made before anything is downloaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.fetcher.events import ResumePoint
from services.fetcher.hls.playlist import MediaPlaylist, parse
from services.fetcher.hls.resume import ANOTHER, decide, end_point, has_more
from services.fetcher.timeline.resume_point import Entry, place
from tests.fetcher.builders import media_playlist

DATE = 1_790_000_000.0


def listed(first: int, count: int, name: str = "s{}.ts", end: bool = False, **more: object) -> MediaPlaylist:
    names = [name.format(number) for number in range(first, first + count)]
    playlist = parse(media_playlist(names, first=first, end=end, **more), "http://h/list.m3u8")  # type: ignore[arg-type]
    assert isinstance(playlist, MediaPlaylist)
    return playlist


def point(at: int, first_entry: int | None = None, name: str = "s{}.ts", date: float | None = None) -> ResumePoint:
    """A resume point in segment `at` of an epoch that began with segment `first_entry`."""
    numbers = range(at if first_entry is None else first_entry, at + 1)
    entries = [Entry(number, name.format(number), 88_200 * index) for index, number in enumerate(numbers)]
    return ResumePoint(2, 1_000, 50_000, place(entries, at, 50_000, 3.0, True, date))


def dated(playlist: MediaPlaylist, first: float) -> MediaPlaylist:
    segments = [replace(s, program_date_time=first + 2.0 * i) for i, s in enumerate(playlist.segments)]
    return replace(playlist, segments=tuple(segments))


def entries(resume: object) -> list[int]:
    return [entry.media_sequence for entry in resume.entries]  # type: ignore[attr-defined]


def test_a_listed_segment_is_gone_back_to_with_a_run_up_from_the_epochs_start() -> None:
    resume = decide(point(5, 2), listed(0, 8), 3.0, 60.0)
    assert resume is not None and entries(resume) == [2, 3, 4, 5] and (resume.until, resume.next) == (5, 6)


def test_too_far_behind_is_decided_before_a_place_is_chosen() -> None:
    resume = decide(point(5), listed(0, 70), 3.0, 60.0)
    assert resume is not None and not resume.entries
    assert (resume.next, resume.missing_s, resume.cause) == (6, 2.0, "behind")


@pytest.mark.parametrize("kind", ["VOD", "EVENT"])
def test_a_list_that_keeps_everything_is_never_too_far_behind(kind: str) -> None:
    resume = decide(point(5), listed(0, 70, head=f"#EXT-X-PLAYLIST-TYPE:{kind}"), 3.0, 60.0)
    assert resume is not None and entries(resume) == [5]


def test_a_run_up_on_a_live_list_is_no_longer_than_what_may_be_behind() -> None:
    resume = decide(point(65, 0), listed(0, 70), 3.0, 20.0)
    assert resume is not None and entries(resume)[0] == 55


@pytest.mark.parametrize(
    "playlist",
    [listed(0, 8, "other{}.ts"), listed(0, 4, "other{}.ts"), dated(listed(0, 8), DATE + 500.0)],
    ids=["other names", "other names, numbers begun anew", "same names on another day"],
)
def test_a_segment_is_never_taken_for_another_one(playlist: MediaPlaylist) -> None:
    assert decide(point(5, 2, date=DATE), playlist, 3.0, 60.0) is ANOTHER


def test_a_date_tells_a_segment_whose_name_holds_a_new_token() -> None:
    resume = decide(point(5, date=DATE + 10.0), dated(listed(0, 8, "{}-token.ts"), DATE), 3.0, 60.0)
    assert resume is not None and (resume.next, resume.missing_s) == (6, 2.0)


def test_what_left_the_list_is_missing_by_number_or_by_date() -> None:
    resume = decide(point(5), listed(20, 8), 3.0, 60.0)
    assert resume is not None and (resume.next, resume.missing_s, resume.cause) == (20, 30.0, "expired")
    resume = decide(point(5, date=DATE), dated(listed(20, 8), DATE + 45.0), 3.0, 60.0)
    assert resume is not None and (resume.next, resume.missing_s) == (20, 45.0)


@pytest.mark.parametrize("first", [1_790_000_000, 10_000_000])
def test_numbers_that_mean_months_are_another_numbering(first: int) -> None:
    assert decide(point(5), listed(first, 8), 3.0, 60.0) is ANOTHER


def test_an_empty_or_older_list_cannot_tell_yet() -> None:
    assert decide(point(5), listed(0, 0), 3.0, 60.0) is None
    assert decide(point(5, 2), listed(0, 4), 3.0, 60.0) is None
    assert decide(point(5, 2), listed(0, 1), 3.0, 60.0) is ANOTHER, "nothing in it was heard"


def test_an_ended_list_that_lost_its_tail_has_nothing_more() -> None:
    resume = decide(point(5, 2), listed(0, 4, end=True), 3.0, 60.0)
    assert resume is not None and (resume.entries, resume.next, resume.missing_s) == ((), 6, 0.0)


def test_behind_the_end_of_a_list_nothing_is_missing() -> None:
    end = end_point(2, 99_000, listed(0, 6, end=True))
    resume = decide(end, listed(0, 8), 3.0, 60.0)
    assert resume is not None and (resume.entries, resume.next, resume.missing_s) == ((), 6, 0.0)
    resume = decide(end, listed(8, 8), 3.0, 60.0)
    assert resume is not None and (resume.next, resume.missing_s) == (8, 4.0)


def test_a_list_that_ended_has_more_only_where_it_says_so() -> None:
    heard = listed(0, 6, end=True)
    end = end_point(2, 99_000, heard)
    assert not has_more(end, heard)
    assert not has_more(end, listed(0, 6, "{}-token.ts", end=True)), "new tokens in the names are no news"
    assert has_more(end, listed(0, 6)), "ENDLIST is gone"
    assert has_more(end, listed(0, 7, end=True)) and has_more(end, listed(100, 6, end=True))
    assert has_more(point(3), heard), "a point of before the end"


@pytest.mark.parametrize("strange", [{}, {"entries": "x", "segment": 5}, {"entries": [[5, "s5.ts", 0, 0]]}])
def test_a_place_that_makes_no_sense_is_another_list(strange: dict[str, object]) -> None:
    assert decide(ResumePoint(0, 0, 0, strange), listed(0, 8), 3.0, 60.0) is ANOTHER
