"""What plays: told in order, once, and however many titles a segment brings, a bounded number of times."""

from __future__ import annotations

from services.fetcher.events import Report, Track
from services.fetcher.media.id3 import Tags
from services.fetcher.timeline.tracks import MOST_WAITING, NowPlaying


def test_thousands_of_titles_in_one_segment_are_bounded_and_said() -> None:
    playing = NowPlaying()
    for number in range(20_000):
        playing.note(Tags(title=f"title {number}"), number)
    told = list(playing.tell(0))
    report, tracks = told[0], told[1:]
    assert isinstance(report, Report) and report.numbers == {"passed_over": 20_000 - MOST_WAITING}
    assert [track.title for track in tracks if isinstance(track, Track)] == [
        f"title {number}" for number in range(20_000 - MOST_WAITING, 20_000)
    ]
    assert list(playing.tell(0)) == []


def test_a_title_is_told_once_and_before_a_resume_point_only_the_last_one() -> None:
    playing = NowPlaying()
    for title in ("one", "one", "two"):
        playing.note(Tags(title=title, artist="x"), 5)
    playing.swallow()
    assert list(playing.tell(7)) == [Track(7, "two", "x")]
